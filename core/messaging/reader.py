"""Reads topics without a group, from offsets the caller keeps itself: folds that carry checkpoints, rebuilds of read models.

Never commits anything and never skips silently: a range the log no longer has is said aloud.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from core import logging
from core.config import Settings
from core.errors import StopTheStart, Transient
from core.messaging import groups, security
from core.messaging.bounded import closed
from core.messaging.records import Record, fetching, record_of
from core.trading.types import Broker

ASK_S = 10.0
"""Bound of one question to the log (offsets, partitions)."""

MAX_RECORDS = 1000

log = logging.get(__name__)

Offsets = Mapping[tuple[str, int], int]


class LogReader:
    """Every partition of its topics, each from its own offset. One task reads at a time.

    `patient`: records may come up to PATIENT_MS late, many at once; a log that need not answer each costs much less.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client_id: str,
        topics: Sequence[str],
        broker: Broker | None = None,
        patient: bool = False,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._client_id = client_id
        self._topics = tuple(topics)
        self._patient = patient
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: list[TopicPartition] = []

    async def start(self, offsets: Offsets | Literal["earliest", "latest"]) -> None:
        """Begin at these offsets (the next record to read); a partition not named begins at its first record.

        Raises:
            StopTheStart: the log refuses our user, misses a topic, or ends before an offset: it is not the one that was read.
            Transient: it does not answer; start again once it may.
        """
        await security.check_once(self._settings, self._topics, self._broker)
        consumer = AIOKafkaConsumer(
            **security.client_options(self._settings, self._broker),
            client_id=self._client_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            **fetching(self._patient),
            request_timeout_ms=int(ASK_S * 1000),
        )
        try:
            async with asyncio.timeout(ASK_S):
                await consumer.start()
                consumer._client.set_topics(self._topics)
                self._partitions = [
                    TopicPartition(topic, number)
                    for topic in self._topics
                    for number in sorted(await consumer._client._wait_on_metadata(topic))
                ]
                consumer.assign(self._partitions)
                await self._place(consumer, offsets)
        except BaseException as error:
            await closed(consumer.stop(), "reader-close")
            if isinstance(error, KafkaError | TimeoutError | OSError):
                raise self._away(error) from error
            raise
        self._consumer = consumer

    async def _place(self, consumer: AIOKafkaConsumer, offsets: Offsets | Literal["earliest", "latest"]) -> None:
        first = await consumer.beginning_offsets(self._partitions)
        end = await consumer.end_offsets(self._partitions)
        for partition in self._partitions:
            if offsets == "latest":
                at = end[partition]
            elif offsets == "earliest":
                at = first[partition]
            else:
                at = offsets.get((partition.topic, partition.partition), first[partition])
                if at > end[partition]:
                    name = f"{partition.topic}[{partition.partition}]"
                    raise StopTheStart(groups.lost(name, end[partition], self._client_id, at))
                if at < first[partition]:
                    self._say_lost(partition, at, first[partition], end[partition])
                    at = first[partition]
            consumer.seek(partition, at)

    def _say_lost(self, partition: TopicPartition, wanted: int, first: int, end: int) -> None:
        log.error(
            "the log no longer has the wanted range: read from its first record",
            topic=partition.topic, partition=partition.partition, wanted=wanted, first=first, end=end,
        )  # fmt: skip

    async def read(self, timeout_s: float) -> list[Record]:
        """What has arrived, in order per partition; empty after `timeout_s` without any (also while the log is away)."""
        consumer = self._started()
        try:
            batches = await consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=MAX_RECORDS)
        except OffsetOutOfRangeError as error:
            await self._replace(consumer, error)
            return []
        except KafkaError as error:
            raise self._away(error) from error
        return [record_of(message) for messages in batches.values() for message in messages]

    async def _replace(self, consumer: AIOKafkaConsumer, error: OffsetOutOfRangeError) -> None:
        lost: dict[TopicPartition, int] = error.args[0]
        first, end = (
            await self._ask(consumer.beginning_offsets(list(lost))),
            await self._ask(consumer.end_offsets(list(lost))),
        )
        for partition, wanted in lost.items():
            self._say_lost(partition, wanted, first[partition], end[partition])
            consumer.seek(partition, first[partition])

    async def end_offsets(self) -> dict[tuple[str, int], int]:
        """One past the last record of every partition, as of now.

        Raises:
            Transient: the log is away.
        """
        found = await self._ask(self._started().end_offsets(self._partitions))
        return {(partition.topic, partition.partition): offset for partition, offset in found.items()}

    async def alive(self) -> None:
        """Raises Transient while the log is away (reading merely finds nothing then)."""
        await security.probe(self._settings, self._broker)

    async def stop(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await closed(consumer.stop(), "reader-close")

    def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("LogReader is not started")
        return self._consumer

    async def _ask(self, question: object) -> dict[TopicPartition, int]:
        try:
            async with asyncio.timeout(ASK_S):
                answer: dict[TopicPartition, int] = await question  # type: ignore[misc]
                return answer
        except (KafkaError, TimeoutError, OSError) as error:
            raise self._away(error) from error

    def _away(self, error: BaseException) -> Transient:
        return Transient(
            f"Kafka at {self._settings.kafka_bootstrap} does not answer: {type(error).__name__}", part=security.PART
        )
