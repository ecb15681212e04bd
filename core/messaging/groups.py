"""Names of consumer groups, and what they have committed. Reads only."""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from core.config import Settings
from core.errors import StopTheStart
from core.messaging import security
from core.messaging.bounded import closed
from core.trading.types import Broker
from core.waiting import pauses

PREFIX = "alpha-panda."
ASK_S = 10.0

REBUILD = "alpha-panda rebuild-log"
"""What a person types when the log is not the one it was."""


def group_of(service: str) -> str:
    return f"{PREFIX}{service}"


async def check_offsets(settings: Settings, group: str, broker: Broker | None = None) -> None:
    """A group that has read further than its topics reach would begin anew in silence, or skip what comes until then.

    Raises:
        StopTheStart: it has: the log was lost (names the command that makes it anew); or it gives no answer for PATIENCE_S.
    """
    began = time.monotonic()
    for pause in pauses():  # a log that is new has no coordinator of groups for a moment
        try:
            committed, ends = await _offsets(settings, group, broker)
            break
        except (KafkaError, TimeoutError, OSError) as error:
            if time.monotonic() - began + pause > security.PATIENCE_S:
                raise StopTheStart(
                    f"Kafka at {settings.kafka_bootstrap} does not tell the offsets of {group}: {type(error).__name__}"
                ) from error
        await asyncio.sleep(pause)
    for partition, end in sorted(ends.items()):
        if committed[partition] > end:
            raise StopTheStart(lost(f"{partition.topic}[{partition.partition}]", end, group, committed[partition]))


async def _offsets(
    settings: Settings, group: str, broker: Broker | None
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """What the group has committed, and where these partitions end; those of topics that are gone are left out."""
    options = security.client_options(settings, broker)
    admin, consumer = AIOKafkaAdminClient(**options), AIOKafkaConsumer(**options)
    try:
        async with asyncio.timeout(ASK_S):
            await admin.start()
            rows = await admin.list_consumer_group_offsets(group)
            committed = {partition: row.offset for partition, row in rows.items() if row.offset > 0}
            if not committed:
                return {}, {}
            await consumer.start()
            there = await consumer.topics()
            return committed, await consumer.end_offsets([each for each in committed if each.topic in there])
    finally:
        await closed(admin.close(), "group-look-close")
        await closed(consumer.stop(), "group-look-close")


def lost(partition: str, end: int, reader: str, at: int) -> str:
    """The words for a partition that ends before what was read of it."""
    return (
        f"{partition} ends at {end}, and {reader} has read it up to {at}: the log was lost. `make down`, then `{REBUILD}` "
        "makes it anew from the journal."
    )
