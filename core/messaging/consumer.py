"""Reads topics for a service: one group for all brokers, one worker a partition, commits of what is finished and nothing else.

A partition that waits never holds another. Nothing is lost: a record is committed only when it was handled or is in the DLQ.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from core import failpoints, logging, metrics, slots
from core.config import Settings
from core.errors import StopTheStart, Transient
from core.events import topics as names
from core.health import HealthReporter
from core.messaging import dlq, security
from core.messaging.bounded import within
from core.messaging.groups import check_offsets, group_of
from core.messaging.partition import Duties, PartitionWorker
from core.messaging.producer import EventProducer
from core.messaging.records import Handler, Record, fetching, record_of
from core.trading.types import Broker
from core.waiting import Waiting, pause, pauses

__all__ = ["ConsumerRunner", "Handler", "Record", "group_of"]

POLL_MS = 500
COMMIT_EVERY_S = 0.1
COMMIT_S = 5.0
SESSION_MS = 6_000
REBALANCE_MS = 30_000
REVOKE_S = 10.0
"""How long a rebalance waits for records in hand; well inside REBALANCE_MS."""

LEAVE_S = 8.0
WATCH_EVERY_S = 3.0

log = logging.get(__name__)


class ConsumerRunner:
    """Runs a service's handler over its topics. `ready` is set once partitions are assigned.

    `from_latest`: a partition this group never committed begins at its end instead of its beginning. `broker`: read under that
    broker's Kafka user instead of the shared one. `patient`: records may come up to PATIENT_MS late, many at once. `at_once`: so many
    records of a partition may be handled beside each other, for a handler to which their order is nothing; after a death all of them
    may come again. `urgent`: records that overtake those of other keys that wait with them; after a death these may come again too.
    """

    def __init__(
        self,
        settings: Settings,
        health: HealthReporter,
        *,
        service: str,
        topics: Sequence[str],
        handler: Handler,
        producer: EventProducer,
        from_latest: bool = False,
        max_batch: int = 200,
        broker: Broker | None = None,
        patient: bool = False,
        at_once: int = 1,
        urgent: Callable[[Record], bool] | None = None,
    ) -> None:
        self.group = group_of(service)
        self.ready = asyncio.Event()
        self._settings = settings
        self._broker = broker
        self._patient = patient
        self._service = service
        self._topics = tuple(topics)
        self._producer = producer
        self._from_latest = from_latest
        self._max_batch = max_batch
        self._waiting = Waiting(health)
        self._consumer: AIOKafkaConsumer | None = None
        self._workers: dict[TopicPartition, PartitionWorker] = {}
        self._dirty = asyncio.Event()
        self._committing = asyncio.Lock()
        self._failure: asyncio.Future[None] | None = None
        self._pending: _Commit | None = None
        self._joined = False
        self._duties = Duties(
            service, handler, self._bury, self._waiting, self._dirty.set, self._pressure, at_once, urgent
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`. A log that goes away later is waited for.

        Raises:
            StopTheStart: the log does not answer at the start, refuses our user or group, misses a topic (or its DLQ), or ends
                before what this group has read.
        """
        wanted = [*self._topics, *map(names.dlq, self._topics)]
        await security.check_log(self._settings, wanted, broker=self._broker)
        await check_offsets(self._settings, self.group, self._broker)
        member = slots.claim(self._settings.run_dir / "members", f"{self._service}.{socket.gethostname()}")
        try:
            await self._consume(member.name, stop)
        finally:
            member.release()

    async def _consume(self, member: str, stop: asyncio.Event) -> None:
        waits = pauses()
        while True:
            self._joined = False
            try:
                await self._session(member, stop)
            except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
                raise StopTheStart(
                    f"Kafka does not let group {self.group!r} read {', '.join(self._topics)}: {error}. `make up` sets the rights."
                ) from error
            except (KafkaError, OSError) as error:
                if self._joined:
                    log.warning("consumer starts anew", group=self.group, error=repr(error))
                    waits = pauses()
                self._waiting.on(security.PART, self._away(type(error).__name__), self.group)
            if await pause(next(waits), stop):
                break
        self._waiting.over(security.PART, self.group)

    # One membership of the group -----------------------------------------------------------------------------

    async def _session(self, member: str, stop: asyncio.Event) -> None:
        consumer = AIOKafkaConsumer(
            **security.client_options(self._settings, self._broker),
            client_id=self._service,
            group_id=self.group,
            group_instance_id=member,  # a restart takes its partitions back at once; else they wait for SESSION_MS
            enable_auto_commit=False,
            auto_offset_reset="latest" if self._from_latest else "earliest",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 3,
            rebalance_timeout_ms=REBALANCE_MS,
            request_timeout_ms=REBALANCE_MS + 5_000,
            **fetching(self._patient),
        )
        self._consumer = consumer
        self._failure = asyncio.get_running_loop().create_future()
        consumer.subscribe(self._topics, listener=_Listener(self))
        tasks: list[asyncio.Future[Any]] = [
            asyncio.create_task(self._read(consumer), name=f"{self.group} reads"),
            asyncio.create_task(self._commit_as_it_goes(consumer), name=f"{self.group} commits"),
            asyncio.create_task(self._watch(consumer), name=f"{self.group} watches"),
            asyncio.create_task(stop.wait(), name="stop"),
        ]
        try:
            done, _ = await asyncio.wait([*tasks, self._failure], return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)
            await self._leave(consumer, stop.is_set())

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        await consumer.start()
        while True:
            # No task and no await between the fetch and the queues: a rebalance cannot come in between.
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=self._max_batch)
            for partition, messages in batches.items():
                self._worker(partition).put([record_of(message) for message in messages])

    def _worker(self, partition: TopicPartition) -> PartitionWorker:
        worker = self._workers.get(partition)
        if worker is None:
            worker = PartitionWorker(partition, self._duties)
            worker.task.add_done_callback(self._worker_ended)
            self._workers[partition] = worker
        return worker

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        """A worker that dies of its own error must not leave its partition silent."""
        if task.cancelled() or task.exception() is None:
            return
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(task.exception() or RuntimeError("worker ended"))

    def _pressure(self, worker: PartitionWorker) -> None:
        """Pause or resume a worker's partition; aiokafka forgets pauses, but each assignment has new workers."""
        if self._consumer is None or self._workers.get(worker.partition) is not worker:
            return
        with contextlib.suppress(IllegalStateError):  # the partition just left
            if worker.wants_pause:
                self._consumer.pause(worker.partition)
            else:
                self._consumer.resume(worker.partition)
        metrics.partitions_waiting.labels(self._service).set(sum(each.held for each in self._workers.values()))

    async def _bury(self, letter: dlq.DeadLetter) -> None:
        await dlq.bury(self._producer, letter, self.group)

    # Commits ---------------------------------------------------------------------------------------------------

    async def _commit_as_it_goes(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            with contextlib.suppress(Transient):  # the next progress or revoke commits it; health shows the log is away
                await self._commit(consumer)
            await asyncio.sleep(COMMIT_EVERY_S)

    async def _commit(self, consumer: AIOKafkaConsumer, bound_s: float = COMMIT_S) -> None:
        """Commit each worker's finished offset.

        Raises:
            Transient: no answer within `bound_s`; the commit stays under way and is looked at again next time.
        """
        async with self._committing:
            if self._pending is not None:
                await self._answered(self._pending, bound_s)
            due = {
                each: each.done
                for each in self._workers.values()
                if each.done is not None and each.done != each.committed
            }
            if due:
                await failpoints.reached("commit.before_send")
                offsets = {each.partition: offset for each, offset in due.items()}
                self._pending = _Commit(asyncio.create_task(consumer.commit(offsets), name=f"{self.group} commit"), due)
                await self._answered(self._pending, bound_s)
                await failpoints.reached("commit.after_send")

    async def _answered(self, commit: _Commit, bound_s: float) -> None:
        # Not cancelled when late: aiokafka goes on with it anyway, and would complain that nobody took the result.
        await asyncio.wait({commit.task}, timeout=bound_s)
        if not commit.task.done():
            self._dirty.set()
            raise Transient(self._away("commit"), part=security.PART)
        self._pending = None
        self._settle(commit)

    def _settle(self, commit: _Commit) -> None:
        try:
            commit.task.result()
        except (CommitFailedError, IllegalStateError) as error:
            # Someone else owns them now: what was not committed is read again there.
            log.warning("commit refused: partitions moved", group=self.group, error=type(error).__name__)
            for worker in commit.due:
                worker.close()
        except KafkaError as error:
            self._dirty.set()
            raise Transient(self._away(type(error).__name__), part=security.PART) from error
        else:
            for worker, offset in commit.due.items():
                worker.committed = offset

    # Rebalance -------------------------------------------------------------------------------------------------

    async def revoked(self) -> None:
        """Finish the records in hand, commit, forget everything: the next assignment reads from the commits."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.close()
        await asyncio.gather(*(worker.closed_within(REVOKE_S) for worker in workers))
        if self._consumer is not None:
            with contextlib.suppress(Transient):  # not committed: read again, which handlers must stand
                await self._commit(self._consumer)
        self._workers.clear()
        metrics.partitions_waiting.labels(self._service).set(0)

    async def assigned(self, partitions: set[TopicPartition]) -> None:
        log.info(
            "partitions assigned", group=self.group, partitions=sorted(f"{p.topic}[{p.partition}]" for p in partitions)
        )
        workers = [self._worker(partition) for partition in partitions]
        if self._from_latest:
            await self._pin(workers)
        self._waiting.over(security.PART, self.group)
        self._joined = True
        self.ready.set()

    async def _pin(self, workers: list[PartitionWorker]) -> None:
        """Commit where each partition begins: else one that got nothing yet would begin at its new end after a rebalance."""
        assert self._consumer is not None
        for worker in workers:
            try:
                async with asyncio.timeout(COMMIT_S):
                    position = await self._consumer.position(worker.partition)
            except (KafkaError, IllegalStateError, TimeoutError) as error:
                log.warning("begin not pinned", partition=str(worker.partition), error=repr(error))
                return
            worker.begins(position)
        self._dirty.set()

    async def _leave(self, consumer: AIOKafkaConsumer, asked: bool) -> None:
        """Finish the records in hand, commit, leave: within LEAVE_S, so that a process that was asked to stop does."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.close()
        await asyncio.gather(*(worker.closed_within(LEAVE_S / 2) for worker in workers))
        with contextlib.suppress(Transient):
            await self._commit(consumer, LEAVE_S / 8)
        self._workers.clear()
        self._consumer = None
        if self._pending is not None:
            self._pending.task.cancel()
            self._pending = None
        try:
            await within(LEAVE_S / 4, consumer.stop(), f"{self.group} leaves")
        except TimeoutError:
            log.warning("consumer not closed cleanly", group=self.group)
            if not asked:
                # It would keep its partitions and handle none of them: only the end of the process frees them.
                raise RuntimeError(f"consumer of {self.group} could not be closed: start the process again") from None

    async def _watch(self, consumer: AIOKafkaConsumer) -> None:
        """aiokafka waits silently while the log is away: ask it something small now and then, so that health can say so."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            partition = next(iter(self._workers), None)
            if partition is None:
                continue  # between two assignments
            try:
                async with asyncio.timeout(WATCH_EVERY_S):
                    await consumer.committed(partition)
            except (KafkaError, TimeoutError) as error:
                self._waiting.on(security.PART, self._away(type(error).__name__), self.group)
            else:
                self._waiting.over(security.PART, self.group)

    def _away(self, why: str) -> str:
        return f"Kafka at {self._settings.kafka_bootstrap} does not answer: {why}"


@dataclass(frozen=True, slots=True)
class _Commit:
    """A commit under way and the offsets it is about."""

    task: asyncio.Task[None]
    due: dict[PartitionWorker, int]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka swallows what a listener raises; a failure here ends the session instead."""

    def __init__(self, runner: ConsumerRunner) -> None:
        self._runner = runner

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._guard(self._runner.revoked())

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await self._guard(self._runner.assigned(set(assigned)))

    async def _guard(self, step: Any) -> None:
        try:
            await step
        except Exception as error:
            failure = self._runner._failure
            if failure is not None and not failure.done():
                failure.set_exception(error)
            raise
