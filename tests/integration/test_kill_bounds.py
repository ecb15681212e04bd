"""What a kill switch does when somebody else acts on the account meanwhile: never past the broker's net, and ours is not FOREIGN."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update
from temporalio.testing import ActivityEnvironment

from activities.kill_broker_calls import KillBrokerCalls
from core.brokers.pacer import Pacer
from core.brokers.port import BookRow, BrokerPosition, PlaceRequest
from core.brokers.reader import BookReader
from core.clock import utc_now
from core.config import Settings
from core.errors import OutcomeUnknown
from core.kill_work import AccountSeen, KillInput, KillView, SeenInput
from core.storage import kill as store
from core.storage.kill_foreign import SENDS, foreign_sends
from core.trading.types import Exchange, OrderType, Product, Side
from tests.integration.kill_world import Account, KillWorld, book_row, close, kill_world, position
from tests.journal_world import trade

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(stack: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KillWorld]:
    """With a home of its own, where no flatten ever ran."""
    monkeypatch.setattr("activities.kill_broker_calls.home", lambda: tmp_path)
    async with kill_world(stack) as one:
        yield one


@pytest.fixture
def account() -> Account:
    return Account()


def infy(quantity: int) -> BrokerPosition:
    return BrokerPosition(Exchange.NSE, "INFY", 408065, Product.MIS, quantity, Decimal(1500))


def infy_row(broker_order_id: str, filled: int, *tags: str, status: str = "CANCELLED") -> BookRow:
    return BookRow(
        broker_order_id, tags, status, None, Exchange.NSE, "INFY", 408065, Side.BUY, Product.MIS, OrderType.MARKET,
        10, filled, 0, None, None, None, utc_now(),
    )  # fmt: skip


def at_broker(world: KillWorld, account: Account) -> KillBrokerCalls:
    told: Any = account
    return KillBrokerCalls(
        world.journal.journal, told, BookReader(told), Pacer(account.profile), world.journal.logged_in(world.account)
    )


async def look(world: KillWorld, account: Account, kill: KillInput) -> KillView:
    """One round of a kill switch after its cancels: the account is seen, then exits are asked for."""
    seen: AccountSeen = await ActivityEnvironment().run(at_broker(world, account).see_account, kill)
    view: KillView = await ActivityEnvironment().run(world.calls.exit_positions, SeenInput(kill=kill, seen=seen))
    return view


# ours, not booked yet -----------------------------------------------------------------------------------------------


async def late_fill(world: KillWorld, account: Account) -> UUID:
    """An order that ended CANCELLED here, of which the broker then filled three."""
    order_id = await world.order()
    broker_order_id = await world.journal.sent(order_id)
    await world.journal.fill(order_id, status="CANCELLED")
    row = infy_row(broker_order_id, 3)
    account.rows, account.held = (row,), (infy(3),)
    return order_id


async def test_a_late_fill_of_ours_is_not_foreign_and_keeps_the_switch_at_work(
    world: KillWorld, account: Account
) -> None:
    order_id = await late_fill(world, account)
    kill = world.kill(include_foreign=True)
    await world.engage(kill)
    view = await look(world, account, kill)
    assert view.foreign == ()
    assert [(one.order_id, one.status) for one in view.working] == [(order_id, "ended here, fills not booked yet")]
    assert not view.is_flat
    assert await close(world, account, kill) == ()
    assert account.placed == [], "reconciliation books it, and then it is ours to close"


async def test_a_fill_of_a_send_whose_answer_was_lost_is_not_foreign(world: KillWorld, account: Account) -> None:
    order_id = await world.order()
    await world.journal.claim(order_id)
    await world.journal.journal.unknown(order_id, 1, "read timeout")
    await world.journal.journal.absent(order_id, 1, "3 books without it")
    tag = (await world.journal.journal.load(order_id)).send["tag"]
    account.rows, account.held = (infy_row("LATE", 10, tag, status="COMPLETE"),), (infy(10),)
    kill = world.kill(include_foreign=True)
    await world.engage(kill)
    assert (await look(world, account, kill)).foreign == ()
    await close(world, account, kill)
    assert account.placed == []


async def test_what_is_booked_to_the_unit_is_judged(world: KillWorld, account: Account) -> None:
    order_id = await world.order()
    broker_order_id = await world.journal.sent(order_id)
    await world.journal.fill(order_id, trade(3), status="CANCELLED")
    account.rows, account.held = (infy_row(broker_order_id, 3),), (infy(5),)
    kill = world.kill()
    await world.engage(kill)
    view = await look(world, account, kill)
    assert (view.foreign, view.working) == (("position +2 NSE:INFY MIS",), ())


# what is not ours, closed because a person typed so -----------------------------------------------------------------


async def test_a_foreign_position_that_somebody_closes_meanwhile_is_not_closed_again(
    world: KillWorld, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.held = (position(5), position(7, "TCS"), position(9, "ITC"))
    place = account.place

    async def meanwhile(request: PlaceRequest) -> str:
        account.held = (position(-2, "TCS"), position(9, "ITC"))
        return await place(request)

    monkeypatch.setattr(account, "place", meanwhile)
    kill = world.kill(include_foreign=True)
    await world.engage(kill)
    await close(world, account, kill)
    sent = [(request.tradingsymbol, request.side, request.quantity) for request in account.placed]
    assert sent == [("SBIN", Side.SELL, 5), ("TCS", Side.BUY, 2), ("ITC", Side.SELL, 9)]


async def test_a_switch_after_a_released_one_knows_what_that_has_sent(world: KillWorld, account: Account) -> None:
    account.held, account.refusal = (position(5),), OutcomeUnknown("read timeout")
    first = world.kill(include_foreign=True)
    await world.engage(first)
    await close(world, account, first)
    (request,) = account.placed
    await store.release(world.journal.engine, world.account, None, by="me", reason="enough", force=True)
    account.refusal = None
    second = world.kill(include_foreign=True)
    await world.engage(second)
    for _ in range(2):
        await close(world, account, second)
    assert len(account.placed) == 1, "whether the first one's exit arrived is not known"
    account.rows = (book_row("late", "OPEN", request.tag),)
    await close(world, account, second)
    assert (account.cancelled, len(account.placed)) == ([], 1), "it is ours, and at work"
    account.rows, account.held = (book_row("late", "COMPLETE", request.tag, filled=5),), ()
    await close(world, account, second)
    (send,) = await foreign_sends(world.journal.engine, first.kill_id)
    assert send["state"] == "DONE"
    account.held = (position(3),)
    await close(world, account, second)
    assert [one.quantity for one in account.placed] == [5, 3], "the doubt is over"


async def test_what_an_earlier_day_left_in_doubt_holds_nothing_back(world: KillWorld, account: Account) -> None:
    account.held, account.refusal = (position(5),), OutcomeUnknown("read timeout")
    first = world.kill(include_foreign=True)
    await world.engage(first)
    await close(world, account, first)
    await store.release(world.journal.engine, world.account, None, by="me", reason="enough", force=True)
    async with world.journal.engine.begin() as connection:
        mine = SENDS.c.kill_id == first.kill_id
        await connection.execute(update(SENDS).where(mine).values(claimed_at=utc_now() - timedelta(days=1)))
    account.refusal = None
    second = world.kill(include_foreign=True)
    await world.engage(second)
    await close(world, account, second)
    assert len(account.placed) == 2
