"""The worker of one partition: its records in turn, urgent ones first, each until it is handled, dead in the DLQ, or someone else's.

Never skips a record and never starts one after it was closed: what it has not finished is read again by the next owner.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiokafka import TopicPartition

from core import failpoints, logging, metrics
from core.errors import Poison, Transient
from core.messaging.dlq import DeadLetter
from core.messaging.records import Handler, Record
from core.waiting import Waiting, part_of, pause, pauses

FULL = 1000
"""Records a worker holds before its partition is paused; it goes on at half of that."""

MAX_ATTEMPTS = 3
"""Tries of a record that fails for a reason we do not know."""

YIELD_EVERY = 50
"""Records after which a worker lets the others have the event loop."""

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Duties:
    """What a worker is given: how to handle a record, how to bury one, whom to tell, how many records may be in hand at once, and
    which of them overtake those of other keys."""

    service: str
    handle: Handler
    bury: Callable[[DeadLetter], Awaitable[None]]
    waiting: Waiting
    progressed: Callable[[], None]
    pressure: Callable[[PartitionWorker], None]
    at_once: int = 1
    urgent: Callable[[Record], bool] | None = None


class PartitionWorker:
    """`done` is the offset to commit: all before it are finished; None before the first."""

    def __init__(self, partition: TopicPartition, duties: Duties) -> None:
        self.partition = partition
        self.done: int | None = None
        self.committed: int | None = None
        self.held = False
        self._name = f"{partition.topic}[{partition.partition}]"
        self._duties = duties
        self._queue: deque[Record] = deque()
        self._urgent: set[int] = set()
        """Offsets of urgent records in the queue."""
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        self._full = False
        self._begun = False
        self.task = asyncio.create_task(self._run(), name=f"worker {self._name}")

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    @property
    def wants_pause(self) -> bool:
        """Waiting for a part, or behind."""
        return self.held or self._full

    def put(self, records: list[Record]) -> None:
        """Queue records in their order. A closed worker drops them: they were never committed."""
        if self.closed:
            return
        self._begun = True
        self._queue.extend(records)
        if self._duties.urgent is not None:
            self._urgent |= {record.offset for record in records if self._duties.urgent(record)}
        self._arrived.set()
        if len(self._queue) >= FULL and not self._full:
            self._full = True
            self._duties.pressure(self)

    def begins(self, offset: int) -> None:
        """Nothing before `offset` is ours. No effect once records came: then the position is past what is finished."""
        if not self._begun and not self.closed:
            self.done = offset

    def close(self) -> None:
        """Start no other record. The one in hand is finished, or given up at its next wait for a part."""
        self._closing.set()
        self._queue.clear()
        self._arrived.set()

    async def closed_within(self, seconds: float) -> None:
        """Wait for the record in hand; a handler that takes longer is cancelled, as if the process had died."""
        done, _ = await asyncio.wait({self.task}, timeout=seconds)
        if not done:
            log.warning("handler cancelled: its partition is leaving", partition=self._name, after_s=seconds)
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=1)
        self._duties.waiting.gone(self._name)

    async def _run(self) -> None:
        consumed = metrics.events_consumed.labels(self._duties.service, self.partition.topic)
        count = 0
        while not self.closed:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            last = self._queue[-1].offset
            batch = self._next()
            finished = self._queue[0].offset if self._queue else last + 1  # with this batch, everything before it
            if not await self._through(batch):
                return
            consumed.inc(len(batch))
            self.done = finished
            self._duties.progressed()
            if self._full and len(self._queue) <= FULL // 2:
                self._full = False
                self._duties.pressure(self)
            count += 1
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _next(self) -> list[Record]:
        """What is handled next: urgent records before others, but never before an older one of their own key."""
        room = self._duties.at_once
        if not self._urgent:
            return [self._queue.popleft() for _ in range(min(len(self._queue), room))]
        first: list[Record] = []
        rest: deque[Record] = deque()
        waiting: set[bytes] = set()
        for record in self._queue:
            if record.offset in self._urgent and record.key not in waiting and len(first) < room:
                first.append(record)
            else:
                waiting.add(record.key)
                rest.append(record)
        while rest and len(first) < room:
            first.append(rest.popleft())
        self._queue = rest
        self._urgent.difference_update(record.offset for record in first)
        return first

    async def _through(self, batch: list[Record]) -> bool:
        """All of them, beside each other. False: the partition was taken away before the last was finished."""
        if len(batch) == 1:
            return await self._one(batch[0])
        return all(await asyncio.gather(*(self._one(record) for record in batch)))

    async def _one(self, record: Record) -> bool:
        began = time.perf_counter()
        await failpoints.reached("consume.before_handle")
        if not await self._finish(record):
            return False
        await failpoints.reached("consume.after_handle")
        metrics.handler_seconds.labels(self._duties.service).observe(time.perf_counter() - began)
        return True

    async def _finish(self, record: Record) -> bool:
        """Handle or bury. False: the partition was taken away first."""
        attempts, unknown = 0, 0
        waits = pauses()
        while True:
            attempts += 1
            try:
                await self._duties.handle(record)
            except Transient as error:
                if not await self._wait(error, next(waits)):
                    return False
                continue
            except Poison as error:
                letter = DeadLetter(record, error, error.stage, attempts)
            except Exception as error:
                unknown += 1
                log.exception("handler failed", partition=self._name, offset=record.offset, attempt=unknown)
                if unknown < MAX_ATTEMPTS:
                    if await pause(0.1 * unknown, self._closing):
                        return False
                    continue
                letter = DeadLetter(record, error, "handle", attempts)
            else:
                self._go_on()
                return True
            return await self._bury(letter)

    async def _bury(self, letter: DeadLetter) -> bool:
        for seconds in pauses():
            try:
                await self._duties.bury(letter)
            except Exception as error:  # whatever it is: a dead letter that is not written must hold the partition
                why = error if isinstance(error, Transient) else Transient(f"DLQ write failed: {error!r}", part="kafka")
                if not await self._wait(why, seconds):
                    return False
                continue
            break
        self._go_on()
        return True

    async def _wait(self, error: Transient, seconds: float) -> bool:
        """Hold the partition for this long. False: it was taken away."""
        if not self.held:
            self.held = True
            self._duties.pressure(self)
        self._duties.waiting.gone(self._name, but=part_of(error))
        self._duties.waiting.on(part_of(error), str(error), self._name)
        return not await pause(seconds, self._closing)

    def _go_on(self) -> None:
        if self.held:
            self.held = False
            self._duties.waiting.gone(self._name)
            self._duties.pressure(self)
