"""Helpers of the messaging tests: a runner in the background, marked records, reading back what a topic has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from core.config import Settings
from core.errors import Transient
from core.health import HealthReporter
from core.ids import new_id
from core.messaging.consumer import ConsumerRunner
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.messaging.records import Handler, Record
from core.waiting import pauses

BOUND_S = 60.0


def fresh(prefix: str) -> str:
    """A name no other run of the tests uses: the log is shared and keeps everything."""
    return f"{prefix}-{new_id().hex[-12:]}"


async def until(what: Callable[[], bool], bound_s: float = BOUND_S, why: str = "") -> None:
    try:
        async with asyncio.timeout(bound_s):
            while not what():  # noqa: ASYNC110  a condition, with a bound
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {bound_s:.0f} s: {why or what}") from None


@asynccontextmanager
async def producing(settings: Settings) -> AsyncIterator[EventProducer]:
    producer = EventProducer(settings, client_id="test")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def running(
    settings: Settings, folder: Path, service: str, topics: Sequence[str], handler: Handler, producer: EventProducer
) -> AsyncIterator[tuple[ConsumerRunner, HealthReporter]]:
    """A runner that has its partitions; a fresh group begins at the end. What it raises fails the test."""
    health = HealthReporter(service, folder)
    health.started()
    runner = ConsumerRunner(
        settings, health, service=service, topics=topics, handler=handler, producer=producer, from_latest=True
    )
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    ready = asyncio.create_task(runner.ready.wait())
    try:
        await asyncio.wait({task, ready}, timeout=BOUND_S, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        assert runner.ready.is_set(), "no partitions assigned"
        yield runner, health
    finally:
        ready.cancel()
        stop.set()
        async with asyncio.timeout(BOUND_S):
            await task


async def publish(producer: EventProducer, topic: str, run: str, numbers: Sequence[int]) -> None:
    """Records marked with the test's run and their number; 16 keys, so that every partition gets some."""
    futures = []
    for number in numbers:
        headers = [("id", f"{run}/{number}".encode()), ("run", run.encode()), ("number", str(number).encode())]
        futures.append(await producer.enqueue(topic, key=f"k{number % 16}".encode(), value=b"{}", headers=headers))
    await asyncio.gather(*futures)


def number_of(record: Record, run: str) -> int | None:
    """The record's number, None for another test's."""
    return int(record.headers["number"]) if record.headers.get("run") == run.encode() else None


async def read_back(settings: Settings, topic: str, wanted: Callable[[Record], bool]) -> list[Record]:
    """Everything on a topic now that is wanted."""
    reader = LogReader(settings, client_id="test-reader", topics=[topic])
    async with asyncio.timeout(BOUND_S):
        for seconds in pauses():  # a broker that was just restarted or thawed may still be away for a moment
            try:
                await reader.start("earliest")
                break
            except Transient:
                await asyncio.sleep(seconds)
    try:
        end = await reader.end_offsets()
        missing = {where for where, offset in end.items() if offset > 0}
        found: list[Record] = []
        async with asyncio.timeout(BOUND_S):
            while missing:
                for record in await reader.read(0.5):
                    where = (record.topic, record.partition)
                    if record.offset + 1 >= end[where]:
                        missing.discard(where)
                    if wanted(record):
                        found.append(record)
        return found
    finally:
        await reader.stop()
