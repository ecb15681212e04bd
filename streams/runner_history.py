"""Warm-up: the broker's historical bars for windows that start empty. Never makes bars up: what has no history warms up live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

from core import logging
from core.brokers.kite_http import Candle, candles
from core.brokers.zerodha_session import SessionWatcher
from core.clock import utc_now
from core.config import Settings
from core.errors import BrokerError, SessionExpired, Transient
from core.trading.bars import Bar, bar_bounds
from core.waiting import pause
from streams.runner_market import WindowKey

INTERVALS = {
    60: "minute",
    180: "3minute",
    300: "5minute",
    600: "10minute",
    900: "15minute",
    1800: "30minute",
    3600: "60minute",
}
"""Bar lengths the broker keeps history of, by seconds (kite.trade/docs/connect/v3/historical)."""

SESSIONS_BACK = 7
"""Days looked back beyond what the bars themselves span: nights, a weekend and holidays have none."""

TRADING_S_A_DAY = 6 * 3600
TRIES = 5
PAUSE_S = 3.0

log = logging.get(__name__)


class History:
    """Fetches what a window needs and hands it over; failing that, says so and leaves the window to live bars."""

    def __init__(
        self, settings: Settings, stop: asyncio.Event, deliver: Callable[[WindowKey, Sequence[Bar]], int]
    ) -> None:
        self._settings = settings
        self._sessions = SessionWatcher(settings)
        self._stop = stop
        self._deliver = deliver

    async def warm_up(self, wanted: Sequence[tuple[WindowKey, int]]) -> None:
        """`wanted`: windows with how many bars they keep. One after another; the broker allows 3 requests a second."""
        without = sorted({key[1] for key, _ in wanted if key[1] not in INTERVALS})
        if without:
            log.info("no history for these bars: warming up from live ticks", intervals_s=without)
        for key, kept in wanted:
            if key[1] in INTERVALS and not self._stop.is_set():
                await self._one(key, kept)

    async def _one(self, key: WindowKey, kept: int) -> None:
        token, interval_s = key
        problem = "told to stop"
        for _ in range(TRIES):
            session = await self._sessions.wait_valid(self._stop)
            if session is None:
                return
            end = utc_now()
            start = end - timedelta(days=SESSIONS_BACK + kept * interval_s / TRADING_S_A_DAY)
            try:
                found = await candles(self._settings, session, token, INTERVALS[interval_s], start, end)
            except SessionExpired as error:
                self._sessions.refused(session)
                problem = str(error)
            except (Transient, BrokerError) as error:
                problem = str(error)
            else:
                taken = self._deliver(key, closed_bars(token, interval_s, found, int(end.timestamp()))[-kept:])
                log.info("warmed up from history", instrument_token=token, interval_s=interval_s, bars=taken)
                return
            if await pause(PAUSE_S, self._stop):
                return
        log.warning(
            "no history came: warming up from live ticks", instrument_token=token, interval_s=interval_s, reason=problem
        )


def closed_bars(token: int, interval_s: int, found: Sequence[Candle], now_s: int) -> list[Bar]:
    """The broker's bars as ours, without the one still forming at `now_s` (epoch seconds)."""
    bars: list[Bar] = []
    for row in found:
        _, end_s = bar_bounds(int(row.start.timestamp()), interval_s)
        if end_s > now_s:
            continue
        end = row.start + timedelta(seconds=end_s - int(row.start.timestamp()))
        bars.append(Bar(token, interval_s, row.start, end, row.open, row.high, row.low, row.close, row.volume, True))
    return bars
