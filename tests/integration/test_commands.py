"""Commands on a real journal, with a broker that answers as each test says; once for each broker's schema where it matters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text, update
from temporalio.exceptions import ApplicationError

from core import ids
from core.clock import utc_now
from core.config import Settings
from core.errors import CommandConflict, NotPlaced, OutcomeUnknown, SessionExpired
from core.events.envelope import decode
from core.events.payloads import OrderEvent
from core.order_work import CommandNext
from core.storage.claims import ClaimResult
from core.storage.command_journal import CommandJournal
from core.storage.commands import unfinished_commands
from core.storage.db import broker_engine
from core.storage.journal import NoSuchOrder
from core.storage.models import LeaseRow
from core.trading.commands import MODIFICATIONS, CommandKind, CommandOutcome, CommandState
from core.trading.types import Broker, Intent, OrderStatus, Side
from tests.integration.command_world import DURATIONS, CommandWorld, ToldTrader, listed, row
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


# journalling ------------------------------------------------------------------------------------------------------


async def test_the_same_request_id_is_one_command_and_another_content_is_refused(world: CommandWorld) -> None:
    order_id, request_id = await world.order(), ids.new_id()
    records = await asyncio.gather(*(world.ask(order_id, CANCEL, request_id) for _ in range(5)))
    assert len({(one.request_id, one.created_at) for one in records}) == 1
    with pytest.raises(CommandConflict, match=str(request_id)):
        await world.ask(order_id, MODIFY, request_id, price="101")
    assert [one.request_id for one in await unfinished_commands(world.engine, order_id)] == [request_id]


async def test_a_command_on_an_order_that_has_ended_or_never_was_is_told_at_once(world: CommandWorld) -> None:
    order_id = await world.order()
    await world.sent(order_id)
    await world.fill(order_id, trade(10))
    found = await world.ask(order_id, CANCEL)
    assert (found.state, found.outcome) == (CommandState.FINISHED, CommandOutcome.ORDER_ENDED)
    assert "FILLED, filled 10/10" in (found.evidence or "")
    with pytest.raises(NoSuchOrder):
        await world.ask(ids.new_id(), CANCEL)


async def test_a_finished_command_keeps_its_first_outcome(world: CommandWorld) -> None:
    order_id, _ = await world.working()
    record = await world.ask(order_id, CANCEL)
    await world.commands.finish_command(record.request_id, CommandOutcome.NOT_APPLIED, "refused")
    await world.commands.finish_command(record.request_id, CommandOutcome.APPLIED, "later")
    assert (await world.read(record)).evidence == "refused"
    assert (await world.carry_out(record)).next is DONE
    assert world.trader.asked == []


# cancel -----------------------------------------------------------------------------------------------------------


async def test_a_cancel_stops_an_order_that_was_not_sent(world: CommandWorld) -> None:
    order_id = await world.order()
    record = await world.ask(order_id, CANCEL)
    assert (await world.claim(order_id)).result is ClaimResult.CANCELLED, "latched with the command"
    result = await world.carry_out(record)
    assert (result.next, result.view.status) == (DONE, OrderStatus.CANCELLED)
    assert await world.outcome(record) is CommandOutcome.APPLIED
    assert world.trader.asked == []


async def test_a_cancel_waits_for_an_order_that_is_not_known_and_fires_when_it_is(world: CommandWorld) -> None:
    order_id = await world.order()
    await world.claim(order_id)
    record = await world.ask(order_id, CANCEL)
    assert (await world.carry_out(record)).next is WHEN_KNOWN
    await world.journal.unknown(order_id, 1, "read timeout")
    assert (await world.carry_out(record)).next is WHEN_KNOWN
    await world.journal.submitted(order_id, 1, "B1", "found by its tag")
    world.trader.rows["B1"] = row("B1")
    assert (await world.carry_out(record)).next is LATER
    assert world.trader.asked == ["cancel B1"]
    assert await world.status(order_id) is OrderStatus.SUBMITTED, "only the book ends it"
    result = await world.carry_out(record)
    assert (result.next, result.view.status) == (DONE, OrderStatus.CANCELLED)
    assert await world.outcome(record) is CommandOutcome.APPLIED


@pytest.mark.parametrize(
    "answer", [OutcomeUnknown("read timeout"), NotPlaced("429", code="RATE_LIMITED", retryable=True)]
)
async def test_a_cancel_whose_answer_is_lost_is_asked_again_only_while_the_book_shows_it_working(
    world: CommandWorld, answer: Exception
) -> None:
    order_id, broker_order_id = await world.working()
    record = await world.ask(order_id, CANCEL)
    world.trader.answer, world.trader.applies = answer, False
    for _ in range(2):
        assert (await world.carry_out(record)).next is LATER
    assert len(world.trader.asked) == 2, "the book showed it working"
    world.trader.rows[broker_order_id] = row(broker_order_id, "CANCEL PENDING")
    assert (await world.carry_out(record)).next is LATER
    world.trader.rows[broker_order_id] = row(broker_order_id, "CANCELLED")
    assert (await world.carry_out(record)).next is DONE
    assert len(world.trader.asked) == 2
    assert await world.outcome(record) is CommandOutcome.APPLIED


async def test_a_fill_beats_a_cancel(world: CommandWorld) -> None:
    order_id, broker_order_id = await world.working()
    record = await world.ask(order_id, CANCEL)
    world.trader.answer = NotPlaced("already processed by the exchange", code="ORDER", retryable=False)
    world.trader.applies = False
    world.trader.rows[broker_order_id] = row(broker_order_id, "COMPLETE", filled_quantity=10)
    world.trader.filled = (listed(broker_order_id, 10),)
    result = await world.carry_out(record)
    assert (result.next, result.view.status) == (DONE, OrderStatus.FILLED)
    assert await world.outcome(record) is CommandOutcome.ORDER_ENDED


async def test_a_refused_cancel_of_an_order_that_works_on_is_told_so(world: CommandWorld) -> None:
    order_id, _ = await world.working()
    record = await world.ask(order_id, CANCEL)
    world.trader.answer = NotPlaced("IP not allowed", code="IP", retryable=False)
    world.trader.applies = False
    assert (await world.carry_out(record)).next is LATER, "the book may lag behind the refusal"
    await world.backdate(record, sent_at=60)
    assert (await world.carry_out(record)).next is DONE
    assert (await world.read(record)).outcome is CommandOutcome.NOT_APPLIED
    assert "IP not allowed" in ((await world.read(record)).evidence or "")


async def test_nothing_is_sent_after_the_lease_is_lost(world: CommandWorld) -> None:
    order_id, _ = await world.working()
    records = [await world.ask(order_id, MODIFY, price="101"), await world.ask(order_id, CANCEL)]
    await world.commands.not_sent(records[0].request_id, "")
    async with world.engine.begin() as connection:
        await connection.execute(
            update(LeaseRow)
            .where(LeaseRow.name == world.proof.name)
            .values(expires_at=text("now() - interval '1 second'"))
        )
    with pytest.raises(ApplicationError) as again:
        await world.carry_out(records[1])
    assert again.value.type == "LeaseLost"
    assert world.trader.asked == []


# modify -----------------------------------------------------------------------------------------------------------


async def test_a_modify_is_sent_once_read_back_and_told_as_modified(world: CommandWorld) -> None:
    order_id, broker_order_id = await world.working()
    record = await world.ask(order_id, MODIFY, price="100.55")
    result = await world.carry_out(record)
    assert (result.next, world.trader.asked) == (DONE, [f"modify {broker_order_id}"])
    assert await world.outcome(record) is CommandOutcome.APPLIED
    last = (await world.events(order_id))[-1]
    assert last["topic"].endswith(".orders.modified")
    told = decode(bytes(last["value"])).data
    assert isinstance(told, OrderEvent)
    assert (told.order.price, told.order.status) == (Decimal("100.55"), OrderStatus.ACKED)


async def test_a_modifys_last_moment_to_leave_is_counted_from_before_it_was_marked_as_sent(
    world: CommandWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is frozen after it sends nothing when it thaws: a book was judged by then."""
    claimed_at: list[float] = []
    real = CommandJournal.claim_command

    async def noted(*args: Any, **options: Any) -> bool:
        claimed = await real(*args, **options)
        claimed_at.append(time.monotonic())
        return claimed

    monkeypatch.setattr(CommandJournal, "claim_command", noted)
    order_id, _ = await world.working()
    began = time.monotonic()
    await world.carry_out(await world.ask(order_id, MODIFY, price="100.55"))
    (deadline,) = world.trader.send_by
    assert began < deadline < claimed_at[0] + DURATIONS.send_deadline


async def test_a_modify_whose_answer_is_lost_is_never_sent_again(world: CommandWorld) -> None:
    order_id, broker_order_id = await world.working()
    record = await world.ask(order_id, MODIFY, price="101")
    world.trader.answer, world.trader.applies = OutcomeUnknown("read timeout"), False
    for _ in range(3):
        assert (await world.carry_out(record)).next is LATER
    assert len(world.trader.asked) == 1
    world.trader.rows[broker_order_id] = row(broker_order_id, price=Decimal(101))
    assert (await world.carry_out(record)).next is DONE
    assert await world.outcome(record) is CommandOutcome.APPLIED
    lost = await world.ask(order_id, MODIFY, price="102")
    assert (await world.carry_out(lost)).next is LATER
    await world.backdate(lost, sent_at=60)
    assert (await world.carry_out(lost)).next is DONE
    found = await world.read(lost)
    assert found.outcome is CommandOutcome.NOT_APPLIED
    assert "price 101" in (found.evidence or "")
    assert len(world.trader.asked) == 2


async def test_a_modify_of_an_order_that_ends_meanwhile_says_how_it_ended(world: CommandWorld) -> None:
    order_id, broker_order_id = await world.working()
    record = await world.ask(order_id, MODIFY, price="101")
    world.trader.answer, world.trader.applies = OutcomeUnknown("read timeout"), False
    world.trader.rows[broker_order_id] = row(broker_order_id, "CANCELLED")
    assert (await world.carry_out(record)).next is DONE
    assert await world.outcome(record) is CommandOutcome.ORDER_ENDED


async def test_the_26th_modification_is_refused_beforehand(world: CommandWorld) -> None:
    order_id, _ = await world.working()
    for number in range(MODIFICATIONS - 1):
        await world.backdate(await world.ask(order_id, MODIFY, price=str(101 + number)), sent_at=60, finished_at=50)
    allowed, last = [await world.ask(order_id, MODIFY, price=price) for price in ("199", "200")]
    await world.carry_out(allowed)
    assert await world.outcome(allowed) is CommandOutcome.APPLIED
    assert (await world.carry_out(last)).next is DONE
    found = await world.read(last)
    assert found.outcome is CommandOutcome.NOT_APPLIED
    assert "25 is Kite's limit: cancel it and place anew" in (found.evidence or "")
    assert len(world.trader.asked) == 1


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"price": "100.03"}, "price 100.03 is no multiple of the tick size 0.05: give 100.00 or 100.05"),
        ({"trigger_price": "99"}, "trigger_price: a LIMIT order has none"),
        ({}, "nothing to change"),
        ({"quantity": 11}, "quantity"),
    ],
)
async def test_a_modify_that_cannot_be_is_refused_with_field_and_fix(
    world: CommandWorld, parameters: dict[str, Any], told: str
) -> None:
    order_id, _ = await world.working()
    record = await world.ask(order_id, MODIFY, **parameters)
    await world.carry_out(record)
    found = await world.read(record)
    assert found.outcome is CommandOutcome.NOT_APPLIED
    assert told in (found.evidence or "")
    assert world.trader.asked == []


async def test_a_modify_waits_for_a_login_only_while_it_is_young(world: CommandWorld) -> None:
    order_id, _ = await world.working()
    record = await world.ask(order_id, MODIFY, price="101")
    world.trader.answer, world.trader.applies = SessionExpired("run `alpha-panda login`"), False
    assert (await world.carry_out(record)).next is LATER
    await world.backdate(record, created_at=90)
    world.trader.answer, world.trader.applies = None, True
    assert (await world.carry_out(record)).next is DONE
    found = await world.read(record)
    assert found.outcome is CommandOutcome.NOT_APPLIED
    assert "alpha-panda login" in (found.evidence or "")


async def test_a_modify_after_a_cancel_was_asked_is_not_sent(world: CommandWorld) -> None:
    order_id, _ = await world.working()
    record = await world.ask(order_id, MODIFY, price="101")
    await world.ask(order_id, CANCEL)
    await world.carry_out(record)
    assert (await world.outcome(record), world.trader.asked) == (CommandOutcome.NOT_APPLIED, [])


# resolve ----------------------------------------------------------------------------------------------------------


async def test_a_person_says_never_placed_and_an_entry_expires_and_an_exit_is_sent_anew(world: CommandWorld) -> None:
    entry = await world.doubtful()
    record = await world.ask(entry, RESOLVE, resolution="never-placed")
    result = await world.carry_out(record)
    assert (result.view.status, await world.outcome(record)) == (OrderStatus.EXPIRED, CommandOutcome.APPLIED)
    await world.hold(Side.BUY, 10)
    leave = await world.doubtful(side=Side.SELL, intent=Intent.EXIT)
    result = await world.carry_out(await world.ask(leave, RESOLVE, resolution="never-placed"))
    assert (result.view.status, result.view.send_no) == (OrderStatus.PENDING, 2)
    assert (await world.claim(leave, 2)).quantity == 10
    assert "asha: test" in (await world.journal.load(entry)).order["reason"]


async def test_the_book_beats_a_person_who_says_never_placed(world: CommandWorld) -> None:
    order_id = await world.doubtful()
    world.trader.rows["B9"] = row("B9", tags=(ids.order_tag(order_id, 1),))
    record = await world.ask(order_id, RESOLVE, resolution="never-placed")
    await world.carry_out(record)
    assert await world.outcome(record) is CommandOutcome.NOT_APPLIED
    assert "adopt" in ((await world.read(record)).evidence or "")
    assert await world.status(order_id) is OrderStatus.UNRESOLVED


async def test_a_person_adopts_a_broker_order_that_the_book_lists(world: CommandWorld) -> None:
    order_id = await world.doubtful()
    name = f"A{world.instance[-12:]}"
    world.trader.rows[name] = row(name, "COMPLETE", filled_quantity=10)
    world.trader.filled = (listed(name, 10, "99"),)
    record = await world.ask(order_id, RESOLVE, resolution="adopt", broker_order_id=name)
    result = await world.carry_out(record)
    assert (result.view.status, result.view.average_price) == (OrderStatus.FILLED, Decimal(99))
    assert await world.outcome(record) is CommandOutcome.APPLIED
    assert (await world.position())["quantity"] == 10


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (None, "does not list"),
        ({"tradingsymbol": "TCS"}, "not what this order is"),
        ({"side": Side.SELL}, "not what this order is"),
    ],
)
async def test_a_broker_order_that_is_none_of_ours_is_not_adopted(
    world: CommandWorld, changes: dict[str, Any] | None, told: str
) -> None:
    order_id = await world.doubtful()
    if changes is not None:
        world.trader.rows["F1"] = row("F1", **changes)
    record = await world.ask(order_id, RESOLVE, resolution="adopt", broker_order_id="F1")
    await world.carry_out(record)
    assert await world.outcome(record) is CommandOutcome.NOT_APPLIED
    assert told in ((await world.read(record)).evidence or "")


async def test_a_person_books_fills_and_events_position_and_end_follow(world: CommandWorld) -> None:
    order_id = await world.doubtful()
    name = f"A{world.instance[-12:]}"
    given = {"resolution": "book-fill", "price": "99", "broker_order_id": name, "filled_at": utc_now().isoformat()}
    first = await world.ask(order_id, RESOLVE, **given, quantity=4, trade_id="T1", more=True)
    assert (await world.carry_out(first)).view.status is OrderStatus.UNRESOLVED
    second = await world.ask(order_id, RESOLVE, **given, quantity=6, trade_id="T2")
    assert (await world.carry_out(second)).view.status is OrderStatus.FILLED
    assert (await world.position())["quantity"] == 10
    topics = [event["topic"].split(".", 1)[1] for event in await world.events(order_id)]
    assert topics.count("orders.filled") == 2
    assert [event["order_seq"] for event in await world.events(order_id)] == list(range(1, len(topics) + 1))


async def test_a_fill_that_cannot_be_is_not_booked_and_the_rest_that_never_filled_ends(world: CommandWorld) -> None:
    order_id = await world.doubtful()
    given = {"resolution": "book-fill", "price": "99", "filled_at": utc_now().isoformat(), "trade_id": "T1"}
    nameless = await world.ask(order_id, RESOLVE, **given, quantity=4)
    await world.carry_out(nameless)
    assert "broker_order_id" in ((await world.read(nameless)).evidence or "")
    name = f"A{world.instance[-12:]}"
    too_much = await world.ask(order_id, RESOLVE, **given, quantity=11, broker_order_id=name)
    await world.carry_out(too_much)
    assert await world.outcome(too_much) is CommandOutcome.NOT_APPLIED
    part = await world.ask(order_id, RESOLVE, **given, quantity=4, broker_order_id=name)
    result = await world.carry_out(part)
    assert (result.view.status, result.view.filled_quantity) == (OrderStatus.CANCELLED, 4)


async def test_only_an_unresolved_order_is_a_persons_to_decide(world: CommandWorld) -> None:
    order_id, _ = await world.working()
    record = await world.ask(order_id, RESOLVE, resolution="never-placed")
    await world.carry_out(record)
    assert await world.outcome(record) is CommandOutcome.NOT_APPLIED


async def test_a_resolution_waits_for_a_book_that_can_be_read(world: CommandWorld) -> None:
    order_id = await world.doubtful()
    record = await world.ask(order_id, RESOLVE, resolution="never-placed")
    world.trader.reading = SessionExpired("no session")
    result = await world.carry_out(record)
    assert (result.next, await world.status(order_id)) == (LATER, OrderStatus.UNRESOLVED)
    assert "no session" in ((await world.read(record)).evidence or "")
