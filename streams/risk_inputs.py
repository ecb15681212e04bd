"""What the risk desks look at besides the journal, kept fresh by tasks of their own: last prices, configuration, instruments.

None of it decides; where one cannot be read, the last good reading stands, and health says what is waited for.
"""

from __future__ import annotations

import asyncio
import time
from datetime import date

from sqlalchemy.ext.asyncio import AsyncEngine

from core import logging
from core.alerts import Alerts
from core.errors import ConfigError, Transient
from core.events import topics
from core.messaging.reader import LogReader
from core.service import ServiceContext
from core.storage.instruments import load_book
from core.storage.risk_config import RiskConfig, load_risk_config
from core.trading.instruments import Instrument
from core.trading.types import KiteTarget
from core.waiting import pause, pauses
from streams.risk_market import LastPrices

RELOAD_S = 5.0
READ_S = 0.5

WARM_UP_RECORDS = 5_000
"""Ticks a partition is read back at start, so that instruments which tick rarely have a price too."""

WARM_UP_S = 5.0
"""Ticks the log no longer keeps never come: after this, what came is what there is."""

log = logging.get(__name__)


class TodaysInstruments:
    """Instruments of the day by name, looked up once each: the whole dump would cost far more memory than it is worth."""

    def __init__(self, engine: AsyncEngine, target: KiteTarget) -> None:
        self._engine = engine
        self._target = target
        self._day: date | None = None
        self._known: dict[str, Instrument] = {}

    async def get(self, key: str, day: date) -> Instrument | None:
        """None when the day's dump does not list it. Raises Transient while there is no dump of that day."""
        if day != self._day:
            self._day, self._known = day, {}
        if key not in self._known:
            found = (await load_book(self._engine, self._target, day, keys=[key])).by_key(key)
            if found is None or day != self._day:
                return found
            self._known[key] = found
        return self._known[key]


class LiveConfig:
    """The newest good reading of strategies and limits."""

    def __init__(self, engine: AsyncEngine, first: RiskConfig) -> None:
        self._engine = engine
        self._refused = ""
        self.value = first
        self.changed = asyncio.Event()

    async def keep_fresh(self, ctx: ServiceContext, alerts: Alerts) -> None:
        """Read again every RELOAD_S and whenever `changed` is set, until the service stops."""
        while not ctx.stop.is_set():
            await pause(RELOAD_S, ctx.stop, self.changed)
            self.changed.clear()
            try:
                with ctx.waiting.mended("postgres", "configuration"):
                    self.value = await load_risk_config(self._engine)
            except Transient:
                continue  # said by `mended`; the last good reading stands
            except ConfigError as error:
                await self._refuse(str(error), alerts)
            else:
                self._refused = ""

    async def _refuse(self, problem: str, alerts: Alerts) -> None:
        if problem != self._refused:
            self._refused = problem
            await alerts.raise_(
                "risk_limits_refused",
                "config.risk_limits",
                problem,
                "Mend the rows; the last good limits hold until then.",
            )


async def follow_log(ctx: ServiceContext, prices: LastPrices, config: LiveConfig, warm: asyncio.Event) -> None:
    """Fold ticks into `prices` and announce configuration changes until the service stops; `warm` is set once caught up."""
    for seconds in pauses():
        if ctx.stop.is_set():
            return
        try:
            await _follow(ctx, prices, config, warm)
        except Transient as error:
            ctx.waiting.on("kafka", str(error), "ticks")
            await pause(seconds, ctx.stop)


async def _follow(ctx: ServiceContext, prices: LastPrices, config: LiveConfig, warm: asyncio.Event) -> None:
    reader = LogReader(ctx.settings, client_id=ctx.name, topics=[topics.MARKET_TICKS, topics.CONFIG_CHANGES])
    try:
        await reader.start("latest")
        ends = await reader.end_offsets()
        await reader.stop()
        await reader.start({at: max(end - _look_back(at[0]), 0) for at, end in ends.items()})
        behind = {at for at, end in ends.items() if min(end, _look_back(at[0])) > 0}
        patience = time.monotonic() + WARM_UP_S
        while not ctx.stop.is_set():
            records = await reader.read(READ_S)
            ctx.waiting.over("kafka", "ticks")
            prices.fold(record for record in records if record.topic == topics.MARKET_TICKS)
            if any(record.topic == topics.CONFIG_CHANGES for record in records):
                config.changed.set()
            if not warm.is_set():
                seen = {(record.topic, record.partition): record.offset for record in records}
                behind -= {at for at, offset in seen.items() if offset + 1 >= ends[at]}
                if not behind or time.monotonic() > patience:
                    warm.set()
    finally:
        await reader.stop()


def _look_back(topic: str) -> int:
    return WARM_UP_RECORDS if topic == topics.MARKET_TICKS else 0
