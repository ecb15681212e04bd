"""What can be traded, as the broker's daily dump lists it, and look-up by name. Pure: no I/O, no clock.

Tokens are reused after expiry (kite.trade/docs/connect/v3/market-quotes), so an instrument is named `NSE:INFY` and its token
is resolved each day.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from core.trading.types import Exchange

INDICES_SEGMENT = "INDICES"


class Instrument(BaseModel):
    """One row of the dump. `tick_size` in rupees, `lot_size` in units; `strike` is 0 where there is none."""

    model_config = ConfigDict(frozen=True)

    instrument_token: int
    exchange_token: int
    tradingsymbol: str
    name: str
    exchange: Exchange
    segment: str
    instrument_type: str
    tick_size: Decimal
    lot_size: int
    expiry: date | None = None
    strike: Decimal = Decimal(0)

    @property
    def key(self) -> str:
        """The name people and strategies use: `NSE:INFY`."""
        return f"{self.exchange}:{self.tradingsymbol}"

    @property
    def tradable(self) -> bool:
        return self.segment != INDICES_SEGMENT


class InstrumentBook:
    """The day's instruments by name and by token."""

    def __init__(self, rows: Iterable[Instrument]) -> None:
        self._by_key: dict[str, Instrument] = {}
        self._by_token: dict[int, Instrument] = {}
        for row in rows:
            self._by_key[row.key] = row
            self._by_token[row.instrument_token] = row

    def __len__(self) -> int:
        return len(self._by_key)

    def by_key(self, key: str) -> Instrument | None:
        return self._by_key.get(key)

    def by_token(self, token: int) -> Instrument | None:
        return self._by_token.get(token)

    def all(self) -> list[Instrument]:
        return list(self._by_key.values())
