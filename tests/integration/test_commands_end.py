"""Every command gets an end, and none holds its order up: what can no longer be carried out, what never could, what fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from temporalio.exceptions import ApplicationError

from core.config import Settings
from core.errors import OutcomeUnknown, SessionExpired
from core.order_work import CommandNext
from core.storage.commands import unfinished_commands
from core.storage.db import broker_engine
from core.trading.commands import CommandKind, CommandOutcome
from core.trading.types import Broker, OrderStatus
from tests.integration.command_world import CommandWorld, ToldTrader, row
from tests.journal_world import trade

pytestmark = pytest.mark.stack

CANCEL, MODIFY, RESOLVE = CommandKind
DONE, WHEN_KNOWN, LATER = CommandNext


@pytest.fixture(params=list(Broker))
async def world(stack: Settings, request: pytest.FixtureRequest) -> AsyncIterator[CommandWorld]:
    engine = broker_engine(stack, request.param)
    made = await CommandWorld.make(engine, request.param)
    assert isinstance(made, CommandWorld)
    made.trader = ToldTrader()
    yield made
    await engine.dispose()


# an order of another target -------------------------------------------------------------------------------------------


async def test_a_command_on_an_order_of_another_target_reaches_no_broker(world: CommandWorld) -> None:
    """This broker's book may list the same id for somebody else's order."""
    order_id, _ = await world.working(target="production")
    cancel = await world.ask(order_id, CANCEL)
    assert (await world.carry_out(cancel)).next is LATER
    assert world.trader.asked == []
    assert "KITE_TARGET" in ((await world.read(cancel)).evidence or "")
    unsent = await world.order(target="production")
    assert (await world.carry_out(await world.ask(unsent, CANCEL))).view.status is OrderStatus.CANCELLED


# an order that ended ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shows", [True, False])
async def test_a_modify_that_had_left_when_its_order_ended_is_ended_by_what_the_book_shows(
    world: CommandWorld, shows: bool
) -> None:
    """Its workflow is over, or gone: nobody else goes on with it."""
    order_id, broker_order_id = await world.working()
    record = await world.ask(order_id, MODIFY, price="101")
    world.trader.answer, world.trader.applies = OutcomeUnknown("read timeout"), False
    assert (await world.carry_out(record)).next is LATER
    await world.fill(order_id, trade(10))
    assert not (await world.read(record)).is_finished
    price = Decimal(101) if shows else Decimal(100)
    world.trader.rows[broker_order_id] = row(broker_order_id, "COMPLETE", price=price, filled_quantity=10)
    world.trader.reading = SessionExpired("run `alpha-panda login`")
    assert record.request_id not in await left(world)
    world.trader.reading = None
    assert record.request_id in await left(world)
    found = await world.read(record)
    assert found.outcome is (CommandOutcome.APPLIED if shows else CommandOutcome.ORDER_ENDED)
    assert f"price {price}" in (found.evidence or "")
    assert len(world.trader.asked) == 1


async def left(world: CommandWorld) -> list[UUID]:
    """Commands that were left without an end and got one now."""
    before = {one.request_id for one in await unfinished_commands(world.engine, ended=True)}
    await world.calls().finish_left()
    after = {one.request_id for one in await unfinished_commands(world.engine, ended=True)}
    return list(before - after)


async def test_a_modify_whose_order_ends_in_the_middle_waits_in_its_workflow_for_the_book(world: CommandWorld) -> None:
    order_id, broker_order_id = await world.working()
    record = await world.ask(order_id, MODIFY, price="101")
    world.trader.answer = OutcomeUnknown("read timeout")
    world.trader.reading = SessionExpired("run `alpha-panda login`")
    assert (await world.carry_out(record)).next is LATER
    await world.fill(order_id, trade(10))
    with pytest.raises(ApplicationError) as again:
        await world.carry_out(record)
    assert again.value.type == "BookUnreadable"
    world.trader.reading = None
    assert (await world.carry_out(record)).next is DONE
    assert await world.outcome(record) is CommandOutcome.APPLIED, f"{broker_order_id} carries the new price"


async def test_a_cancel_that_had_left_when_its_order_ended_is_ended_by_that_end(world: CommandWorld) -> None:
    order_id, _ = await world.working()
    record = await world.ask(order_id, CANCEL)
    world.trader.answer, world.trader.applies = OutcomeUnknown("read timeout"), False
    assert (await world.carry_out(record)).next is LATER
    await world.fill(order_id, status="CANCELLED")
    assert await world.outcome(record) is CommandOutcome.APPLIED


# a bad command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (RESOLVE, {"resolution": "guess"}),
        (RESOLVE, {"resolution": "book-fill", "quantity": "many"}),
        (RESOLVE, {"resolution": "book-fill", "quantity": 1, "price": "cheap", "trade_id": "T", "filled_at": "now"}),
        (MODIFY, {"price": "cheap"}),
    ],
)
async def test_a_command_that_cannot_be_read_says_so_and_holds_nothing_up(
    world: CommandWorld, kind: CommandKind, parameters: dict[str, Any]
) -> None:
    order_id = await world.doubtful() if kind is RESOLVE else (await world.working())[0]
    record = await world.ask(order_id, kind, **parameters)
    assert (await world.carry_out(record)).next is DONE
    found = await world.read(record)
    assert found.outcome is CommandOutcome.NOT_APPLIED
    assert (found.evidence or "").startswith("failed: ")
    if kind is RESOLVE:
        good = await world.carry_out(await world.ask(order_id, RESOLVE, resolution="never-placed"))
        assert good.view.status is OrderStatus.EXPIRED


async def test_what_fails_after_it_may_have_left_is_followed_in_the_book(world: CommandWorld) -> None:
    order_id, broker_order_id = await world.working()
    record = await world.ask(order_id, MODIFY, price="101")
    world.trader.answer = KeyError("an odd body")
    result = await world.carry_out(record)
    assert (result.next, "it may have reached the broker" in result.told) == (LATER, True)
    assert (await world.carry_out(record)).next is DONE
    assert (await world.outcome(record), world.trader.asked) == (
        CommandOutcome.APPLIED,
        [f"modify {broker_order_id}"],
    )


async def test_a_fill_of_another_orders_broker_order_is_not_booked(world: CommandWorld) -> None:
    """The same trade twice would wedge the order for ever: the journal refuses it each time."""
    other, broker_order_id = await world.working()
    done = trade(10)
    await world.fill(other, done)
    order_id = await world.doubtful()
    fill = {"resolution": "book-fill", "broker_order_id": broker_order_id, "trade_id": done.trade_id}
    given = {"quantity": 10, "price": "100", "filled_at": done.filled_at.isoformat()}
    record = await world.ask(order_id, RESOLVE, **fill, **given)
    assert (await world.carry_out(record)).next is DONE
    found = await world.read(record)
    assert found.outcome is CommandOutcome.NOT_APPLIED
    assert f"is the broker order of our order {other}" in (found.evidence or "")
    assert await world.status(order_id) is OrderStatus.UNRESOLVED
