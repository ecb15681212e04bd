"""The runner's merged input: which topics, from where, in what order, and how far it has read. Decides nothing."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from core.events import topics
from core.messaging.reader import LogReader
from core.messaging.records import Record
from core.trading.types import Broker

QUIET_READS = 25
"""So many reads in a row without a record, with the log answering, and there is nothing left to catch up with."""


def input_topics(brokers: Iterable[Broker]) -> list[str]:
    """Ticks, what people changed, and every active broker's order events and refusals."""
    rows = [topics.MARKET_TICKS, topics.CONFIG_CHANGES]
    for broker in brokers:
        rows += [*topics.order_topics(broker), topics.signals_rejected(broker)]
    return rows


def first_offsets(ends: dict[tuple[str, int], int], brokers: Iterable[Broker]) -> dict[tuple[str, int], int]:
    """Without a checkpoint: orders from the beginning (they make the positions), all else from now."""
    history = {topic for broker in brokers for topic in topics.order_topics(broker)}
    return {key: at for key, at in ends.items() if key[0] not in history}


def merged(records: Sequence[Record]) -> Iterator[Record]:
    """One batch by time, each partition's own order kept."""
    partitions: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        partitions.setdefault((record.topic, record.partition), []).append(record)
    return heapq.merge(*partitions.values(), key=lambda record: record.timestamp_ms)


class CatchingUp:
    """Whether everything that was on the log when we started has been read."""

    def __init__(self, ends: dict[tuple[str, int], int], positions: dict[tuple[str, int], int]) -> None:
        self._missing = {
            key: end for key, end in ends.items() if key[0] == topics.MARKET_TICKS and positions.get(key, 0) < end
        }
        self._quiet = 0

    @property
    def over(self) -> bool:
        return not self._missing

    def read(self, positions: dict[tuple[str, int], int]) -> None:
        """Records came: see which partitions are through."""
        self._quiet = 0
        self._missing = {key: end for key, end in self._missing.items() if positions.get(key, 0) < end}

    async def nothing_came(self, reader: LogReader) -> None:
        """A read found nothing: the log may have dropped what we waited for.

        Raises:
            Transient: it found nothing because the log is away.
        """
        self._quiet += 1
        if self._quiet >= QUIET_READS:
            await reader.alive()
            self._missing = {}
