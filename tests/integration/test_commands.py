"""Commands on a real journal, with a broker that answers as each test says; once for each broker's schema where it matters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.command_calls import CommandCalls
from core import ids
from core.brokers.pacer import Pacer
from core.brokers.port import Book, BookRow, BrokerProfile, Trade
from core.brokers.reader import BookReader
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import CommandConflict, NotPlaced, OutcomeUnknown, SessionExpired
from core.events.envelope import decode
from core.events.payloads import OrderEvent
from core.order_work import CommandCall, CommandNext, CommandResult, LateRowInput, LateRowView
from core.storage.claims import ClaimResult
from core.storage.command_journal import CommandJournal
from core.storage.commands import COMMANDS, CommandRecord, read_command, request_command, unfinished_commands
from core.storage.db import broker_engine
from core.storage.journal import NoSuchOrder
from core.storage.models import LeaseRow
from core.trading.commands import MODIFICATIONS, CommandKind, CommandOutcome, CommandState
from core.trading.durations import OrderDurations
from core.trading.types import Broker, Exchange, Intent, OrderStatus, OrderType, Product, SendState, Side
from tests.journal_world import ACCOUNT, JournalWorld, trade

pytestmark = pytest.mark.stack

DURATIONS = OrderDurations()
CANCEL, MODIFY, RESOLVE = CommandKind
DONE, WHEN_KNOWN, LATER = CommandNext


def row(broker_order_id: str, status: str = "OPEN", **changes: Any) -> BookRow:
    """INFY, 10 to buy at 100, as the book lists it."""
    values: dict[str, Any] = {
        "broker_order_id": broker_order_id,
        "tags": (),
        "status": status,
        "status_message": None,
        "exchange": Exchange.NSE,
        "tradingsymbol": "INFY",
        "instrument_token": 408065,
        "side": Side.BUY,
        "product": Product.MIS,
        "order_type": OrderType.LIMIT,
        "quantity": 10,
        "filled_quantity": 0,
        "cancelled_quantity": 0,
        "average_price": None,
        "price": Decimal(100),
        "trigger_price": None,
        "order_at": None,
    }
    return BookRow(**(values | changes))


def listed(broker_order_id: str, quantity: int, price: str = "100", name: str = "T1") -> Trade:
    return Trade(
        name, broker_order_id, Exchange.NSE, "INFY", 408065, Side.BUY, Product.MIS, quantity, Decimal(price), utc_now()
    )


class ToldTrader:
    """A broker that answers what the test says; `asked` notes every command that reached it."""

    def __init__(self) -> None:
        self.profile = BrokerProfile(None, 0, None, 0, None, 0, MODIFICATIONS)
        self.rows: dict[str, BookRow] = {}
        self.filled: tuple[Trade, ...] = ()
        self.answer: Exception | None = None
        self.reading: Exception | None = None
        self.applies = True
        self.asked: list[str] = []

    async def cancel(self, broker_order_id: str) -> None:
        self.asked.append(f"cancel {broker_order_id}")
        if self.applies and broker_order_id in self.rows:
            self.rows[broker_order_id] = replace(self.rows[broker_order_id], status="CANCELLED")
        if self.answer is not None:
            raise self.answer

    async def modify(self, broker_order_id: str, **changes: Any) -> None:
        self.asked.append(f"modify {broker_order_id}")
        if self.applies:
            new = {name: value for name, value in changes.items() if value is not None}
            self.rows[broker_order_id] = replace(self.rows[broker_order_id], **new)
        if self.answer is not None:
            raise self.answer

    async def book(self) -> Book:
        if self.reading is not None:
            raise self.reading
        now = utc_now()
        return Book(ACCOUNT, trading_day(now), now, now, tuple(self.rows.values()))

    async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
        return {one.broker_order_id: one for one in (await self.book()).rows if one.broker_order_id in broker_order_ids}

    async def trades(self, broker_order_ids: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        return {key: tuple(t for t in self.filled if t.broker_order_id == key) for key in broker_order_ids}


class CommandWorld(JournalWorld):
    """One journal and a told broker."""

    trader: ToldTrader

    @property
    def commands(self) -> CommandJournal:
        return CommandJournal(self.engine, self.journal.broker)

    async def ask(
        self, order_id: UUID, kind: CommandKind, request_id: UUID | None = None, **parameters: Any
    ) -> CommandRecord:
        return await request_command(
            self.engine,
            request_id=request_id or ids.new_id(),
            order_id=order_id,
            kind=kind,
            parameters=parameters,
            requested_by="asha",
            reason="test",
        )

    async def carry_out(self, record: CommandRecord) -> CommandResult:
        told: Any = self.trader
        calls = CommandCalls(self.commands, told, BookReader(told), Pacer(self.trader.profile.commands), self.proof)
        call = CommandCall(request_id=record.request_id, order_id=record.order_id, durations=DURATIONS)
        found: CommandResult = await ActivityEnvironment().run(calls.carry_out, call)
        return found

    async def adopt(self, broker_order_id: str) -> LateRowView:
        told: Any = self.trader
        calls = CommandCalls(self.commands, told, BookReader(told), Pacer(self.trader.profile.commands), self.proof)
        found: LateRowView = await ActivityEnvironment().run(
            calls.adopt_late_row, LateRowInput(broker_order_id=broker_order_id)
        )
        return found

    async def read(self, record: CommandRecord) -> CommandRecord:
        found = await read_command(self.engine, record.request_id)
        assert found is not None
        return found

    async def outcome(self, record: CommandRecord) -> CommandOutcome | None:
        return (await self.read(record)).outcome

    async def working(self, **changes: Any) -> tuple[UUID, str]:
        """A LIMIT order, ACKED, in the book."""
        values = {"order_type": "LIMIT", "price": Decimal(100)} | changes
        order_id = await self.order(**values)
        broker_order_id = await self.sent(order_id)
        await self.fill(order_id, status="OPEN")
        self.trader.rows[broker_order_id] = row(broker_order_id)
        return order_id, broker_order_id

    async def doubtful(self, **changes: Any) -> UUID:
        """UNRESOLVED: sent, never answered, its day over."""
        order_id = await self.order(**changes)
        assert (await self.claim(order_id)).result is ClaimResult.CLAIMED
        await self.journal.unknown(order_id, 1, "read timeout")
        await self.journal.unresolved(order_id, 1, "the day is over")
        return order_id

    async def backdate(self, record: CommandRecord, **seconds: float) -> None:
        values = {name: utc_now() - timedelta(seconds=age) for name, age in seconds.items()}
        async with self.engine.begin() as connection:
            await connection.execute(
                update(COMMANDS).where(COMMANDS.c.request_id == record.request_id).values(**values)
            )

    async def status(self, order_id: UUID) -> OrderStatus:
        return (await self.journal.load(order_id)).status


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
