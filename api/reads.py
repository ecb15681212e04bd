"""What people may look at, read from the views, the read model, the configuration and the log. Shared by API and command line.

Reads only, and never the journal: what is shown here is what the log says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from api.models import (
    BrokerPnl,
    Decision,
    InstanceStatus,
    OrderDetail,
    OrderPage,
    OrderSummary,
    PnlReport,
    Position,
    PositionList,
    ReconciliationList,
    Round,
    Strategy,
    StrategyList,
    TimelineEvent,
    TopicStatus,
)
from api.story import tell
from core import metrics
from core.config import Settings
from core.errors import Transient
from core.events import topics
from core.events.payloads import FillRecord, Signal
from core.messaging import lag
from core.messaging.dlq_depth import dlq_depth
from core.routing import order_workflow_id, target
from core.storage import redis, view_rounds, views
from core.storage.db import config_engine, view_engine
from core.storage.redis import EVERYTHING, PortfolioStore
from core.storage.strategies import StrategyConfig, load_strategies
from core.storage.views import Cursor, OrderFilter, StoredEvent
from core.trading.signals import instance_name
from core.trading.types import Broker, Product


class Reads:
    """Connections to everything that may be looked at; each opens on first use. Close it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = config_engine(settings)
        self.redis = redis.client(settings)
        self._view_engines = {broker: view_engine(settings, broker) for broker in Broker}

    async def close(self) -> None:
        for engine in (self.engine, *self._view_engines.values()):
            await engine.dispose()
        await self.redis.aclose()

    def views(self, broker: Broker) -> AsyncEngine:
        """What the log says of a broker."""
        return self._view_engines[broker]

    def brokers(self, broker: Broker | None) -> Sequence[Broker]:
        return self.settings.active_brokers if broker is None else (broker,)

    # orders --------------------------------------------------------------------------------------------------

    async def orders(
        self, wanted: OrderFilter, *, broker: Broker | None = None, cursor: str | None = None, limit: int = 50
    ) -> OrderPage:
        """A page of orders, newest first, of one broker or of all active ones.

        Raises:
            BadCursor: the cursor is not one of ours.
            Transient: the database is away.
        """
        after = Cursor.decode(cursor) if cursor is not None else None
        rows: list[OrderSummary] = []
        for one in self.brokers(broker):
            found = await views.list_orders(self._view_engines[one], wanted, after=after, limit=limit + 1)
            rows += [OrderSummary.of(one, order, simulated=self.settings.simulated) for order in found]
        rows.sort(key=lambda row: (row.created_at, row.order_id), reverse=True)
        page = rows[:limit]
        following = Cursor(page[-1].created_at, page[-1].order_id).encode() if len(rows) > limit else None
        return OrderPage(orders=page, next=following)

    async def order(self, order_id: UUID) -> OrderDetail | None:
        """An order's whole life; None where no broker knows it. Raises Transient."""
        for broker, engine in self._view_engines.items():
            order = await views.find_order(engine, order_id)
            if order is None:
                continue
            events = await views.timeline(engine, order)
            workflow = order_workflow_id(broker, order_id)
            namespace = self.settings.temporal_namespace
            return OrderDetail(
                order=OrderSummary.of(broker, order, simulated=self.settings.simulated),
                account=order.account,
                target=order.target,
                exchange=order.exchange,
                tradingsymbol=order.tradingsymbol,
                instrument_token=order.instrument_token,
                signal=_signal(events),
                decision=_decision(events),
                sends=list(order.sends),
                fills=_fills(events),
                events=[_event(event) for event in events],
                workflow_id=workflow,
                temporal_url=f"{self.settings.temporal_ui}/namespaces/{namespace}/workflows/{workflow}",
            )
        return None

    async def count_orders(self) -> None:
        """Refresh the gauges of orders by status. Raises Transient."""
        for broker in self.settings.active_brokers:
            for status, count in (await views.count_by_status(self._view_engines[broker])).items():
                metrics.orders_by_status.labels(broker.value, status).set(count)

    # portfolio -----------------------------------------------------------------------------------------------

    async def _model(self, broker: Broker) -> redis.ReadModel:
        model = await PortfolioStore(self.redis, broker).read()
        if model is None:
            raise Transient(
                f"the portfolio service has not filled the read model of {broker} yet: look at /health/ready"
            )
        return model

    async def positions(
        self, *, broker: Broker | None = None, instance: str | None = None, open_only: bool = False
    ) -> PositionList:
        """Positions by instance, instrument and product. Raises Transient while Redis is away or not filled."""
        rows = [
            Position(**view.model_dump(), broker=one)
            for one in self.brokers(broker)
            for _, view in sorted((await self._model(one)).positions.items())
            if (instance is None or view.instance == instance) and (view.quantity != 0 or not open_only)
        ]
        return PositionList(simulated=self.settings.simulated, positions=rows)

    async def pnl(self, *, broker: Broker | None = None, instance: str | None = None) -> PnlReport:
        """PnL by broker and instance. Raises Transient while Redis is away or not filled."""
        rows = []
        for one in self.brokers(broker):
            found = (await self._model(one)).pnl
            instances = [view for name, view in sorted(found.items()) if name != EVERYTHING]
            chosen = [view for view in instances if instance is None or view.instance == instance]
            rows.append(BrokerPnl(broker=one, total=found[EVERYTHING], instances=chosen))
        return PnlReport(simulated=self.settings.simulated, brokers=rows)

    # reconciliation ------------------------------------------------------------------------------------------

    async def reconciliations(self, *, broker: Broker | None = None, limit: int = 1) -> ReconciliationList:
        """The last rounds of one broker or of all active ones. Raises Transient while the database is away."""
        rows = [
            Round(**found.model_dump(), broker=one)
            for one in self.brokers(broker)
            for found in await view_rounds.last_rounds(self._view_engines[one], limit)
        ]
        return ReconciliationList(simulated=self.settings.simulated, rounds=rows)

    async def round_of_request(self, broker: Broker, request_id: UUID) -> Round | None:
        """The round that answers this request, once it is on the log. Raises Transient."""
        found = await view_rounds.round_of_request(self._view_engines[broker], request_id)
        return None if found is None else Round(**found.model_dump(), broker=broker)

    # strategies ----------------------------------------------------------------------------------------------

    async def strategies(self) -> StrategyList:
        """Rows, what runs of them, and why the rest does not. Raises Transient while the database is away."""
        rows = await load_strategies(self.engine)
        runtime = "known"
        said: dict[Broker, dict[str, dict[str, Any]]] = {}
        try:
            for broker in Broker:
                said[broker] = await redis.read_strategies(self.redis, broker)
        except Transient as error:
            runtime = str(error)
        return StrategyList(
            simulated=self.settings.simulated,
            runtime=runtime,
            strategies=[self._strategy(row, said) for row in rows],
        )

    def _strategy(self, row: StrategyConfig, said: dict[Broker, dict[str, dict[str, Any]]]) -> Strategy:
        brokers = [broker for broker in Broker if broker is Broker.PAPER or broker.value in row.opt_ins]
        return Strategy(
            strategy_id=row.strategy_id,
            class_name=row.class_name,
            active=row.active,
            version=row.version,
            parameters=dict(row.parameters),
            instruments=list(row.instruments),
            product=Product(row.product),
            age_limit_s=row.age_limit_s,
            capital=row.capital,
            opt_ins=dict(row.opt_ins),
            instances=[self._instance(row, broker, said.get(broker, {})) for broker in brokers],
        )

    def _instance(self, row: StrategyConfig, broker: Broker, said: dict[str, dict[str, Any]]) -> InstanceStatus:
        name = instance_name(row.strategy_id, broker)
        reason = self._why_not(row, broker)
        runtime = said.get(name, {})
        return InstanceStatus(
            instance=name,
            broker=broker,
            target=target(self.settings, broker),
            active=not reason,
            reason=reason,
            state=str(runtime.get("state", "unknown")),
            runtime=runtime,
        )

    def _why_not(self, row: StrategyConfig, broker: Broker) -> str:
        """Why this instance does not trade, judged from the configuration; empty where it does."""
        if not row.active:
            return "the strategy is switched off"
        if broker not in self.settings.active_brokers:
            return f"{broker} is not in ACTIVE_BROKERS"
        here, named = target(self.settings, broker), row.opt_ins.get(broker.value)
        if broker is not Broker.PAPER and named != here:
            return f"opted in for target {named}, and this deployment trades on {here}"
        return ""

    # the log -------------------------------------------------------------------------------------------------

    async def topics(self) -> list[TopicStatus]:
        """Every topic of the active brokers with partitions, end, lag by group and DLQ depth. Raises Transient."""
        brokers = self.settings.active_brokers
        specs = [
            row for row in topics.all_topics(self.settings.kafka_partitions, brokers) if not row.name.endswith(".dlq")
        ]
        ends = await lag.end_offsets(self.settings, [row.name for row in specs])
        behind: dict[str, dict[str, int]] = defaultdict(dict)
        for row in await lag.lag_by_group(self.settings):
            behind[row.topic][row.group] = behind[row.topic].get(row.group, 0) + row.lag
        depth = await dlq_depth(self.settings, self.engine)
        return [
            TopicStatus(
                topic=spec.name,
                partitions=len(ends.get(spec.name, {})),
                end_offset=sum(ends.get(spec.name, {}).values()),
                lag=behind.get(spec.name, {}),
                dlq=depth.get(topics.dlq(spec.name)),
            )
            for spec in specs
        ]


def _signal(events: list[StoredEvent]) -> Signal | None:
    for event in events:
        if event.type == "signal.raw":
            return Signal.model_validate(event.data)
        if event.type in {"signal.validated", "signal.rejected"}:
            return Signal.model_validate(event.data["signal"])
    return None


def _decision(events: list[StoredEvent]) -> Decision | None:
    for event in events:
        if event.type in {"signal.validated", "signal.rejected"}:
            return Decision(
                accepted=event.type == "signal.validated",
                decided_at=event.data["decided_at"],
                denials=event.data.get("denials", []),
            )
    return None


def _fills(events: list[StoredEvent]) -> list[FillRecord]:
    fills = [FillRecord.model_validate(event.data["fill"]) for event in events if event.data.get("fill")]
    return sorted(fills, key=lambda fill: (fill.filled_at, fill.trade_id))


def _event(event: StoredEvent) -> TimelineEvent:
    return TimelineEvent(
        event_id=event.event_id,
        at=event.ts,
        type=event.type,
        order_seq=event.order_seq,
        text=tell(event),
        data=event.data,
    )
