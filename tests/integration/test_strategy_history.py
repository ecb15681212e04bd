"""Warm-up: a strategy's windows filled from the broker's historical candles, over the wire, from the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from core.brokers.kite_http import instruments
from core.brokers.kite_login import ensure_local_session
from core.clock import utc_now
from core.config import Settings
from core.trading.bars import Bar
from streams.runner_history import History
from streams.runner_market import WindowKey
from tests.integration.feed_world import start_sandbox
from tests.integration.sandbox_support import free_port


async def test_minute_bars_come_from_history_and_second_bars_do_not(settings: Settings, tmp_path: Path) -> None:
    port = free_port()
    here = settings.model_copy(update={"sandbox_port": port})
    delivered: dict[WindowKey, Sequence[Bar]] = {}

    def deliver(key: WindowKey, bars: Sequence[Bar]) -> int:
        delivered[key] = bars
        return len(bars)

    with await asyncio.to_thread(start_sandbox, here, tmp_path, port=port):
        session = await ensure_local_session(here)
        infy = next(row for row in await instruments(here, session) if row.key == "NSE:INFY")
        minutes, seconds = (infy.instrument_token, 60), (infy.instrument_token, 5)
        await History(here, asyncio.Event(), deliver).warm_up([(minutes, 40), (seconds, 40)])
    assert set(delivered) == {minutes}
    bars = delivered[minutes]
    assert len(bars) == 40
    assert all(bar.interval_s == 60 and bar.complete and bar.low <= bar.close <= bar.high for bar in bars)
    assert [bar.start for bar in bars] == sorted({bar.start for bar in bars})
    assert max(bar.end for bar in bars) <= utc_now()
