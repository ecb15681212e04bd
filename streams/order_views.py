"""Writes every signal, decision, order event, reconciliation and minute of PnL of each broker into that broker's view tables, for people.

Applies an order event only if its `order_seq` is higher, stores each event once by its id, and never reads the journal.
"""

from __future__ import annotations

import asyncio

from core.errors import Poison
from core.events import topics
from core.events.envelope import decode
from core.events.payloads import OrderEvent, PnlSnapshot, Reconciliation, Signal, SignalRejected, SignalValidated
from core.messaging.consumer import ConsumerRunner
from core.messaging.producer import EventProducer
from core.messaging.records import Record
from core.service import ServiceContext
from core.storage import view_rounds, views
from core.storage.db import view_engine
from core.storage.view_pnl import MinuteFold

SERVICE = "order-views"


async def main(ctx: ServiceContext) -> None:
    """Consume until the stop."""
    brokers = ctx.settings.active_brokers
    engines = {broker: view_engine(ctx.settings, broker, ping=False) for broker in brokers}
    producer = EventProducer(ctx.settings, client_id=SERVICE)
    minutes = MinuteFold()

    async def handle(record: Record) -> None:
        broker = topics.broker_of(record.topic)
        if broker is None:
            raise Poison(f"{record.topic} belongs to no broker", stage="validate")
        envelope = decode(record.value)
        if isinstance(envelope.data, Reconciliation):
            await view_rounds.store(engines[broker], envelope.data)
            return
        if isinstance(envelope.data, PnlSnapshot):
            await minutes.store(engines[broker], envelope.data, by_fill=envelope.causation_id is not None)
            return
        if not isinstance(envelope.data, OrderEvent | Signal | SignalValidated | SignalRejected):
            raise Poison(f"{envelope.type} does not belong on {record.topic}", stage="validate")
        await views.store(engines[broker], envelope)

    names = [
        name
        for broker in brokers
        for name in (
            topics.signals_raw(broker),
            topics.signals_validated(broker),
            topics.signals_rejected(broker),
            *topics.order_topics(broker),
            topics.reconciliations(broker),
            topics.pnl_snapshots(broker),
        )
    ]
    runner = ConsumerRunner(
        ctx.settings, ctx.health, service=SERVICE, topics=names, handler=handle, producer=producer, patient=True
    )
    started = asyncio.create_task(_say_started(ctx, runner))
    try:
        await runner.run(ctx.stop)
    finally:
        started.cancel()
        await producer.stop()
        for engine in engines.values():
            await engine.dispose()


async def _say_started(ctx: ServiceContext, runner: ConsumerRunner) -> None:
    await runner.ready.wait()
    ctx.health.started()
