"""What brokers say about orders, handed to the orders' workflows as hints. Never takes a hint for truth, never writes an order."""

from __future__ import annotations

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from core import failpoints, logging, order_work
from core.config import Settings
from core.errors import Poison, Transient
from core.events import topics
from core.events.envelope import decode
from core.events.payloads import RECONNECTED, OrderUpdate
from core.messaging.consumer import ConsumerRunner, Record
from core.messaging.producer import EventProducer
from core.order_work import BrokerHint
from core.reconcile_start import ask_now
from core.routing import order_workflow_id
from core.service import ServiceContext
from core.storage.db import broker_engine
from core.storage.journal import Journal
from core.temporal import connect, watched
from core.trading.types import Broker

log = logging.get(__name__)


async def main(ctx: ServiceContext) -> None:
    client = await connect(ctx.settings)
    producer = EventProducer(ctx.settings, client_id=ctx.name)
    await producer.start()
    engines = {broker: broker_engine(ctx.settings, broker) for broker in ctx.settings.active_brokers}
    runner = ConsumerRunner(
        ctx.settings,
        ctx.health,
        service=ctx.name,
        topics=[topics.orders_updates(broker) for broker in ctx.settings.active_brokers],
        handler=OrderUpdates(client, engines, ctx.settings).handle,
        producer=producer,
    )
    try:
        ctx.health.started()
        async with watched(client, ctx.waiting):
            await runner.run(ctx.stop)
    finally:
        await producer.stop()
        for engine in engines.values():
            await engine.dispose()


class OrderUpdates:
    """Finds the order behind a broker's update and wakes its workflow."""

    def __init__(self, client: Client, engines: dict[Broker, AsyncEngine], settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._journals = {broker: Journal(engine, broker) for broker, engine in engines.items()}

    async def handle(self, record: Record) -> None:
        """Raises Poison for what is no update, Transient while the database or Temporal is away."""
        structlog.contextvars.unbind_contextvars(*logging.ORDER_KEYS)
        broker = topics.broker_of(record.topic)
        envelope = decode(record.value)
        if broker is None or not isinstance(envelope.data, OrderUpdate):
            raise Poison(f"{envelope.type} is not an order update", stage="validate")
        update = envelope.data
        if update.status == RECONNECTED:
            log.info("updates may be lost: reconciling", broker=broker.value, **update.raw)
            await ask_now(self._client, self._settings, broker, "the broker's updates were interrupted")
            return
        found = await self._journals[broker].find_by_hint(update.broker_order_id, update.tag)
        if found is None:
            log.info(
                "an update of an order that is not ours", broker=broker.value, broker_order_id=update.broker_order_id
            )
            return
        structlog.contextvars.bind_contextvars(
            broker=broker.value, order_id=str(found.order_id), correlation_id=str(found.correlation_id)
        )
        if found.late:
            log.warning(
                "a send that was given up turned up", broker_order_id=update.broker_order_id, status=update.status
            )
            await ask_now(self._client, self._settings, broker, "a send that was given up turned up")
        handle = self._client.get_workflow_handle(order_workflow_id(broker, found.order_id))
        await failpoints.reached("hint.before_signal")
        try:
            await handle.signal(order_work.HINT, BrokerHint(status=update.status, source=update.source))
            await failpoints.reached("hint.after_signal")
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                # Its workflow has ended, or has not started yet (then its first look comes by itself).
                log.info("hint without a running workflow", status=update.status)
                return
            raise Transient(f"Temporal does not answer: {error.message}") from error
