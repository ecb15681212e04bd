"""What the pages follow: each fact with where it is read, which events change it, and how old it may get.

The API's own functions read them; nothing here reads a second way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from api.models import OrderPage, Part, PnlReport, PositionList
from api.pages.live import Source
from api.probes import Prober
from api.reads import Reads
from api.routers import alert_channels, operations, reports
from control import broker_session
from control.connections import Connections
from core.brokers import paper, zerodha
from core.brokers.port import BrokerProfile
from core.clock import day_began, trading_day, utc_now
from core.config import Settings
from core.events import topics
from core.messaging.reader import LogReader
from core.routing import account
from core.storage.claims import sends_today
from core.storage.journal import Journal
from core.storage.risk_config import RiskConfig, load_risk_config
from core.storage.risk_use import LimitUse, limit_use
from core.storage.views import OrderFilter
from core.trading.types import Broker, OrderStatus

OPEN = tuple(status for status in OrderStatus if not status.is_end)
IN_DOUBT = (OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED)
_ORDER, _MONEY = ("order.",), ("pnl.", "order.filled")

_PROFILES: Mapping[Broker, Callable[[Settings], BrokerProfile]] = {
    Broker.PAPER: lambda _: paper.UNLIMITED,
    Broker.ZERODHA: zerodha.limits,
}


@dataclass(frozen=True, slots=True)
class Budget:
    """Orders of the trading day: sent, and how many entries may still go. None: no limit."""

    sent: int
    left: int | None


@dataclass(frozen=True, slots=True)
class FeedAge:
    """The newest tick's time on the log and its age in whole seconds; both None before one came."""

    last: datetime | None
    seconds: int | None

    @staticmethod
    def of(last: datetime | None, now: datetime) -> FeedAge:
        return FeedAge(last, None if last is None else max(int((now - last).total_seconds()), 0))


class Feed:
    """When the last tick came, by reading the log's end while somebody looks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reader: LogReader | None = None
        self._last_ms = 0

    async def last_tick(self) -> datetime | None:
        """None: no tick since somebody looks. Raises Transient while the log is away."""
        if self._reader is None:
            reader = LogReader(self._settings, client_id="api-feed-age", topics=[topics.MARKET_TICKS], patient=True)
            try:
                await reader.start("latest")
            except BaseException:
                await reader.stop()
                raise
            self._reader = reader
        for _ in range(20):
            records = await self._reader.read(0.01)
            if not records:
                break
            self._last_ms = max(self._last_ms, *(record.timestamp_ms for record in records))
        return datetime.fromtimestamp(self._last_ms / 1000, UTC) if self._last_ms else None

    async def rest(self) -> None:
        """Nobody looks: read nothing."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.stop()


class Facts:
    """The sources by name. `rest` lets go of what only a looker needs."""

    def __init__(self, settings: Settings, reads: Reads, links: Connections, prober: Prober) -> None:
        self._settings, self._reads, self._links, self._prober = settings, reads, links, prober
        self._feed = Feed(settings)

    def sources(self) -> dict[str, Source]:
        return {
            "parts": Source(self._parts, ("health",), 2.0),
            "feed": Source(self._feed_age, (), 1.0),
            "session": Source(self._session, (), 5.0),
            "pnl": Source(self._pnl, _MONEY, 5.0),
            "positions": Source(self._positions, _MONEY, 5.0),
            "strategies": Source(self._reads.strategies, ("config.",), 5.0),
            "limits": Source(self._limits, (), 10.0),
            "order events": Source(self._nothing_but_events, _ORDER, 15.0),
            "in doubt": Source(self._in_doubt, _ORDER, 10.0),
            "limit use": Source(self._limit_use, _ORDER, 10.0),
            "signals": Source(self._nothing_but_events, ("signal.",), 15.0),
            "curve": Source(lambda: reports.pnl_day(self._reads), ("order.filled",), 15.0),
            "rounds": Source(self._reads.reconciliations, ("reconciliation",), 15.0),
            "kill": Source(lambda: operations.kill_state(self._links), ("alert",), 2.0),
            "budget": Source(self._budget, ("order.submitted",), 15.0),
            "alerts": Source(self._nothing_but_events, ("alert",), 10.0),
            "channels": Source(lambda: alert_channels.channels(self._links), ("alert",), 10.0),
            "chart": Source(self._nothing_but_events, _ORDER, 5.0),
            "audit": Source(self._nothing_but_events, ("config.", "order.", "alert"), 5.0),
            "people": Source(self._nothing_but_events, (), 10.0),
            "streams": Source(lambda: reports.streams(self._reads), (), 3.0),
            "letters": Source(lambda: operations.list_letters(self._links), ("alert",), 5.0),
        }

    async def rest(self) -> None:
        await self._feed.rest()

    async def _parts(self) -> tuple[Part, ...]:
        return tuple((await self._prober.ready()).parts)

    async def _session(self) -> broker_session.SessionState:
        return await asyncio.to_thread(broker_session.state, self._settings)

    async def _pnl(self) -> PnlReport:
        return await self._reads.pnl()

    async def _positions(self) -> PositionList:
        return await self._reads.positions()

    async def _limits(self) -> RiskConfig:
        return await load_risk_config(self._links.config)

    async def _feed_age(self) -> FeedAge:
        """Another value each second that no tick comes: age tells as much as a tick does."""
        return FeedAge.of(await self._feed.last_tick(), utc_now())

    async def _in_doubt(self) -> OrderPage:
        """Orders that nobody knows the end of, the newest 200."""
        return await self._reads.orders(OrderFilter(statuses=IN_DOUBT), limit=200)

    async def _limit_use(self) -> dict[Broker, dict[str, LimitUse]]:
        began = day_began(trading_day(utc_now()))
        return {
            broker: await limit_use(self._links.journal(broker), account(self._settings, broker), began)
            for broker in self._settings.active_brokers
        }

    async def _nothing_but_events(self) -> object:
        """Another value each time: whoever follows it reads its own page of the list."""
        return object()

    async def _budget(self) -> dict[Broker, Budget]:
        found = {}
        for broker in self._settings.active_brokers:
            profile = _PROFILES[broker](self._settings)
            sent = await sends_today(Journal(self._links.journal(broker), broker), account(self._settings, broker))
            left = None if profile.per_day is None else max(profile.per_day - profile.per_day_reserved - sent, 0)
            found[broker] = Budget(sent, left)
        return found


def by_instance(report: Any) -> dict[str, Any]:
    """PnL rows of every broker by instance name."""
    return {row.instance: row for broker in report.brokers for row in broker.instances}
