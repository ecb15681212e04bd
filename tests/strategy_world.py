"""Small builders for bars, ticks and strategy rows. Data only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from control.plans import Plan, Planner
from core.config import Settings
from core.ids import derive_at
from core.storage.strategies import StrategyConfig
from core.trading.instruments import Instrument, InstrumentBook
from core.trading.ticks import Tick
from core.trading.types import Broker, Exchange
from strategies import registry
from strategies.base import BaseStrategy

OPEN = datetime(2026, 10, 7, 3, 45, tzinfo=UTC)
"""09:15 IST of a Wednesday."""

INFY, TCS, NIFTY = 408065, 2953217, 256265


def at(seconds: float) -> datetime:
    return OPEN + timedelta(seconds=seconds)


def make_tick(seconds: float, price: str | float, *, token: int = INFY, volume: int = 0) -> Tick:
    """A tick that many seconds after the session's open; received 50 ms later."""
    return Tick(
        instrument_token=token,
        last_price=Decimal(str(price)),
        exchange_ts=at(int(seconds)),
        received_at=at(seconds + 0.05),
        volume=volume,
    )


def tick_id(tick: Tick) -> UUID:
    return derive_at(tick.received_at, tick.instrument_token, str(tick.last_price))


def ticks_of(prices: Iterable[float], *, token: int = INFY, every_s: float = 1.0, start_s: float = 0) -> Iterator[Tick]:
    for number, price in enumerate(prices):
        yield make_tick(start_s + number * every_s, price, token=token, volume=number * 10)


def make_instrument(key: str, token: int, **changes: Any) -> Instrument:
    exchange, _, symbol = key.partition(":")
    values: dict[str, Any] = {
        "instrument_token": token,
        "exchange_token": token >> 8,
        "tradingsymbol": symbol,
        "name": symbol,
        "exchange": Exchange(exchange),
        "segment": exchange,
        "instrument_type": "EQ",
        "tick_size": Decimal("0.05"),
        "lot_size": 1,
    }
    return Instrument(**{**values, **changes})


BOOK = InstrumentBook(
    [
        make_instrument("NSE:INFY", INFY),
        make_instrument("NSE:TCS", TCS),
        make_instrument("NSE:NIFTY 50", NIFTY, segment="INDICES"),
    ]
)


def make_row(**changes: Any) -> StrategyConfig:
    values: dict[str, Any] = {
        "strategy_id": "s",
        "class_name": "Momentum",
        "parameters": {"bar_s": 5, "fast": 2, "slow": 3},
        "instruments": ("NSE:INFY",),
        "active": True,
    }
    return StrategyConfig(**{**values, **changes})


def make_settings(**changes: Any) -> Settings:
    """Settings without a file: nothing here talks to anyone."""
    secret = "x" * 16
    names = [name for name in Settings.model_fields if name.endswith("_password")]
    values: dict[str, Any] = dict.fromkeys(names, secret)
    values |= {"kite_api_key": "testkey", "kite_api_secret": secret, "kite_user_id": "AB0001"}
    values |= {"api_jwt_secret": "5a2f8c91d07be346" * 3}
    return Settings(_env_file=None, **{**values, **changes})


def make_plans(*rows: StrategyConfig, classes: Iterable[type[BaseStrategy[Any]]] = (), **settings: Any) -> list[Plan]:
    """The rows' running instances; `classes` are known beside those of the package."""
    known = registry.known() | {each.__name__: each for each in classes}
    plans, _ = Planner(make_settings(**settings), known, BOOK).all(rows)
    return plans


PAPER_AND_ZERODHA = {Broker.ZERODHA.value: "local"}
"""An opt-in for this deployment's target."""
