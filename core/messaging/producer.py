"""Writes to the log: idempotent, acknowledged by all, always with a key, never waiting longer than a bound.

A send that ran out of time may still arrive, so it is remembered: sending the same event again waits for the first one instead
of appending it twice. A producer the log no longer accepts is replaced. Nothing is ever dropped silently.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from core import logging, metrics
from core.config import Settings
from core.errors import Poison, Transient
from core.events.envelope import Envelope
from core.messaging import security
from core.messaging.bounded import within
from core.routing import kafka_credentials
from core.trading.types import Broker

SEND_S = 10.0
"""A send that was not acknowledged by then is Transient."""

START_S = 10.0
STOP_S = 2.0
REQUEST_MS = 5_000
LINGER_MS = 0
"""Batches form while the one before is on its way; lingering would delay every order event."""

MAX_BATCH = 256 * 1024

Headers = Sequence[tuple[str, bytes]]
Delivery = asyncio.Future[object]

_KEEPS_WORKING = (
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
"""Errors of one send. After any other the producer's sequence numbers are no longer the log's: it is replaced."""

log = logging.get(__name__)


class EventProducer:
    """One connection of a process to the log, under a broker's Kafka user or the shared one."""

    def __init__(self, settings: Settings, *, client_id: str, broker: Broker | None = None) -> None:
        self._settings = settings
        self._client_id = client_id
        self._broker = broker
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._late: dict[tuple[str, Hashable], Delivery] = {}
        self._bins: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def start(self) -> None:
        """Connect and get a producer id.

        Raises:
            Transient: the log is away.
            StopTheStart: it refuses our user.
        """
        self._stopped = False
        await self._ready()

    async def stop(self) -> None:
        """Deliver what is accepted, for at most STOP_S; then close."""
        self._stopped = True
        if self._producer is not None:
            await _close(self._producer)
            self._producer = None
        if self._bins:
            await asyncio.wait(self._bins, timeout=STOP_S)

    async def send(self, topic: str, event: Envelope) -> None:
        """Publish one event and wait for its acknowledgement.

        Raises:
            Transient: not acknowledged within SEND_S (it may still arrive).
            Poison: stage "publish", too large for the log.
        """
        await self.send_many([(topic, event)])

    async def send_many(self, items: Sequence[tuple[str, Envelope]]) -> None:
        """Publish in this order (a partition keeps it) and wait until all are acknowledged.

        Raises:
            Transient: not all were acknowledged within SEND_S; send all of them again.
        """
        rows = [(topic, event.id, event.key.encode(), event.encode(), event.headers()) for topic, event in items]
        await self._deliver(rows)

    async def send_raw(self, topic: str, *, key: bytes, value: bytes, headers: Headers) -> None:
        """Publish ready-made bytes and wait for the acknowledgement. Raises as `send`."""
        identity = dict(headers).get("id") or (key, value)
        await self._deliver([(topic, identity, key, value, headers)])

    async def enqueue(self, topic: str, *, key: bytes, value: bytes, headers: Headers) -> Delivery:
        """Hand over for batching; the future ends when it is acknowledged. The caller bounds how many are open.

        Raises:
            Transient: no room in the batch within SEND_S: the log is away or too slow.
        """
        try:
            async with asyncio.timeout(SEND_S):
                return await self._append(topic, key, value, headers)
        except (KafkaError, TimeoutError) as error:
            raise self._explain(topic, error) from error

    # One delivery ----------------------------------------------------------------------------------------------

    async def _deliver(self, rows: Sequence[tuple[str, Hashable, bytes, bytes, Headers]]) -> None:
        open_: list[tuple[str, Hashable, Delivery]] = []
        at = ""
        try:
            async with asyncio.timeout(SEND_S):
                for at, identity, key, value, headers in rows:
                    delivery = self._late.get((at, identity)) or await self._append(at, key, value, headers)
                    open_.append((at, identity, delivery))
                for at, _, delivery in open_:  # noqa: B007  the error names the topic it waited for
                    await asyncio.shield(delivery)
        except (KafkaError, TimeoutError) as error:
            raise self._explain(at, error) from error
        finally:
            for topic, identity, delivery in open_:
                self._remember(topic, identity, delivery)

    def _remember(self, topic: str, identity: Hashable, delivery: Delivery) -> None:
        """A send still under way when its caller gave up: the same event sent again waits for this one."""
        name = (topic, identity)
        if not delivery.done() and name not in self._late:
            self._late[name] = delivery
            delivery.add_done_callback(lambda _: self._late.pop(name, None))

    async def _append(self, topic: str, key: bytes, value: bytes, headers: Headers) -> Delivery:
        if not key:
            raise ValueError(f"an event for {topic} has no key: order within a key is all the log promises")
        producer = await self._ready()
        try:
            delivery: Delivery = await producer.send(topic, value=value, key=key, headers=list(headers))
        except KafkaError as error:
            self._replace_if_broken(producer, error)
            raise

        def settled(done: Delivery) -> None:
            if done.cancelled():
                return
            error = done.exception()  # read, so that nobody is told it was never retrieved
            if error is None:
                metrics.events_published.labels(topic).inc()
            else:
                self._replace_if_broken(producer, error)

        delivery.add_done_callback(settled)
        return delivery

    def _explain(self, topic: str, error: Exception) -> Exception:
        where = f"Kafka at {self._settings.kafka_bootstrap}"
        match error:
            case MessageSizeTooLargeError():
                return Poison(f"an event for {topic} is too large for the log: {error}", stage="publish")
            case TopicAuthorizationFailedError():
                user, _ = kafka_credentials(self._settings, self._broker)
                return Transient(
                    f"{where} does not let user {user!r} write {topic}: `make up` sets the rights", part=security.PART
                )
            case UnknownTopicOrPartitionError():
                return Transient(f"{where} knows no topic {topic}: `make up` creates every topic", part=security.PART)
            case TimeoutError() | KafkaTimeoutError():
                return Transient(f"{where} did not acknowledge {topic} within {SEND_S:.0f} s", part=security.PART)
        return Transient(f"{where} did not take {topic}: {type(error).__name__}", part=security.PART)

    # The connection ----------------------------------------------------------------------------------------------

    async def _ready(self) -> AIOKafkaProducer:
        if self._stopped:
            raise Transient("Kafka producer is stopped", part=security.PART)
        if self._producer is not None:
            return self._producer
        async with self._connecting:
            if self._producer is None:
                self._producer = await self._connect()
            return self._producer

    async def _connect(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **security.client_options(self._settings, self._broker),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            max_batch_size=MAX_BATCH,
            request_timeout_ms=REQUEST_MS,
        )
        try:
            await within(START_S, producer.start(), "producer-start")
        except (KafkaConnectionError, TimeoutError, OSError) as error:
            await _abandon(producer)
            await security.probe(self._settings, self._broker)  # says why, where it can
            raise Transient(
                f"Kafka at {self._settings.kafka_bootstrap} gave no producer id: {type(error).__name__}",
                part=security.PART,
            ) from error
        except BaseException:
            await _abandon(producer)
            raise
        return producer

    def _replace_if_broken(self, producer: AIOKafkaProducer, error: BaseException) -> None:
        if isinstance(error, _KEEPS_WORKING) or self._producer is not producer:
            return
        log.error("producer replaced", client_id=self._client_id, error=repr(error))
        self._producer = None
        task = asyncio.get_running_loop().create_task(_abandon(producer), name="producer-bin")
        self._bins.add(task)
        task.add_done_callback(self._bins.discard)


async def _close(producer: AIOKafkaProducer) -> None:
    """Flush and close. An idempotent producer flushes for ever while the log is away, so the wait is bounded."""
    try:
        await within(STOP_S, producer.stop(), "producer-close")
    except (TimeoutError, KafkaError) as error:
        log.error("closed with events not acknowledged", error=repr(error))
        await _abandon(producer)


async def _abandon(producer: AIOKafkaProducer) -> None:
    """Close without delivering. aiokafka has no public way to do that, hence the private names."""
    producer._closed = True
    producer._message_accumulator.fail_all(KafkaError("the producer was closed"))
    sender = producer._sender.sender_task
    if sender is not None:
        sender.cancel()
        await asyncio.wait({sender}, timeout=STOP_S / 2)  # only waited for: it may end cancelled or with an error
    with contextlib.suppress(TimeoutError, KafkaError):
        await within(STOP_S / 2, producer.client.close(), "producer-abandon")
