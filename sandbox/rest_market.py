"""Routes of market data: the instrument dump, quotes, candles. Looking at a market nobody subscribes lets it move on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox import errors
from sandbox.app import Sandbox, endpoint
from sandbox.packets import Level
from sandbox.prices import Market
from sandbox.wire import IST, ist, now, rupees, success

INTERVALS = {
    # interval: (minutes a candle, most days a request)
    "minute": (1, 60),
    "3minute": (3, 100),
    "5minute": (5, 100),
    "10minute": (10, 100),
    "15minute": (15, 200),
    "30minute": (30, 200),
    "60minute": (60, 400),
    "day": (0, 2000),
}


async def instruments(sandbox: Sandbox, request: Request) -> Response:
    exchange = request.path_params.get("exchange")
    if exchange is not None and exchange not in sandbox.board.exchanges():
        raise errors.invalid("exchange")
    return Response(sandbox.board.csv(exchange), media_type="text/csv")


async def quote(sandbox: Sandbox, request: Request) -> Response:
    return _quotes(sandbox, request, 500, _full_quote)


async def ohlc(sandbox: Sandbox, request: Request) -> Response:
    def show(market: Market) -> dict[str, Any]:
        return {"instrument_token": market.token, "last_price": rupees(market.last), "ohlc": _ohlc(market)}

    return _quotes(sandbox, request, 1000, show)


async def ltp(sandbox: Sandbox, request: Request) -> Response:
    def show(market: Market) -> dict[str, Any]:
        return {"instrument_token": market.token, "last_price": rupees(market.last)}

    return _quotes(sandbox, request, 1000, show)


async def historical(sandbox: Sandbox, request: Request) -> Response:
    query, path = request.query_params, request.path_params
    if path["interval"] not in INTERVALS:
        raise errors.invalid("interval")
    token = path["token"]
    market = sandbox.board.get(int(token)) if token.isascii() and token.isdigit() else None
    if market is None:
        raise errors.bad_input("invalid token")
    minutes, most_days = INTERVALS[path["interval"]]
    start, end = _moment(query.get("from"), "from", end=False), _moment(query.get("to"), "to", end=True)
    if start > end:
        raise errors.bad_input("invalid from date")
    if end - start > timedelta(days=most_days + 1):
        raise errors.bad_input(f"interval exceeds max limit: {most_days} days")
    with_oi = query.get("oi") == "1"
    if minutes == 0:  # a day candle is a whole day, whatever the hours asked for
        start, end = start.replace(hour=0, minute=0, second=0), end.replace(hour=23, minute=59, second=59)
        end += timedelta(hours=6)
        start += timedelta(hours=6)
    bars = await sandbox.board.bars(market, start, end, minutes, now())
    candles = []
    for stamp, *prices, volume, oi in bars:
        when = datetime.fromtimestamp(stamp, IST).strftime("%Y-%m-%dT%H:%M:%S+0530")
        candle = [when, *(rupees(paise) for paise in prices), volume]
        candles.append([*candle, oi] if with_oi else candle)
    return success({"candles": candles})


def _quotes(sandbox: Sandbox, request: Request, most: int, show: Callable[[Market], dict[str, Any]]) -> Response:
    """A map keyed as asked; an unknown instrument is left out, as Kite does."""
    keys = request.query_params.getlist("i")
    if not keys:
        raise errors.missing("i")
    if len(keys) > most:
        raise errors.bad_input(f"Maximum {most} instruments are allowed in one request.")
    at = now()
    found: dict[str, Any] = {}
    for key in keys:
        market = sandbox.board.find(key)
        if market is not None:
            if not sandbox.exchange.paused:
                sandbox.board.refresh(market, at)
            found[key] = show(market)
    return success(found)


def _full_quote(market: Market) -> dict[str, Any]:
    stamp = datetime.fromtimestamp(market.exchange_s, IST)
    quote: dict[str, Any] = {"instrument_token": market.token, "timestamp": ist(stamp)}
    if market.is_index:
        net = rupees(market.last - market.close)
        return {**quote, "last_price": rupees(market.last), "net_change": net, "ohlc": _ohlc(market)}
    return {
        **quote,
        "last_trade_time": ist(datetime.fromtimestamp(market.last_trade_s, IST)),
        "last_price": rupees(market.last),
        "last_quantity": market.last_quantity,
        "buy_quantity": sum(level[1] for level in market.bids),
        "sell_quantity": sum(level[1] for level in market.asks),
        "volume": market.volume,
        "average_price": rupees(market.average),
        "oi": market.oi,
        "oi_day_high": market.oi_high,
        "oi_day_low": market.oi_low,
        "net_change": rupees(market.last - market.close),
        "lower_circuit_limit": rupees(market.lower_circuit),
        "upper_circuit_limit": rupees(market.upper_circuit),
        "ohlc": _ohlc(market),
        "depth": {"buy": _depth(market.bids), "sell": _depth(market.asks)},
    }


def _ohlc(market: Market) -> dict[str, Any]:
    names = ("open", "high", "low", "close")
    return {name: rupees(getattr(market, name)) for name in names}


def _depth(side: Sequence[Level]) -> list[dict[str, Any]]:
    levels = [*side, *([(0, 0, 0)] * (5 - len(side)))][:5]
    return [{"price": rupees(price), "quantity": quantity, "orders": orders} for price, quantity, orders in levels]


def _moment(text: str | None, name: str, *, end: bool) -> datetime:
    """`YYYY-MM-DD[ HH:MM:SS]` in IST; a bare date as `to` means its last second."""
    if not text:
        raise errors.missing(name)
    try:
        moment = datetime.fromisoformat(text.replace("+", " ", 1) if " " not in text and "T" not in text else text)
    except ValueError:
        raise errors.bad_input(f"invalid {name} date") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=IST)
    if end and len(text) == 10:
        moment += timedelta(hours=23, minutes=59, seconds=59)
    return moment


routes = [
    Route("/instruments", endpoint(instruments, signed_in=False), methods=["GET"]),
    Route("/instruments/historical/{token}/{interval}", endpoint(historical), methods=["GET"]),
    Route("/instruments/{exchange}", endpoint(instruments, signed_in=False), methods=["GET"]),
    Route("/quote", endpoint(quote), methods=["GET"]),
    Route("/quote/ohlc", endpoint(ohlc), methods=["GET"]),
    Route("/quote/ltp", endpoint(ltp), methods=["GET"]),
]
