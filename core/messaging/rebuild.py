"""Makes a log that was lost anew from stored bytes: only what it lacks, as it was, in its order; offsets of its predecessor go.

Runs while no service does. Never publishes what the log has already, and never changes an id, a key or a byte.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from core.config import Settings
from core.errors import Transient
from core.messaging import lag
from core.messaging.groups import group_of
from core.messaging.producer import EventProducer
from core.messaging.provision import TIMEOUT_S, admin_client
from core.messaging.reader import LogReader
from core.storage.log_copy import Stored

READ_S = 0.5
STALL_S = 30.0


def half_made(log: str) -> str:
    """What the database calls a log while it is being filled up: no service starts on it."""
    return f"{log}, half rebuilt"


def log_id(settings: Settings) -> str:
    """The id the log was given when its storage was made: another one means other offsets."""
    return str(admin_client(settings).list_topics(timeout=TIMEOUT_S).cluster_id)


async def ids_on_log(settings: Settings, names: Sequence[str]) -> dict[str, set[UUID]]:
    """Ids of every event on these topics.

    Raises:
        Transient: the log is away.
    """
    found: dict[str, set[UUID]] = {name: set() for name in names}
    reader = LogReader(settings, client_id="rebuild-log", topics=names, patient=True)
    await reader.start("earliest")
    try:
        missing = {at: end for at, end in (await reader.end_offsets()).items() if end > 0}
        heard = time.monotonic()
        while missing:
            for record in await reader.read(READ_S):
                heard = time.monotonic()
                at = (record.topic, record.partition)
                if "id" in record.headers:
                    found[record.topic].add(UUID(record.headers["id"].decode()))
                if record.offset + 1 >= missing.get(at, record.offset + 2):
                    del missing[at]
            if time.monotonic() - heard > STALL_S:
                raise Transient(f"Kafka gave nothing for {STALL_S:.0f} s before the end of {sorted(missing)}")
    finally:
        await reader.stop()
    return found


@dataclass(slots=True)
class Rebuilt:
    """Events by topic: how many are stored, and how many of them the log lacks (or lacked, where they were sent)."""

    stored: Counter[str] = field(default_factory=Counter)
    lacking: Counter[str] = field(default_factory=Counter)


async def fill_up(
    source: AsyncIterator[list[Stored]], there: dict[str, set[UUID]], producer: EventProducer | None, done: Rebuilt
) -> None:
    """Send what of `source` is not there, in its order; without a producer only count it.

    Raises:
        Transient: the log or the database is away; what was sent is there, do it again.
    """
    async for batch in source:
        wanted = [event for event in batch if event.event_id not in there[event.topic]]
        done.stored.update(event.topic for event in batch)
        done.lacking.update(event.topic for event in wanted)
        if producer is not None:
            await _send(producer, wanted)


async def _send(producer: EventProducer, events: Iterable[Stored]) -> None:
    """Handed over in order, so that a partition keeps it; acknowledged together."""
    sends = (producer.send_raw(each.topic, key=each.key, value=each.value, headers=each.headers) for each in events)
    await asyncio.gather(*sends)


@dataclass(frozen=True, slots=True)
class GroupReset:
    """A committed offset that is not this log's, and the one that is."""

    group: str
    topic: str
    partition: int
    committed: int | None
    to: int


async def wrong_offsets(settings: Settings, lost: Collection[str] = (), *, new_log: bool = False) -> list[GroupReset]:
    """Committed offsets that do not mean what they meant, to be asked before anything is filled up.

    Raises:
        Transient: the log is away.
    """
    rows = await lag.lag_by_group(settings)
    begins, _ = await lag.bounds(settings, sorted({row.topic for row in rows}))
    return resets(rows, {(at.topic, at.partition): begin for at, begin in begins.items()}, lost, new_log=new_log)


def resets(
    rows: Iterable[lag.GroupLag], begins: Mapping[tuple[str, int], int], lost: Collection[str], *, new_log: bool
) -> list[GroupReset]:
    """Those past the end of their partition, and all of a topic that has `lost` events: what is filled up gets other places than it
    had, so that an offset there may be past records which were never handled. On a new log, all. Their group begins at the
    partition's first record, which every reader stands.
    """
    found = []
    for row in rows:
        begin = begins.get((row.topic, row.partition), 0)
        if row.committed > row.end or (row.committed > begin and (new_log or row.topic in lost)):
            found.append(GroupReset(row.group, row.topic, row.partition, row.committed, begin))
    return found


async def past_what_was_started(settings: Settings, service: str, names: list[str]) -> list[GroupReset]:
    """Offsets at the end of these topics, for a reader of what is rebuilt that need not see it again."""
    ends = await lag.end_offsets(settings, names)
    return [
        GroupReset(group_of(service), topic, partition, None, end)
        for topic, partitions in ends.items()
        for partition, end in partitions.items()
    ]


def commit(settings: Settings, rows: Sequence[GroupReset]) -> None:
    """Set these offsets and see that they are set: a log that is new may take a moment to know its groups.

    Raises:
        Transient: it does not set them, as while a member of the group lives.
    """
    from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

    admin = admin_client(settings)
    for group in sorted({row.group for row in rows}):
        wanted = {(row.topic, row.partition): row.to for row in rows if row.group == group}
        asked = [TopicPartition(topic, number) for topic, number in wanted]
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                offsets = [TopicPartition(topic, number, to) for (topic, number), to in wanted.items()]
                _answer(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, offsets)]))
                there = _answer(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, asked)]))
                why = "it does not keep them"
            except KafkaException as error:
                there, why = {}, error.args[0].str()
            if there == wanted:
                break
            if time.monotonic() > end:
                raise Transient(f"Kafka does not set the offsets of {group}: {why}", part="kafka")
            time.sleep(0.5)


def _answer(futures: dict[str, Any]) -> dict[tuple[str, int], int]:
    """Raises KafkaException where the whole was refused, or a partition of it."""
    from confluent_kafka import KafkaException

    (result,) = (future.result(timeout=TIMEOUT_S) for future in futures.values())
    for row in result.topic_partitions:
        if row.error is not None:
            raise KafkaException(row.error)
    return {(row.topic, row.partition): row.offset for row in result.topic_partitions}
