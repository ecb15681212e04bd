"""A tick (full mode) and the gap marker, as strategies, bars, matching and marks read them. Pure data."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict


class Depth(BaseModel):
    """One price level: rupees, units, number of orders."""

    model_config = ConfigDict(frozen=True)

    price: Decimal
    quantity: int
    orders: int = 0


class Ohlc(BaseModel):
    """The day's open, high, low and the previous day's close, rupees."""

    model_config = ConfigDict(frozen=True)

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal


class Tick(BaseModel):
    """One full-mode packet: a snapshot, not every trade. `volume` is cumulative for the day.

    `exchange_ts` is the exchange's clock in whole seconds (UTC), `received_at` ours (UTC) when the frame arrived.
    """

    model_config = ConfigDict(frozen=True)

    instrument_token: int
    last_price: Decimal
    exchange_ts: datetime
    received_at: datetime
    last_quantity: int = 0
    average_price: Decimal = Decimal(0)
    volume: int = 0
    buy_quantity: int = 0
    sell_quantity: int = 0
    ohlc: Ohlc | None = None
    last_trade_ts: datetime | None = None
    oi: int = 0
    bids: tuple[Depth, ...] = ()
    asks: tuple[Depth, ...] = ()


class Gap(BaseModel):
    """Ticks of this instrument may be missing between the two times: bars over it are incomplete."""

    model_config = ConfigDict(frozen=True)

    instrument_token: int
    since: datetime
    until: datetime
    reason: str
