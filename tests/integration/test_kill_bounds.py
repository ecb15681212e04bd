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

from activities.exit_bounds import ExitBounds
from activities.kill_broker_calls import KillBrokerCalls
from core.brokers.pacer import Pacer
from core.brokers.port import BookRow, BrokerPosition, PlaceRequest
from core.brokers.reader import BookReader
from core.clock import utc_now
from core.config import Settings
from core.errors import OutcomeUnknown, Transient
from core.flatten_file import FlattenFile, Outcome
from core.kill_work import AccountSeen, KillInput, KillView, SeenInput
from core.order_work import OrderView, PlaceInput
from core.storage import kill as store
from core.storage.flatten import book_flattened, ended_in_file
from core.storage.kill_foreign import SENDS, foreign_sends
from core.trading.durations import OrderDurations
from core.trading.orders import SeenFill
from core.trading.types import Exchange, Intent, OrderStatus, OrderType, Product, SendState, Side
from tests.integration.kill_world import Account, KillWorld, book_row, close, kill_world, position
from tests.integration.test_broker_calls import ToldTrader, calls
from tests.journal_world import trade

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(stack: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KillWorld]:
    """With a home of its own, where no flatten ever ran."""
    for module in ("activities.exit_bounds", "activities.kill_broker_calls"):
        monkeypatch.setattr(f"{module}.home", lambda: tmp_path)
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


# the broker's net shrinks under an exit -----------------------------------------------------------------------------


async def planned(world: KillWorld, account: Account, net: int = 10) -> tuple[KillInput, UUID]:
    """We hold 10, the switch asked for an exit of what is at the broker, and risk made an order of it that waits to be sent."""
    await world.hold(Side.BUY, 10)
    account.held = (infy(net),)
    kill = world.kill()
    await world.engage(kill)
    assert (await look(world, account, kill)).exits == 1
    order_id = await world.decided(world.log.sent[-1][1], accepted=True)
    assert order_id is not None
    return kill, order_id


async def test_an_exit_not_sent_yet_is_cancelled_and_planned_anew_when_somebody_sells(
    world: KillWorld, account: Account
) -> None:
    kill, order_id = await planned(world, account)
    account.held = (infy(4),)
    view = await look(world, account, kill)
    assert [row["kind"] for row in await world.commands() if row["order_id"] == order_id] == ["CANCEL"]
    (words,) = view.alerts
    assert "the broker's net is +4 now, which leaves 4 of ours to close" in words
    assert "SELL 10 INFY" in words
    assert view.exits == 0
    found = await world.journal.journal.load(order_id)
    assert found.order["cancel_requested"]
    await world.journal.journal.end_unsent(order_id, found.status.CANCELLED, "cancelled before it was sent")
    view = await look(world, account, kill)
    signal: Any = world.log.sent[-1][1].data
    assert (view.exits, view.alerts, signal.quantity) == (1, (), 4)


async def test_an_exit_at_the_broker_is_not_cancelled_its_fill_may_be_what_made_the_net_smaller(
    world: KillWorld, account: Account
) -> None:
    kill, order_id = await planned(world, account)
    await world.journal.sent(order_id)
    account.held = (infy(4),)
    view = await look(world, account, kill)
    assert order_id not in {row["order_id"] for row in await world.commands()}
    assert view.alerts == ()


async def why_not(world: KillWorld, account: Account, order_id: UUID) -> str | None:
    told: Any = account
    order = (await world.journal.journal.load(order_id)).order
    return await ExitBounds(world.journal.journal, told, BookReader(told)).why_not(order)


@pytest.mark.parametrize(("net", "goes"), [(10, True), (15, True), (9, False), (0, False), (-5, False)])
async def test_right_before_its_claim_an_exit_of_a_kill_switch_is_held_against_the_brokers_net(
    world: KillWorld, account: Account, net: int, goes: bool
) -> None:
    _, order_id = await planned(world, account)
    account.held = (infy(net),) if net else ()
    told = await why_not(world, account, order_id)
    assert (told is None) is goes
    if told is not None:
        assert f"the broker's net is {net:+d} now" in told


async def test_what_another_exit_will_take_is_not_there_twice(world: KillWorld, account: Account) -> None:
    _, first = await planned(world, account, 6)
    other = await world.order(Side.SELL, 4, intent=Intent.EXIT, source="kill", instance=f"other@{world.account}")
    await world.journal.sent(first)
    account.held = (infy(10),)
    assert await why_not(world, account, other) is None
    account.held = (infy(9),)
    assert await why_not(world, account, other) is not None
    name = (await world.journal.journal.load(first)).order["broker_order_id"]
    account.rows, account.held = (infy_row(name, 6, status="COMPLETE"),), (infy(4),)
    assert await why_not(world, account, other) is None, "it has taken it, though that is not booked yet"


async def test_other_exits_are_bounded_by_the_journal_as_ever(world: KillWorld, account: Account) -> None:
    await world.hold(Side.BUY, 10)
    order_id = await world.order(Side.SELL, intent=Intent.EXIT)
    assert await why_not(world, account, order_id) is None


async def test_a_broker_that_cannot_be_read_sends_no_exit_and_is_asked_again(
    world: KillWorld, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, order_id = await planned(world, account)

    async def away() -> Any:
        raise Transient("zerodha positions: 503", part="zerodha")

    monkeypatch.setattr(account, "positions", away)
    with pytest.raises(Exception, match="cannot be read before an exit"):
        await why_not(world, account, order_id)


async def test_no_exit_goes_while_what_flatten_closed_is_not_booked(
    world: KillWorld, account: Account, tmp_path: Path
) -> None:
    """The journal still holds what `flatten --direct` sold: an exit would open the opposite."""
    await world.hold(Side.BUY, 10)
    order_id = await world.order(Side.SELL, intent=Intent.EXIT)
    with FlattenFile(tmp_path / "var", world.account, "test") as file:
        send = file.send(
            exchange=Exchange.NSE, tradingsymbol="INFY", instrument_token=408065, product=Product.MIS, side=Side.SELL,
            quantity=10, deadline_s=8,
        )  # fmt: skip
        assert "flatten --direct" in (await why_not(world, account, order_id) or ""), "it may be on its way"
        fill = SeenFill(f"T{send.line.tag}", 10, Decimal(1500), utc_now())
        file.outcome(
            send.line.tag, Outcome.ENDED, broker_order_id=f"F{send.line.tag}", status="COMPLETE", filled_quantity=10,
            trades=(fill,),
        )  # fmt: skip
        kill = world.kill()
        await world.engage(kill)
        account.held = (infy(10),)  # somebody else's
        view = await look(world, account, kill)
        assert (view.exits, view.foreign) == (0, ())
        assert "flatten --direct" in (await why_not(world, account, order_id) or "")
        await book_flattened(world.journal.journal, ended_in_file(file.sends(), world.account, "test"))
    assert await why_not(world, account, order_id) is None, "the claim sees that it is flat"


async def test_an_exit_that_is_held_back_is_told_and_not_claimed_and_an_entry_is_not_asked(world: KillWorld) -> None:
    trader = ToldTrader()
    at = calls(world.journal, trader)

    async def told(order: dict[str, Any]) -> str:
        return f"waits: not {order['side']}"

    at.holds_back = told
    await world.journal.hold(Side.BUY, 10)
    leave, entry = await world.journal.order(Side.SELL, intent=Intent.EXIT), await world.journal.order()
    asked = PlaceInput(order_id=leave, send_no=1, durations=OrderDurations())
    found: OrderView = await ActivityEnvironment().run(at.place_order, asked)
    assert (found.waits, found.status, trader.placed) == ("waits: not SELL", OrderStatus.PENDING, 0)
    assert (await world.journal.journal.load(leave)).send["state"] == SendState.INTENT
    await ActivityEnvironment().run(at.place_order, asked.model_copy(update={"order_id": entry}))
    assert trader.placed == 1


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


@pytest.mark.parametrize("trouble", [OutcomeUnknown("read timeout"), None], ids=["in doubt", "accepted"])
async def test_an_exit_whose_day_is_over_lets_the_switch_finish_and_is_told(
    world: KillWorld, account: Account, trouble: Exception | None
) -> None:
    """The book of that day is gone: nobody will see how it ended. What it left is in the positions, and closed anew."""
    account.held, account.refusal = (position(5),), trouble
    kill = world.kill(include_foreign=True)
    await world.engage(kill)
    await close(world, account, kill)
    assert (await look(world, account, kill)).foreign_open
    async with world.journal.engine.begin() as connection:
        earlier = {"claimed_at": utc_now() - timedelta(days=1), "deadline_at": utc_now() - timedelta(days=1)}
        await connection.execute(update(SENDS).where(SENDS.c.kill_id == kill.kill_id).values(**earlier))
    account.refusal = None
    await close(world, account, kill)
    first, second = await foreign_sends(world.journal.engine, kill.kill_id)
    assert (first["state"], second["state"], len(account.placed)) == ("DAY_OVER", "SENT", 2)
    assert "ended before a book showed its end" in first["answer"]
    account.held, account.rows = (), (book_row("B2", "COMPLETE", second["tag"], filled=5),)
    await close(world, account, kill)
    view = await look(world, account, kill)
    assert (view.is_flat, view.foreign) == (True, ())
    (told,) = view.over
    assert first["tag"] in told
