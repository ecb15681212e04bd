"""Late rows of the book, and exits as goals, on a real journal of each broker: nothing is lost and nothing oversold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from activities.broker_calls import view
from core import ids
from core.clock import trading_day, utc_now
from core.config import Settings
from core.storage.claims import ClaimResult
from core.storage.db import broker_engine
from core.storage.journal import SENDS, exit_is_short
from core.trading.commands import CommandKind
from core.trading.orders import SeenFill, SeenOrder
from core.trading.types import Broker, Intent, OrderStatus, SendState, Side
from tests.integration.command_world import CommandWorld, ToldTrader, listed, row
from tests.journal_world import trade

pytestmark = pytest.mark.stack

RESOLVE = CommandKind.RESOLVE


@pytest.fixture(params=list(Broker))
async def world(stack: Settings, request: pytest.FixtureRequest) -> AsyncIterator[CommandWorld]:
    engine = broker_engine(stack, request.param)
    made = await CommandWorld.make(engine, request.param)
    assert isinstance(made, CommandWorld)
    made.trader = ToldTrader()
    yield made
    await engine.dispose()


# late rows --------------------------------------------------------------------------------------------------------


async def given_up(world: CommandWorld, **changes: Any) -> tuple[UUID, str]:
    """An order whose first send was proven absent; the name its row would have."""
    order_id = await world.order(**changes)
    await world.claim(order_id)
    await world.journal.unknown(order_id, 1, "read timeout")
    await world.journal.absent(order_id, 1, "3 books")
    return order_id, f"L{str(order_id)[-12:]}"


async def test_a_late_row_of_an_expired_entry_is_adopted_once_cancelled_and_its_fills_booked(
    world: CommandWorld,
) -> None:
    order_id, name = await given_up(world)
    world.trader.rows[name] = row(name, filled_quantity=4, tags=(ids.order_tag(order_id, 1),))
    world.trader.filled = (listed(name, 4),)
    first = await world.adopt(name)
    assert (first.order_id, first.adopted, first.fills_booked, first.working) == (order_id, True, 1, True)
    assert world.trader.asked == [f"cancel {name}"]
    again = await world.adopt(name)
    assert (again.adopted, again.fills_booked, again.working) == (False, 0, False)
    found = await world.journal.load(order_id)
    assert (found.status, found.order["filled_quantity"]) == (OrderStatus.EXPIRED, 4)
    assert found.send["state"] == SendState.LATE_ENDED
    assert (await world.position())["quantity"] == 4
    assert (await world.events(order_id))[-1]["topic"].endswith(".orders.filled")


async def test_a_fill_after_the_end_is_booked_without_its_workflow(world: CommandWorld) -> None:
    order_id, name = await world.working()
    await world.fill(order_id, status="CANCELLED")
    world.trader.rows[name] = row(name, "CANCELLED", filled_quantity=3)
    world.trader.filled = (listed(name, 3),)
    late = await world.adopt(name)
    assert (late.adopted, late.fills_booked, late.working) == (False, 1, False)
    assert (await world.adopt(name)).fills_booked == 0
    assert await world.status(order_id) is OrderStatus.CANCELLED
    assert (await world.position())["quantity"] == 3
    assert world.trader.asked == []


async def test_rows_of_others_and_of_orders_that_are_followed_are_left_alone(world: CommandWorld) -> None:
    _, name = await world.working()
    world.trader.rows["FOREIGN"] = row("FOREIGN")
    for each in (name, "FOREIGN", "NOT IN THE BOOK"):
        assert (await world.adopt(each)).order_id is None
    assert world.trader.asked == []


async def named_alike(world: CommandWorld, name: str, **changes: Any) -> UUID:
    """An ended order that its broker once gave this id."""
    order_id = await world.order(**changes)
    await world.claim(order_id)
    await world.journal.submitted(order_id, 1, name, "accepted")
    await world.fill(order_id, status="CANCELLED")
    return order_id


async def test_a_brokers_id_names_an_order_within_one_account_target_and_day_and_our_tag_goes_before_it(
    world: CommandWorld,
) -> None:
    ours, name = await given_up(world)
    alike = await named_alike(world, name)
    others = await named_alike(world, name, account="OTHER01")
    await named_alike(world, name, target="production")
    yesterday = await named_alike(world, name)
    async with world.engine.begin() as connection:
        day = trading_day(utc_now()) - timedelta(days=1)
        await connection.execute(update(SENDS).where(SENDS.c.order_id == yesterday).values(trading_day=day))

    async def owner(**changes: Any) -> UUID | None:
        world.trader.rows[name] = row(name, "CANCELLED", order_at=utc_now(), **changes)
        return (await world.adopt(name)).order_id

    assert await owner(tags=(ids.order_tag(ours, 1),)) == ours
    assert await owner() == alike
    assert await owner(tags=(ids.order_tag(others, 1),)) == others, "a tag is unique in the journal"
    async with world.engine.begin() as connection:
        await connection.execute(update(SENDS).where(SENDS.c.order_id.in_([ours, alike])).values(broker_order_id=None))
    assert await owner() is None, "another account's id, another target's or another day's, is not ours"


async def test_while_a_late_exit_row_works_no_other_exit_sells_the_same(world: CommandWorld) -> None:
    await world.hold(Side.BUY, 10)
    order_id, name = await given_up(world, side=Side.SELL, intent=Intent.EXIT)
    world.trader.applies = False
    world.trader.rows[name] = row(name, side=Side.SELL, tags=(ids.order_tag(order_id, 1),))
    assert (await world.adopt(name)).working
    assert (await world.claim(order_id, 2)).result is ClaimResult.IN_DOUBT, "its first send may still sell all"
    other = await world.order(Side.SELL, 10, Intent.EXIT)
    assert (await world.claim(other)).result is ClaimResult.IN_DOUBT
    world.trader.rows[name] = replace(world.trader.rows[name], status="CANCELLED")
    await world.adopt(name)
    assert (await world.claim(order_id, 2)).quantity == 10


async def test_a_late_exit_row_that_has_ended_keeps_its_room_until_its_trades_are_booked(world: CommandWorld) -> None:
    """The broker counts ten sold and lists no trade yet: what we hold by the journal is sold already."""
    await world.hold(Side.BUY, 10)
    order_id, name = await given_up(world, side=Side.SELL, intent=Intent.EXIT)
    world.trader.rows[name] = row(
        name, "COMPLETE", side=Side.SELL, filled_quantity=10, tags=(ids.order_tag(order_id, 1),)
    )
    late = await world.adopt(name)
    assert (late.adopted, late.fills_booked, late.working) == (True, 0, False)
    other = await world.order(Side.SELL, 10, Intent.EXIT)
    assert (await world.claim(other)).result is ClaimResult.IN_DOUBT
    world.trader.filled = (listed(name, 4, name="T1"),)
    assert (await world.adopt(name)).fills_booked == 1
    assert (await world.claim(other)).result is ClaimResult.IN_DOUBT, "six more are sold"
    world.trader.filled += (listed(name, 6, name="T2"),)
    again = await world.adopt(name)
    assert (again.adopted, again.fills_booked) == (False, 1)
    assert [send["state"] for send in await world.sends(order_id)] == [SendState.LATE_ENDED, SendState.INTENT]
    assert (await world.claim(other)).result is ClaimResult.FLAT
    assert (await world.claim(order_id, 2)).result is ClaimResult.FLAT


async def test_a_late_row_whose_day_is_over_holds_no_exit_back_any_more(world: CommandWorld) -> None:
    """Its trades were never listed and its book is gone: without this its position could never be closed by us."""
    await world.hold(Side.BUY, 10)
    account = f"L{world.instance[-12:]}"
    order_id, name = await given_up(world, side=Side.SELL, intent=Intent.EXIT, account=account)
    world.trader.rows[name] = row(
        name, "COMPLETE", side=Side.SELL, filled_quantity=10, tags=(ids.order_tag(order_id, 1),)
    )
    await world.adopt(name)
    today = trading_day(utc_now())
    assert await world.commands.end_past_late(account, today) == []
    assert (await world.claim(order_id, 2)).result is ClaimResult.IN_DOUBT
    async with world.engine.begin() as connection:
        yesterday = {"trading_day": today - timedelta(days=1)}
        await connection.execute(update(SENDS).where(SENDS.c.tag == ids.order_tag(order_id, 1)).values(**yesterday))
    assert await world.commands.end_past_late(account, today) == [order_id]
    assert "its day ended" in (await world.sends(order_id))[0]["answer"]
    assert (await world.claim(order_id, 2)).quantity == 10


async def test_an_exit_that_filled_after_its_cancel_keeps_its_room_until_its_trades_are_booked(
    world: CommandWorld,
) -> None:
    await world.hold(Side.BUY, 10)
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    name = await world.sent(leave)
    await world.fill(leave, status="CANCELLED")
    world.trader.rows[name] = row(name, "CANCELLED", side=Side.SELL, filled_quantity=3)
    await world.adopt(name)
    other = await world.order(Side.SELL, 10, Intent.EXIT)
    assert (await world.claim(other)).result is ClaimResult.IN_DOUBT
    world.trader.filled = (listed(name, 3),)
    await world.adopt(name)
    assert (await world.claim(other)).quantity == 7


async def test_an_answer_after_the_send_was_given_up_moves_no_order_and_lets_no_exit_go(world: CommandWorld) -> None:
    """A process frozen in mid-send and thawed after the proof: its answer is that of a send nobody follows."""
    await world.hold(Side.BUY, 10)
    order_id, name = await given_up(world, side=Side.SELL, intent=Intent.EXIT)
    found = await world.journal.submitted(order_id, 1, name, "accepted")
    assert (found.status, found.order["broker_order_id"]) == (OrderStatus.PENDING, None)
    assert (await world.claim(order_id, 2)).result is ClaimResult.IN_DOUBT
    seen = SeenOrder(True, OrderStatus.FILLED, 10, 10, None)
    assert (await world.journal.fold(order_id, name, seen, [trade(10)])).status is OrderStatus.PENDING
    world.trader.rows[name] = row(name, side=Side.SELL, tags=(ids.order_tag(order_id, 1),))
    late = await world.adopt(name)
    assert (late.adopted, late.working, world.trader.asked) == (True, True, [f"cancel {name}"])
    await world.adopt(name)
    assert (await world.claim(order_id, 2)).quantity == 10


async def test_what_an_earlier_send_filled_is_not_taken_for_the_present_ones(world: CommandWorld) -> None:
    await world.hold(Side.BUY, 10)
    order_id, name = await given_up(world, side=Side.SELL, intent=Intent.EXIT, order_type="LIMIT", price=Decimal(100))
    world.trader.rows[name] = row(
        name, "CANCELLED", side=Side.SELL, filled_quantity=4, tags=(ids.order_tag(order_id, 1),)
    )
    world.trader.filled = (listed(name, 4),)
    await world.adopt(name)
    assert (await world.claim(order_id, 2)).quantity == 6
    await world.journal.submitted(order_id, 2, f"{name}-2", "accepted")
    assert (await world.commands.modifiable(order_id)).filled_quantity == 0
    seen = SeenOrder(True, OrderStatus.CANCELLED, 6, 2, "cancelled in the app")
    found = await world.journal.fold(order_id, f"{name}-2", seen, [trade(2)])
    assert (found.order["filled_quantity"], found.send_filled) == (6, 2)
    assert (view(found).filled_quantity, view(found).quantity) == (6, 10)
    assert exit_is_short(found), "four are still held"


# exits are goals ---------------------------------------------------------------------------------------------------


async def test_square_off_stop_and_manual_exit_at_once_never_oversell(world: CommandWorld) -> None:
    """All at once, some lost on the way, some partly filled: together never more than what is held."""
    await world.hold(Side.BUY, 10)
    exits = [await world.order(Side.SELL, quantity, Intent.EXIT) for quantity in (10, 4, 7)]
    claims = await asyncio.gather(*(world.claim(order_id) for order_id in exits))
    assert sum(claim.quantity for claim in claims) == 10
    claimed = {order_id: claim.quantity for order_id, claim in zip(exits, claims, strict=True) if claim.quantity}
    lost, *rest = claimed
    await world.journal.unknown(lost, 1, "read timeout")
    for order_id in rest:
        await world.journal.submitted(order_id, 1, f"B{str(order_id)[-12:]}", "accepted")
        await world.fill(order_id, trade(1), status="OPEN", quantity=claimed[order_id])
    one_more = await world.order(Side.SELL, 10, Intent.EXIT)
    again = await world.claim(one_more)
    assert again.quantity == 0
    assert again.result is ClaimResult.IN_DOUBT, "it does not end as flat: a lost exit may never have been placed"


async def test_an_exit_waits_while_another_works_and_takes_what_that_one_leaves(world: CommandWorld) -> None:
    """It is a goal: whether the position is flat is known when nothing of ours works any more."""
    await world.hold(Side.BUY, 10)
    first, second = [await world.order(Side.SELL, 10, Intent.EXIT) for _ in range(2)]
    await world.sent(first)
    waiting = await world.claim(second)
    assert (waiting.result, str(first) in waiting.told) == (ClaimResult.WAITS, True)
    await world.fill(first, trade(4), status="CANCELLED")
    assert (await world.claim(second)).quantity == 6


async def test_an_exit_of_nothing_waits_for_an_entry_that_may_still_fill(world: CommandWorld) -> None:
    entry = await world.order(order_type="LIMIT", price=Decimal(100))
    await world.sent(entry)
    await world.fill(entry, status="OPEN")
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    waiting = await world.claim(leave)
    assert (waiting.result, str(entry) in waiting.told) == (ClaimResult.WAITS, True)
    await world.fill(entry, trade(7), status="CANCELLED")
    assert (await world.claim(leave)).quantity == 7


async def test_an_exit_does_not_wait_for_an_entry_on_its_own_side(world: CommandWorld) -> None:
    await world.sent(await world.order(Side.SELL, order_type="LIMIT", price=Decimal(110)))
    assert (await world.claim(await world.order(Side.SELL, 10, Intent.EXIT))).result is ClaimResult.FLAT


async def test_an_exit_does_not_wait_for_an_entry_that_was_decided_after_it(world: CommandWorld) -> None:
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(await world.order())
    assert (await world.claim(leave)).result is ClaimResult.FLAT


@pytest.mark.parametrize("status", [OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED])
async def test_while_an_entry_is_in_doubt_its_exit_waits(world: CommandWorld, status: OrderStatus) -> None:
    await world.hold(Side.BUY, 10)
    entry = await world.order()
    await world.claim(entry)
    leave = await world.order(Side.SELL, 20, Intent.EXIT)
    sending = await world.claim(leave)
    assert (sending.result, sending.soon) == (ClaimResult.IN_DOUBT, True)
    await world.journal.unknown(entry, 1, "read timeout")
    if status is OrderStatus.UNRESOLVED:
        await world.journal.unresolved(entry, 1, "the day is over")
    waiting = await world.claim(leave)
    assert (waiting.result, waiting.soon) == (ClaimResult.IN_DOUBT, False)
    assert str(entry) in waiting.told
    await world.journal.submitted(entry, 1, f"B{str(entry)[-12:]}", "found by its tag")
    await world.fill(entry, trade(10))
    assert (await world.claim(leave)).quantity == 20


async def test_an_unresolved_exit_does_not_let_others_end_as_flat(world: CommandWorld) -> None:
    await world.hold(Side.BUY, 10)
    lost = await world.doubtful(side=Side.SELL, intent=Intent.EXIT)
    other = await world.order(Side.SELL, 10, Intent.EXIT)
    waiting = await world.claim(other)
    assert (waiting.result, str(lost) in waiting.told) == (ClaimResult.IN_DOUBT, True)
    await world.carry_out(await world.ask(lost, RESOLVE, resolution="never-placed"))
    assert (await world.claim(other)).quantity == 10


# exits and entries from before them, and after -------------------------------------------------------------------------


async def filling(world: CommandWorld) -> tuple[UUID, SeenFill]:
    """An entry of 10 that rests with 7 filled, and its first trade."""
    entry = await world.order(order_type="LIMIT", price=Decimal(100))
    await world.sent(entry)
    first = trade(7)
    await world.fill(entry, first, status="OPEN")
    return entry, first


async def test_an_exit_that_sold_all_it_could_goes_on_with_what_an_entry_from_before_it_fills(
    world: CommandWorld,
) -> None:
    entry, first = await filling(world)
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(leave)
    found = await world.fill(leave, trade(7), quantity=7)
    assert (found.status, found.order["filled_quantity"], found.send["send_no"]) == (OrderStatus.PENDING, 7, 2)
    assert (view(found).quantity, view(found).broker_order_id) == (10, None)
    assert str(entry) in found.order["reason"]
    assert (await world.claim(leave, 2)).result is ClaimResult.WAITS
    await world.fill(entry, first, trade(3))
    assert (await world.claim(leave, 2)).quantity == 3
    await world.journal.submitted(leave, 2, f"S{str(leave)[-12:]}", "accepted")
    found = await world.fill(leave, trade(3), quantity=3)
    assert (found.status, found.order["filled_quantity"], exit_is_short(found)) == (OrderStatus.FILLED, 10, False)
    assert ((await world.position())["quantity"], found.unexited) == (0, None)
    kinds = [event["topic"].rsplit(".", 1)[1] for event in await world.events(leave)]
    assert kinds == ["submitted", "ack", "filled", "submitted", "ack", "filled"]


async def test_an_exit_that_went_on_ends_when_the_entry_from_before_it_ends(world: CommandWorld) -> None:
    entry, first = await filling(world)
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(leave)
    await world.fill(leave, trade(7), quantity=7)
    await world.fill(entry, first, status="CANCELLED")
    assert (await world.claim(leave, 2)).result is ClaimResult.FLAT
    found = await world.journal.end_unsent(leave, OrderStatus.CANCELLED, "nothing left to exit")
    assert (found.order["filled_quantity"], exit_is_short(found)) == (7, False)


async def test_an_exit_goes_on_with_what_was_filled_between_its_claim_and_its_fill(world: CommandWorld) -> None:
    entry, first = await filling(world)
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(leave)
    await world.fill(entry, first, trade(3))
    assert (await world.fill(leave, trade(7), quantity=7)).status is OrderStatus.PENDING
    assert (await world.claim(leave, 2)).quantity == 3


@pytest.mark.parametrize("stopped", [True, False], ids=["cancel asked for", "reduced in the broker's app"])
async def test_an_exit_that_a_person_stopped_or_made_smaller_does_not_go_on(world: CommandWorld, stopped: bool) -> None:
    await filling(world)
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(leave)
    if stopped:
        await world.ask(leave, CommandKind.CANCEL)
    left = 7 if stopped else 5
    assert (await world.fill(leave, trade(left), quantity=left)).status is OrderStatus.FILLED


async def test_what_an_entry_fills_after_a_later_exit_has_ended_is_told(world: CommandWorld) -> None:
    """The exit got all it asked for, and the position was flat: nobody else exits what comes then."""
    entry, first = await filling(world)
    leave = await world.order(Side.SELL, 7, Intent.EXIT)
    await world.sent(leave)
    found = await world.fill(leave, trade(7), quantity=7)
    assert (found.status, found.unexited) == (OrderStatus.FILLED, None)
    second = trade(1)
    later = await world.fill(entry, first, second, status="OPEN")
    assert later.unexited is not None
    assert str(leave) in later.unexited
    assert view(later).unexited == later.unexited
    again = await world.fill(entry, first, second, trade(2))
    assert again.unexited == later.unexited, "told once: it stands"
    anew = await world.order(Side.SELL, 3, Intent.EXIT)
    await world.sent(anew)
    assert (await world.fill(anew, trade(3))).unexited is None


async def test_what_an_entry_filled_while_an_exit_of_all_worked_is_told_when_that_ends(world: CommandWorld) -> None:
    entry, first = await filling(world)
    leave = await world.order(Side.SELL, 7, Intent.EXIT)
    await world.sent(leave)
    assert (await world.fill(entry, first, trade(3))).unexited is None
    found = await world.fill(leave, trade(7), quantity=7)
    assert found.status is OrderStatus.FILLED
    assert found.unexited is not None
    assert "3 more" in found.unexited


async def test_closing_a_part_beside_an_entry_that_works_is_nothing_to_tell(world: CommandWorld) -> None:
    entry, first = await filling(world)
    leave = await world.order(Side.SELL, 4, Intent.EXIT)
    await world.sent(leave)
    assert (await world.fill(leave, trade(4))).unexited is None
    assert (await world.fill(entry, first, trade(3))).unexited is None


async def test_a_waiting_exit_does_not_close_what_was_entered_after_it(world: CommandWorld) -> None:
    await world.hold(Side.BUY, 10)
    waiting = await world.order(Side.SELL, 20, Intent.EXIT)
    other = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(other)
    await world.fill(other, trade(10))
    await world.hold(Side.BUY, 5)
    found = await world.claim(waiting)
    assert (found.result, "5 held now" in found.told) == (ClaimResult.FLAT, True)


async def test_a_waiting_exit_closes_what_it_was_decided_on_beside_what_came_after(world: CommandWorld) -> None:
    await world.hold(Side.BUY, 10)
    waiting = await world.order(Side.SELL, 20, Intent.EXIT)
    await world.hold(Side.BUY, 5)
    assert (await world.claim(waiting)).quantity == 10
