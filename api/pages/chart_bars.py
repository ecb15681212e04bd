"""Bars for the charts, from the broker's own history: one request an instrument and length, shared by all who look, never more often than
SHARED_S. Never fills a gap in what the broker has.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from control.connections import Connections
from core.brokers.kite_http import Candle, candles
from core.brokers.kite_login import require_session
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import CommandRefused
from core.storage.instruments import load_book

SHARED_S = 5.0
KEPT = 32
"""Charts kept; the one not asked for longest goes first."""

LENGTHS = {
    "minute": timedelta(hours=6),
    "5minute": timedelta(days=3),
    "15minute": timedelta(days=10),
    "day": timedelta(days=365),
}
"""Kite's names of the lengths (kite.trade/docs/connect/v3/historical), each with how far back a chart goes."""


@dataclass(slots=True)
class _Kept:
    read_at: float = float("-inf")
    bars: list[Candle] = field(default_factory=list)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class ChartBars:
    """One of these a process."""

    def __init__(self, settings: Settings, links: Connections) -> None:
        self._settings, self._links = settings, links
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def bars(self, instrument: str, length: str) -> list[Candle]:
        """The newest bars, oldest first; the last may still be forming.

        Raises:
            CommandRefused: no such instrument today. SessionMissing, SessionExpired, BrokerError, Transient.
        """
        kept = self._kept.pop((instrument, length), None) or _Kept()
        self._kept[instrument, length] = kept
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        async with kept.reading:
            if time.monotonic() - kept.read_at >= SHARED_S:
                kept.bars = await self._read(instrument, length, utc_now())
                kept.read_at = time.monotonic()
        return kept.bars

    async def _read(self, instrument: str, length: str, now: datetime) -> list[Candle]:
        session = require_session(self._settings)
        book = await load_book(self._links.config, self._settings.kite_target, trading_day(now), keys=(instrument,))
        found = book.by_key(instrument)
        if found is None:
            raise CommandRefused(f"instrument: {instrument} is not in today's list; write it like NSE:INFY")
        return await candles(self._settings, session, found.instrument_token, length, now - LENGTHS[length], now)
