"""Every validated signal starts one workflow, exactly once. Never judges a signal's age: only the workflow may expire it.

"Already started" is success; the offset is committed after the start.
"""

from __future__ import annotations

import structlog
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from core import failpoints, logging, order_work
from core.config import Settings
from core.errors import Poison, Transient
from core.events import topics
from core.events.envelope import decode
from core.events.payloads import SignalValidated
from core.messaging.consumer import ConsumerRunner, Record
from core.messaging.producer import EventProducer
from core.order_start import start_order
from core.order_work import OrderInput
from core.service import ServiceContext
from core.temporal import connect, watched
from core.trading.durations import OrderDurations
from core.trading.types import Broker
from streams.exits_first import carries_exit

AT_ONCE = 16
"""Workflows of one partition being started at the same time."""

log = logging.get(__name__)


async def main(ctx: ServiceContext) -> None:
    client = await connect(ctx.settings)
    producer = EventProducer(ctx.settings, client_id=ctx.name)
    await producer.start()
    gateway = Gateway(client, ctx.settings)
    runner = ConsumerRunner(
        ctx.settings,
        ctx.health,
        service=ctx.name,
        topics=[topics.signals_validated(broker) for broker in ctx.settings.active_brokers],
        handler=gateway.handle,
        producer=producer,
        at_once=AT_ONCE,
        urgent=carries_exit,
    )
    try:
        ctx.health.started()
        async with watched(client, ctx.waiting):
            await runner.run(ctx.stop)
    finally:
        await producer.stop()


class Gateway:
    """Starts workflows. Routing follows the topic's name, never the envelope's broker."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._durations = OrderDurations().scaled(settings.duration_factor)

    async def handle(self, record: Record) -> None:
        """Raises Poison for what is no validated signal, Transient while Temporal starts no workflows.

        Away, overloaded, without our namespace: nothing of this is the signal's fault, and a decided order must not end in the DLQ.
        The same start is tried again, and REJECT_DUPLICATE keeps it one.
        """
        structlog.contextvars.unbind_contextvars(*logging.ORDER_KEYS)
        broker = topics.broker_of(record.topic)
        envelope = decode(record.value)
        if broker is None or not isinstance(envelope.data, SignalValidated):
            raise Poison(f"{envelope.type} is not a validated signal", stage="validate")
        decided = envelope.data
        structlog.contextvars.bind_contextvars(
            broker=broker.value, order_id=str(decided.order_id), correlation_id=str(envelope.correlation_id)
        )
        order = self._input(broker, decided, record, envelope.correlation_id)
        await failpoints.reached("gateway.before_start")
        try:
            await start_order(self._client, order)
            await failpoints.reached("gateway.after_start")
            log.info("workflow started", what=order_work.headline(order))
        except WorkflowAlreadyStartedError:
            log.info("workflow was started before")
        except RPCError as error:
            if error.status is RPCStatusCode.INVALID_ARGUMENT:
                raise
            raise Transient(f"Temporal does not start an order's workflow: {error.message}") from error
        except TimeoutError as error:
            raise Transient("Temporal does not answer in time") from error

    def _input(self, broker: Broker, decided: SignalValidated, record: Record, correlation_id: object) -> OrderInput:
        signal = decided.signal
        return OrderInput.model_validate(
            {
                "order_id": decided.order_id,
                "broker": broker,
                "correlation_id": correlation_id,
                "strategy_id": signal.strategy_id,
                "instance": signal.instance,
                "symbol": signal.tradingsymbol,
                "side": signal.side,
                "intent": signal.intent,
                "order_type": signal.order_type,
                "quantity": signal.quantity,
                "price": signal.price,
                "origin_at": signal.origin_at,
                "requested_by": f"{signal.source} {signal.strategy_id}",
                "account": decided.account,
                "target": decided.target,
                "durations": self._durations,
            }
        )
