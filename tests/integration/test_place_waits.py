"""What happens to a send that must wait, for its turn at the pacer or for a login: an entry grows too old, nothing is claimed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.broker_calls import BrokerCalls
from core.brokers.pacer import Pacer, Turn
from core.brokers.paper import UNLIMITED
from core.brokers.port import PlaceRequest
from core.clock import trading_day, utc_now
from core.config import Settings
from core.order_work import OrderView, PlaceInput
from core.storage.db import broker_engine
from core.storage.journal import SENDS
from core.trading.durations import OrderDurations
from core.trading.types import Broker, Intent, OrderStatus, SendState, Side
from tests.integration.test_broker_calls import ToldTrader, calls, look
from tests.journal_world import JournalWorld

pytestmark = pytest.mark.stack

LOGIN = "no valid Zerodha session: run `alpha-panda login`"


@pytest.fixture
async def world(stack: Settings) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(stack, Broker.ZERODHA)
    yield await JournalWorld.make(engine, Broker.ZERODHA)
    await engine.dispose()


async def place(at: BrokerCalls, order_id: UUID) -> OrderView:
    asked = PlaceInput(order_id=order_id, send_no=1, durations=OrderDurations())
    found: OrderView = await ActivityEnvironment().run(at.place_order, asked)
    return found


async def state(world: JournalWorld, order_id: UUID) -> str:
    async with world.engine.connect() as connection:
        return str(await connection.scalar(select(SENDS.c.state).where(SENDS.c.order_id == order_id)))


class SlowTurn(Pacer):
    """A pacer whose turn comes only after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(UNLIMITED)
        self.seconds = seconds
        self.out = 0

    async def acquire(self, urgent: bool, timeout_s: float = 2.0, *, holds: bool = False) -> Turn:
        await asyncio.sleep(self.seconds)
        self.out += 1
        return Turn(time.monotonic(), trading_day(utc_now()), None)

    def answered(self, turn: Turn) -> None:
        assert self.out == 1

    def give_back(self, turn: Turn, *, left: bool = False) -> None:
        self.out -= 1


async def test_an_entry_that_grows_too_old_while_it_waits_for_its_turn_is_not_sent(world: JournalWorld) -> None:
    order_id, trader, turn = await world.order(age_limit_s=2.0), ToldTrader(), SlowTurn(2.0)
    at = calls(world, trader)
    at.pacer = turn
    ended = await place(at, order_id)
    assert ended.status is OrderStatus.EXPIRED
    assert "too old to act on" in (ended.reason or "")
    assert trader.placed == 0
    assert turn.out == 0, "what was not sent does not count for the day"


async def test_an_entrys_last_moment_to_leave_is_its_age_not_only_the_deadline(world: JournalWorld) -> None:
    """The claim and the wait for a thread take time too: the request carries the moment past which no byte may leave."""

    class Noting(ToldTrader):
        left: float

        async def place(self, request: PlaceRequest) -> str:
            self.left = request.deadline - time.monotonic()
            return await super().place(request)

    for intent, side, longest in ((Intent.ENTRY, Side.BUY, 3.0), (Intent.EXIT, Side.SELL, 8.0)):
        trader = Noting()
        if intent is Intent.EXIT:
            await world.hold(Side.BUY, 10)
        order_id = await world.order(side, intent=intent, origin_at=utc_now() - timedelta(seconds=2))
        assert (await place(calls(world, trader), order_id)).status is OrderStatus.SUBMITTED
        assert longest - 2 < trader.left <= longest


@pytest.mark.parametrize(("intent", "side"), [(Intent.ENTRY, Side.BUY), (Intent.EXIT, Side.SELL)])
async def test_without_a_session_nothing_is_claimed_and_no_turn_is_taken(
    world: JournalWorld, intent: Intent, side: Side
) -> None:
    await world.hold(Side.SELL if side is Side.BUY else Side.BUY, 10)
    order_id, trader = await world.order(side, intent=intent), ToldTrader()
    at = calls(world, trader)
    login: list[str | None] = [LOGIN]
    at.waits_for = lambda: login[0]
    for _ in range(3):
        with pytest.raises(ApplicationError, match="alpha-panda login"):
            await place(at, order_id)
    assert (trader.placed, await state(world, order_id), at.pacer.day_sent) == (0, SendState.INTENT, 0)
    login[0] = None
    assert (await place(at, order_id)).status is OrderStatus.SUBMITTED


async def test_an_entry_too_old_for_a_dead_session_expires_and_names_the_login(world: JournalWorld) -> None:
    order_id = await world.order(origin_at=utc_now() - timedelta(seconds=6))
    at = calls(world, ToldTrader())
    at.waits_for = lambda: LOGIN
    ended = await place(at, order_id)
    assert ended.status is OrderStatus.EXPIRED
    assert "alpha-panda login" in (ended.reason or "")


@pytest.mark.parametrize("known", [False, True])
async def test_looks_wait_for_the_login_and_say_so(world: JournalWorld, known: bool) -> None:
    order_id = await world.order()
    broker_order_id = await world.sent(order_id) if known else None
    if not known:
        await world.claim(order_id)
        await world.journal.unknown(order_id, 1, "read timeout")
    at = calls(world, ToldTrader())
    at.waits_for = lambda: LOGIN
    activity: Any = at.look_at_book if known else at.look_up_by_tag
    with pytest.raises(ApplicationError, match="alpha-panda login"):
        await ActivityEnvironment().run(activity, look(order_id, broker_order_id))
