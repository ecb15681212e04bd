"""Looks never take all slots of the urgent queue: an exit or a cancel finds one however slow the broker's reads are."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.broker_calls import LOOK_AGAIN_S, LOOKS, BrokerCalls
from activities.broker_worker import URGENT_SLOTS
from core.brokers.pacer import Pacer
from core.brokers.zerodha import LIMITS
from core.order_work import LookInput
from core.storage.claims import LeaseProof
from core.trading.calendar import calendar_for
from core.trading.durations import OrderDurations


class HungReader:
    """A broker whose reads do not come back until the test lets them."""

    def __init__(self) -> None:
        self.asking = 0
        self.all_ask = asyncio.Event()
        self.back = asyncio.Event()

    async def orders(self, broker_order_ids: list[str], *, not_before: float) -> dict[str, Any]:
        self.asking += 1
        if self.asking == LOOKS:
            self.all_ask.set()
        await self.back.wait()
        raise ConnectionError("the test's end")


def calls(reader: HungReader) -> BrokerCalls:
    none: Any = None
    told: Any = reader
    proof = LeaseProof("lease", "me", 1, "TEST01", "test")
    return BrokerCalls(none, none, told, Pacer(LIMITS), proof, calendar_for(simulated=True))


async def look(at: BrokerCalls) -> Any:
    asked = LookInput(
        order_id=uuid4(), send_no=1, broker_order_id="B1", durations=OrderDurations(), account="TEST01", target="test"
    )
    return await ActivityEnvironment().run(at.look_at_book, asked)


async def test_one_look_too_many_makes_room_in_a_moment_and_comes_again() -> None:
    reader = HungReader()
    at = calls(reader)
    hung = [asyncio.create_task(look(at)) for _ in range(LOOKS)]
    await asyncio.wait_for(reader.all_ask.wait(), 5)
    asked = asyncio.gather(*(look(at) for _ in range(URGENT_SLOTS)), return_exceptions=True)
    more = await asyncio.wait_for(asked, 60)  # whoever holds a slot that an exit may need gives it back by itself
    for refusal in more:
        assert isinstance(refusal, ApplicationError)
        assert (refusal.type, refusal.next_retry_delay) == ("LooksBusy", timedelta(seconds=LOOK_AGAIN_S))
    assert reader.asking == LOOKS
    reader.back.set()
    ended = await asyncio.gather(*hung, return_exceptions=True)
    assert all(isinstance(one, ConnectionError) for one in ended)
    with pytest.raises(ConnectionError):
        await look(at)  # each gave its place back, also with an error


def test_looks_leave_slots_to_exits_and_cancels() -> None:
    assert URGENT_SLOTS - LOOKS >= 8
