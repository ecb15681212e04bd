"""When the last tick went to the log: where the gap of a process that starts begins. Reads, never writes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from core.config import Settings
from core.errors import StopTheStart, Transient
from core.events.topics import MARKET_TICKS
from core.messaging.reader import LogReader

READ_S = 3.0


async def last_published(settings: Settings) -> datetime | None:
    """The time of the newest record of `market.ticks` (aware UTC, milliseconds), None for an empty topic.

    Raises:
        Transient: the log is away, or does not give its last records within READ_S.
    """
    try:
        return await _last_published(settings)
    except StopTheStart as error:  # of the start; a process that takes over later waits instead
        raise Transient(str(error), part="kafka") from error


async def _last_published(settings: Settings) -> datetime | None:
    reader = LogReader(settings, client_id="market-feed-resume", topics=[MARKET_TICKS])
    try:
        await reader.start("latest")
        ends = await reader.end_offsets()
    finally:
        await reader.stop()
    tails = {partition: end - 1 for partition, end in ends.items() if end > 0}
    if not tails:
        return None
    reader = LogReader(settings, client_id="market-feed-resume", topics=[MARKET_TICKS])
    try:
        await reader.start({**dict.fromkeys(ends, 0), **tails})
        return await _newest(reader, set(tails))
    finally:
        await reader.stop()


async def _newest(reader: LogReader, partitions: set[tuple[str, int]]) -> datetime | None:
    """The newest of the partitions' last records; retention may have emptied some, so the wait is bounded."""
    newest: int | None = None
    loop = asyncio.get_running_loop()
    until = loop.time() + READ_S
    while partitions and loop.time() < until:
        for record in await reader.read(0.2):
            partitions.discard((record.topic, record.partition))
            newest = max(newest or 0, record.timestamp_ms)
    return None if newest is None else datetime.fromtimestamp(newest / 1000, UTC)
