"""How far behind each consumer group is, and where topics begin and end. Reads only."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from core import metrics
from core.config import Settings
from core.errors import Transient
from core.messaging import security
from core.messaging.bounded import closed
from core.messaging.groups import PREFIX

ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class GroupLag:
    """Offsets of one partition: `committed` is the next record to handle, `end` one past the last record."""

    group: str
    topic: str
    partition: int
    committed: int
    end: int
    lag: int


async def lag_by_group(settings: Settings) -> list[GroupLag]:
    """Every partition each of our groups ever committed.

    Raises:
        Transient: the log is away.
    """
    committed = await _committed(settings)
    wanted = {partition for offsets in committed.values() for partition in offsets}
    _, end = await bounds(settings, wanted)
    rows = [
        GroupLag(group, partition.topic, partition.partition, offset, end[partition], max(0, end[partition] - offset))
        for group, offsets in sorted(committed.items())
        for partition, offset in sorted(offsets.items())
        if partition in end
    ]
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        totals[row.group, row.topic] += row.lag
    for (group, topic), lag in totals.items():
        metrics.consumer_lag.labels(group, topic).set(lag)
    return rows


async def end_offsets(settings: Settings, names: list[str]) -> dict[str, dict[int, int]]:
    """One past the last record of every partition of these topics. Topics the log lacks are left out.

    Raises:
        Transient: the log is away.
    """
    _, end = await bounds(settings, names)
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for partition, offset in end.items():
        found[partition.topic][partition.partition] = offset
    return dict(found)


async def _committed(settings: Settings) -> dict[str, dict[TopicPartition, int]]:
    admin = AIOKafkaAdminClient(**security.client_options(settings), request_timeout_ms=int(ASK_S * 1000))
    try:
        async with asyncio.timeout(ASK_S):
            await admin.start()
            groups = [name for name, *_ in await admin.list_consumer_groups() if name.startswith(PREFIX)]
            found = {}
            for group in groups:
                rows = await admin.list_consumer_group_offsets(group)
                found[group] = {partition: row.offset for partition, row in rows.items() if row.offset >= 0}
            return found
    except (KafkaError, TimeoutError, OSError) as error:
        raise _away(settings, error) from error
    finally:
        await closed(admin.close(), "lag-look-close")


async def bounds(
    settings: Settings, wanted: set[TopicPartition] | list[str]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """First and end offsets of these partitions, or of every partition of these topics. Topics the log lacks are left out.

    Raises:
        Transient: the log is away.
    """
    if not wanted:
        return {}, {}
    consumer = AIOKafkaConsumer(**security.client_options(settings), request_timeout_ms=int(ASK_S * 1000))
    try:
        async with asyncio.timeout(ASK_S):
            await consumer.start()
            await consumer._client.set_topics({item if isinstance(item, str) else item.topic for item in wanted})
            partitions = [
                TopicPartition(topic, number)
                for topic in {item if isinstance(item, str) else item.topic for item in wanted}
                for number in consumer.partitions_for_topic(topic) or ()
            ]
            return await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    except (KafkaError, TimeoutError, OSError) as error:
        raise _away(settings, error) from error
    finally:
        await closed(consumer.stop(), "lag-look-close")


def _away(settings: Settings, error: BaseException) -> Transient:
    return Transient(f"Kafka at {settings.kafka_bootstrap} does not answer: {type(error).__name__}", part=security.PART)
