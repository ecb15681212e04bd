"""What a slow log holds up of the journal's news, and what it does not: on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from core.config import Settings
from core.storage.db import broker_engine
from core.storage.outbox import Outbox
from core.trading.types import Broker
from tests.journal_world import JournalWorld

pytestmark = pytest.mark.stack


@pytest.fixture(params=list(Broker))
async def world(stack: Settings, request: pytest.FixtureRequest) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(stack, request.param)
    yield await JournalWorld.make(engine, request.param)
    await engine.dispose()


class _SlowLog:
    """A producer that takes one order's events when the test says so, and all others at once."""

    def __init__(self, slow: UUID) -> None:
        self._slow = str(slow).encode()
        self.let_go = asyncio.Event()
        self.taken: list[bytes] = []

    async def send_raw(self, topic: str, *, key: bytes, value: bytes, headers: object) -> None:
        if key == self._slow:
            await self.let_go.wait()
        self.taken.append(key)


async def test_what_the_log_is_slow_to_take_holds_no_other_orders_news(world: JournalWorld) -> None:
    slow, *others = [await world.order() for _ in range(12)]
    for order_id in (slow, *others):
        await world.sent(order_id)
    log = _SlowLog(slow)
    told: Any = log
    outbox = Outbox(world.engine, told)
    publishing = asyncio.create_task(outbox.run())
    try:
        waiting = asyncio.create_task(outbox.publish(slow))
        async with asyncio.timeout(20):
            together = await asyncio.gather(*(outbox.publish(order_id) for order_id in others[:6]))
            assert together == [1] * 6, "asked at the same moment"
            for order_id in others[6:]:
                assert await outbox.publish(order_id) == 1, "asked later"
            assert not waiting.done()
            again = asyncio.create_task(outbox.publish(slow))
            await asyncio.sleep(0)
            log.let_go.set()
            assert (await waiting, await again) == (1, 0), "one order is in one batch at a time"
    finally:
        publishing.cancel()
    assert log.taken.count(str(slow).encode()) == 1
