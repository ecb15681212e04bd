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
from tests.integration.messaging import fresh, producing, running

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


async def test_a_checkpoint_past_the_end_of_the_log_is_refused(stack: Settings) -> None:
    end = (await end_offsets(stack, [RAW]))[RAW][0]
    reader = LogReader(stack, client_id="test", topics=[RAW])
    with pytest.raises(StopTheStart, match=REBUILD):
        await reader.start({(RAW, 0): end + 1})
    await reader.start({(RAW, 0): end})
    await reader.stop()
