"""Which send an answer or a hint belongs to, and what comes of one that is late: on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from core import ids
from core.config import Settings
from core.storage.db import broker_engine
from core.storage.journal import HintedOrder
from core.trading.types import Broker, Intent, OrderStatus, SendState, Side
from tests.journal_world import JournalWorld, trade

pytestmark = pytest.mark.stack


@pytest.fixture(params=list(Broker))
async def world(stack: Settings, request: pytest.FixtureRequest) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(stack, request.param)
    yield await JournalWorld.make(engine, request.param)
    await engine.dispose()


async def lost(world: JournalWorld, **changes: Any) -> UUID:
    order_id = await world.order(**changes)
    await world.claim(order_id)
    await world.journal.unknown(order_id, 1, "read timeout")
    return order_id


async def test_a_final_refusal_ends_an_order_that_was_unknown_meanwhile(world: JournalWorld) -> None:
    """The answer of the one who claimed the send, late: nothing else can have been placed."""
    order_id = await lost(world)
    found = await world.journal.refused(order_id, 1, "MARGIN: not enough")
    assert (found.status, found.send["state"]) == (OrderStatus.REJECTED, SendState.REFUSED)
    assert found.order["reason"] == "MARGIN: not enough"


async def test_a_refusal_after_the_day_was_over_is_a_persons_to_weigh(world: JournalWorld) -> None:
    order_id = await lost(world)
    await world.journal.unresolved(order_id, 1, "the day is over")
    assert (await world.journal.refused(order_id, 1, "MARGIN")).status is OrderStatus.UNRESOLVED


async def test_an_entrys_answer_after_its_absence_was_proven_leaves_the_end_and_marks_the_send(
    world: JournalWorld,
) -> None:
    order_id = await lost(world)
    await world.journal.absent(order_id, 1, "3 books")
    found = await world.journal.submitted(order_id, 1, f"B{order_id}", "accepted")
    assert (found.status, found.send["state"]) == (OrderStatus.EXPIRED, SendState.LATE)
    assert f"accepted as B{order_id}" in found.send["answer"]


async def test_a_hint_says_whether_anybody_follows_the_send_it_is_about(world: JournalWorld) -> None:
    async def late(order_id: UUID, send_no: int, name: str = "no such order") -> bool:
        found = await world.journal.find_by_hint(name, ids.order_tag(order_id, send_no))
        assert found is not None
        correlation_id = (await world.journal.load(order_id)).order["correlation_id"]
        assert found == HintedOrder(order_id, correlation_id, found.late)
        return found.late

    await world.hold(Side.BUY, 10)
    leave = await lost(world, side=Side.SELL, intent=Intent.EXIT)
    assert not await late(leave, 1), "it is being looked up"
    await world.journal.absent(leave, 1, "3 books")
    assert (await late(leave, 1), await late(leave, 2)) == (True, False)
    given_up = await lost(world)
    await world.journal.absent(given_up, 1, "3 books")
    assert await late(given_up, 1)
    followed = await world.order()
    broker_order_id = await world.sent(followed)
    assert await late(given_up, 1, broker_order_id), "our tag goes before the broker's id"
    assert not await late(followed, 1)
    await world.fill(followed, trade(10))
    assert not await late(followed, 1), "an old update of an order that ended as the book said"
    assert await world.journal.find_by_hint("not ours", None) is None
