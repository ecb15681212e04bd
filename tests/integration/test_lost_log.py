"""A log that ends before what was read of it: whoever reads it says so and names the command, instead of skipping or beginning anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import Settings
from core.errors import StopTheStart
from core.events import topics
from core.messaging import rebuild
from core.messaging.groups import REBUILD, group_of
from core.messaging.lag import end_offsets
from core.messaging.reader import LogReader
from core.messaging.rebuild import GroupReset
from core.messaging.records import Record
from core.trading.types import Broker
from tests.integration.messaging import fresh, number_of, producing, publish, running, until

pytestmark = pytest.mark.stack

RAW = topics.signals_raw(Broker.PAPER)


async def nothing(record: Record) -> None:
    pass


async def test_a_group_that_has_read_further_than_the_log_reaches_does_not_start(
    stack: Settings, tmp_path: Path
) -> None:
    service = fresh("lost")
    end = (await end_offsets(stack, [RAW]))[RAW][0]
    rebuild.commit(stack, [GroupReset(group_of(service), RAW, 0, None, end + 1000)])
    async with producing(stack) as producer:
        with pytest.raises(StopTheStart, match=REBUILD):
            async with running(stack, tmp_path, service, [RAW], nothing, producer):
                raise AssertionError("it consumes")
        wrong = [row for row in await rebuild.wrong_offsets(stack) if row.group == group_of(service)]
        assert [(row.topic, row.partition, row.committed, row.to) for row in wrong] == [(RAW, 0, end + 1000, 0)]
        rebuild.commit(stack, wrong)
        async with running(stack, tmp_path, service, [RAW], nothing, producer):
            pass
    assert not [row for row in await rebuild.wrong_offsets(stack) if row.group == group_of(service)]


async def test_a_group_within_a_topic_that_lost_events_begins_anew_and_in_another_topic_goes_on(
    stack: Settings, tmp_path: Path
) -> None:
    """What is filled up gets other offsets than it had: the record at the group's offset is not the one it was."""
    service, run = fresh("lost"), fresh("run")
    async with producing(stack) as producer:
        await publish(producer, RAW, run, range(20))
    ends = (await end_offsets(stack, [RAW]))[RAW]
    read = [GroupReset(group_of(service), RAW, number, None, end) for number, end in ends.items() if end]
    rebuild.commit(stack, read)

    async def wrong(*lost: str) -> dict[int, int]:
        return {
            row.partition: row.to for row in await rebuild.wrong_offsets(stack, lost) if row.group == group_of(service)
        }

    assert await wrong() == await wrong(topics.signals_validated(Broker.PAPER)) == {}
    assert await wrong(RAW) == {row.partition: 0 for row in read}
    seen: set[int] = set()

    async def hear(record: Record) -> None:
        number = number_of(record, run)
        seen.update(() if number is None else (number,))

    async with producing(stack) as producer:
        rebuild.commit(
            stack, [row for row in await rebuild.wrong_offsets(stack, [RAW]) if row.group == group_of(service)]
        )
        async with running(stack, tmp_path, service, [RAW], hear, producer):
            await until(lambda: seen == set(range(20)), why="every record is handled though all were read before")


async def test_a_checkpoint_past_the_end_of_the_log_is_refused(stack: Settings) -> None:
    end = (await end_offsets(stack, [RAW]))[RAW][0]
    reader = LogReader(stack, client_id="test", topics=[RAW])
    with pytest.raises(StopTheStart, match=REBUILD):
        await reader.start({(RAW, 0): end + 1})
    await reader.start({(RAW, 0): end})
    await reader.stop()
