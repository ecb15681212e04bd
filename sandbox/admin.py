"""The admin endpoint under /admin: what a test or an operator does to the simulated market. Loopback only, no login.

Requests with a foreign Host or Origin are refused, so that no web page can reach it. Prices in JSON are rupees.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox import errors
from sandbox.app import Sandbox, endpoint
from sandbox.errors import KiteError
from sandbox.packets import Level
from sandbox.prices import Market
from sandbox.wire import now, rupees, success

_LEDGER_CHUNK = 500
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


async def status(sandbox: Sandbox, request: Request) -> Response:
    exchange = sandbox.exchange
    live = sum(1 for order in exchange.orders.values() if not order.status.is_end)
    return success(
        {
            "day": exchange.day.isoformat(),
            "paused": exchange.paused,
            "still": sandbox.config.still,
            "tick_interval": sandbox.hub.interval,
            "instruments": len(sandbox.board),
            "orders": len(exchange.orders),
            "open_orders": live,
            "trades": len(exchange.trades),
            "connections": len(sandbox.hub.connections),
            "ticks_sent": sandbox.hub.ticks_sent,
            "session": sandbox.sessions.info(),
            "uptime_seconds": round(time.monotonic() - sandbox.started, 3),
            "requests": dict(sandbox.requests),
            "limits": sandbox.limiter.info(),
            "faults": dict(sandbox.faults.fired),
        }
    )


async def set_price(sandbox: Sandbox, request: Request) -> Response:
    """`{"instrument": "NSE:INFY", "last_price": 1500.5, "bids": [[1500.4, 100, 2?]…]?, "asks": […]?}`"""
    body = await _body(request)
    market = _market(sandbox, body, needed=True)
    assert market is not None
    last = _paise(body.get("last_price"), market, "last_price")
    bids, asks = _levels(body.get("bids"), market, "bids"), _levels(body.get("asks"), market, "asks")
    _check_book(bids, asks)
    sandbox.board.set_price(market, last, now(), bids, asks)
    sandbox.hub.push(market)
    return success({"instrument": market.instrument.key, "last_price": rupees(market.last), "volume": market.volume})


async def pause(sandbox: Sandbox, request: Request) -> Response:
    sandbox.exchange.set_paused(True)
    return success({"paused": True})


async def resume(sandbox: Sandbox, request: Request) -> Response:
    sandbox.exchange.set_paused(False)
    return success({"paused": False})


async def next_fill(sandbox: Sandbox, request: Request) -> Response:
    """`{"quantity": 3, "instrument": "NSE:INFY"?}`: the next execution fills at most so many units."""
    body = await _body(request)
    quantity = body.get("quantity")
    if not isinstance(quantity, int) or quantity < 1:
        raise errors.invalid("quantity")
    market = _market(sandbox, body, needed=False)
    sandbox.exchange.cap_next_fill(quantity, market.token if market else None)
    return success({"quantity": quantity})


async def roll_day(sandbox: Sandbox, request: Request) -> Response:
    """End the trading day now; the next one begins at once. Sessions live on until 06:00 IST."""
    sandbox.exchange.roll_day_now()
    return success({"day": sandbox.exchange.day.isoformat()})


async def ledger(sandbox: Sandbox, request: Request) -> Response:
    """`?day=YYYY-MM-DD&tag=…&after=SEQ&limit=N`: every order ever accepted, oldest first, where it stands, what it filled.

    Without a limit all of them, read a chunk at a time so that ticks and orders go on meanwhile. No fault touches it.
    """
    query = request.query_params
    after, left = whole(query.get("after"), "after", 0), whole(query.get("limit"), "limit", sys.maxsize)
    rows: list[dict[str, Any]] = []
    while left > 0:
        chunk = sandbox.store.ledger(query.get("day"), query.get("tag"), after, min(left, _LEDGER_CHUNK))
        rows += chunk
        if len(chunk) < _LEDGER_CHUNK:
            break
        after, left = chunk[-1]["seq"], left - len(chunk)
        await asyncio.sleep(0)
    return success(rows)


async def request_token(sandbox: Sandbox, request: Request) -> Response:
    return success({"request_token": sandbox.sessions.mint_request_token()})


async def expire_token(sandbox: Sandbox, request: Request) -> Response:
    return success({"expired": sandbox.sessions.end()})


async def connections(sandbox: Sandbox, request: Request) -> Response:
    return success([connection.info() for connection in sandbox.hub.connections.values()])


async def tick_interval(sandbox: Sandbox, request: Request) -> Response:
    """`{"seconds": 0.02}`: time between two ticks of one instrument, until the next start."""
    seconds = (await _body(request)).get("seconds")
    if not isinstance(seconds, int | Decimal) or not Decimal("0.001") <= seconds <= 60:
        raise errors.invalid("seconds")
    sandbox.hub.interval = float(seconds)
    return success({"tick_interval": sandbox.hub.interval})


def whole(text: str | None, name: str, default: int) -> int:
    """A whole number of the query."""
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise errors.invalid(name)
    return int(text)


def local(handler: Callable[[Sandbox, Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Wrap an admin handler: loopback callers only."""

    async def guarded(sandbox: Sandbox, request: Request) -> Response:
        origin = request.headers.get("origin")
        hosts = [urlsplit(f"//{request.headers.get('host', '')}").hostname]
        hosts += [urlsplit(origin).hostname] if origin is not None else []
        if any(host not in _LOOPBACK | {sandbox.config.host} for host in hosts):
            raise KiteError(403, "PermissionException", "The admin endpoint answers loopback callers only.")
        return await handler(sandbox, request)

    return endpoint(guarded, signed_in=False)


async def json_body(request: Request) -> Any:
    """The body as JSON, fractions as Decimal; nothing is an empty object."""
    try:
        return json.loads(await request.body() or b"{}", parse_float=Decimal)
    except ValueError:
        raise errors.bad_input("The body must be JSON.") from None


async def _body(request: Request) -> dict[str, Any]:
    value = await json_body(request)
    if not isinstance(value, dict):
        raise errors.bad_input("The body must be a JSON object.")
    return value


def _market(sandbox: Sandbox, body: dict[str, Any], *, needed: bool) -> Market | None:
    name = body.get("instrument")
    if name is None and not needed:
        return None
    market = sandbox.board.find(str(name))
    if market is None:
        raise errors.invalid("instrument")
    return market


def _paise(value: Any, market: Market, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value <= 0:
        raise errors.invalid(field)
    paise = Decimal(value) * 100
    if paise % market.instrument.tick_paise:
        raise errors.off_tick(market.instrument.tick_size)
    return int(paise)


def _levels(value: Any, market: Market, field: str) -> list[Level] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > 5:
        raise errors.invalid(field)
    levels: list[Level] = []
    for row in value:
        if not isinstance(row, list) or len(row) not in {2, 3} or not all(isinstance(each, int) for each in row[1:]):
            raise errors.invalid(field)
        levels.append((_paise(row[0], market, field), int(row[1]), int(row[2]) if len(row) == 3 else 1))
    return levels


def _check_book(bids: list[Level] | None, asks: list[Level] | None) -> None:
    for name, side, sign in (("bids", bids or [], -1), ("asks", asks or [], 1)):
        ordered = sorted(side, key=lambda level: level[0] * sign)
        if side != ordered or any(quantity <= 0 for _, quantity, _ in side):
            raise errors.bad_input(f"`{name}` must list positive quantities, best price first.")
    if bids and asks and bids[0][0] >= asks[0][0]:
        raise errors.bad_input("The best bid must be below the best ask.")


routes = [
    Route("/admin/status", local(status), methods=["GET"]),
    Route("/admin/price", local(set_price), methods=["POST"]),
    Route("/admin/pause", local(pause), methods=["POST"]),
    Route("/admin/resume", local(resume), methods=["POST"]),
    Route("/admin/next-fill", local(next_fill), methods=["POST"]),
    Route("/admin/roll-day", local(roll_day), methods=["POST"]),
    Route("/admin/ledger", local(ledger), methods=["GET"]),
    Route("/admin/request-token", local(request_token), methods=["POST"]),
    Route("/admin/expire-token", local(expire_token), methods=["POST"]),
    Route("/admin/connections", local(connections), methods=["GET"]),
    Route("/admin/tick-interval", local(tick_interval), methods=["POST"]),
]
