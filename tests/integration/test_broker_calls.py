"""The activities that talk to a broker, on a real journal and a broker that answers as each test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update
from structlog.testing import capture_logs
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.broker_calls import BrokerCalls
from activities.exit_cover import ExitCover
from core.brokers.pacer import Pacer
from core.brokers.port import Book, BookRow, BrokerPosition, BrokerProfile, PlaceRequest, Trade
from core.brokers.reader import BookReader
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import NotPlaced, SessionExpired
from core.ids import new_id
from core.order_work import LookInput, OrderView, PlaceInput
from core.storage.db import broker_engine
from core.storage.journal import SENDS
from core.storage.reconcile import ROUNDS
from core.trading.calendar import calendar_for
from core.trading.durations import OrderDurations
from core.trading.types import Broker, Exchange, Intent, OrderStatus, Product, Side
from tests.integration.command_world import row
from tests.journal_world import ACCOUNT, TARGET, JournalWorld

pytestmark = pytest.mark.stack

DURATIONS = OrderDurations(pacer_wait=0.2)


class ToldTrader:
    """Answers what the test says. `book_rows` is the whole book."""

    broker = Broker.ZERODHA

    def __init__(self, *, per_day: int | None = None) -> None:
        self.profile = BrokerProfile(None, 0, None, 0, per_day, 0, None)
        self.refusal: Exception | None = None
        self.book_rows: tuple[BookRow, ...] = ()
        self.placed = 0
        self.looked = 0
        self.net = 0

    async def place(self, request: PlaceRequest) -> str:
        self.placed += 1
        if self.refusal is not None:
            raise self.refusal
        return f"B{request.tag}"

    async def book(self) -> Book:
        now = utc_now()
        return Book(ACCOUNT, trading_day(now), now, now, self.book_rows)

    async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
        return {row.broker_order_id: row for row in self.book_rows if row.broker_order_id in broker_order_ids}

    async def trades(self, broker_order_ids: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        return {}

    async def positions(self) -> tuple[BrokerPosition, ...]:
        self.looked += 1
        if self.refusal is not None:
            raise self.refusal
        infy = (Exchange.NSE, "INFY", 1, Product.MIS)
        return (BrokerPosition(*infy, self.net, Decimal(100)),) if self.net else ()


@pytest.fixture
async def world(stack: Settings) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(stack, Broker.ZERODHA)
    yield await JournalWorld.make(engine, Broker.ZERODHA)
    await engine.dispose()


def calls(world: JournalWorld, trader: ToldTrader) -> BrokerCalls:
    told: Any = trader
    return BrokerCalls(
        world.journal, told, BookReader(told), Pacer(trader.profile), world.proof, calendar_for(simulated=True)
    )


async def place(at: BrokerCalls, order_id: UUID, send_no: int = 1) -> OrderView:
    found: OrderView = await ActivityEnvironment().run(
        at.place_order, PlaceInput(order_id=order_id, send_no=send_no, durations=DURATIONS)
    )
    return found


def look(order_id: UUID, broker_order_id: str | None) -> LookInput:
    return LookInput(order_id=order_id, send_no=1, broker_order_id=broker_order_id, durations=DURATIONS)


async def sent_on(world: JournalWorld, order_id: UUID, day: date) -> None:
    async with world.engine.begin() as connection:
        await connection.execute(update(SENDS).where(SENDS.c.order_id == order_id).values(trading_day=day))


# sending ----------------------------------------------------------------------------------------------------------


async def test_waiting_for_a_login_does_not_use_up_the_days_orders(world: JournalWorld) -> None:
    """An exit tries again for as long as the session is dead; then it must still be allowed to go."""
    trader = ToldTrader(per_day=5)
    trader.refusal = SessionExpired("no valid session: run `alpha-panda login`")
    await world.hold(Side.BUY, 10)
    leave, at = await world.order(Side.SELL, 10, Intent.EXIT), calls(world, trader)
    for _ in range(8):
        with pytest.raises(ApplicationError) as again:
            await place(at, leave)
        assert again.value.type == "SESSION_EXPIRED"
        assert again.value.next_retry_delay is None, "Temporal's own backoff"
    trader.refusal = None
    assert (await place(at, leave)).status is OrderStatus.SUBMITTED
    assert at.pacer.day_sent == 1


async def test_a_send_somebody_claimed_becomes_unknown_without_leave_to_send(world: JournalWorld) -> None:
    order_id, trader = await world.order(), ToldTrader(per_day=0)
    await world.claim(order_id)
    assert (await place(calls(world, trader), order_id)).status is OrderStatus.UNKNOWN
    assert trader.placed == 0


async def test_a_cancel_stops_an_exit_that_waits_for_leave_to_send(world: JournalWorld) -> None:
    await world.hold(Side.BUY, 10)
    leave = await world.order(Side.SELL, 10, Intent.EXIT, cancel_requested=True)
    ended = await place(calls(world, ToldTrader(per_day=0)), leave)
    assert (ended.status, ended.short) == (OrderStatus.CANCELLED, True)


async def test_an_exit_of_nothing_ends_without_asking_a_person_to_close_by_hand(world: JournalWorld) -> None:
    leave, at = await world.order(Side.SELL, 10, Intent.EXIT), calls(world, ToldTrader(per_day=5))
    ended = await place(at, leave)
    assert (ended.status, ended.short, at.pacer.day_sent) == (OrderStatus.CANCELLED, False, 0)


async def test_an_entry_of_another_account_ends_unsent_and_its_exit_waits_for_a_person(world: JournalWorld) -> None:
    trader = ToldTrader(per_day=5)
    at = calls(world, trader)
    await world.hold(Side.BUY, 10)
    ended = await place(at, await world.order(target="production"))
    assert ended.status is OrderStatus.REJECTED
    assert (ended.reason or "").startswith("WRONG_ACCOUNT: decided for account TEST01 on production")
    waits = await place(at, await world.order(Side.SELL, 10, Intent.EXIT, account="OTHER1"))
    assert (waits.status, waits.short) == (OrderStatus.PENDING, False)
    assert "account OTHER1" in (waits.waits or "")
    assert (trader.placed, at.pacer.day_sent) == (0, 0)


async def test_an_entry_of_an_instrument_in_doubt_tries_again_until_it_is_too_old(world: JournalWorld) -> None:
    trader, lost = ToldTrader(per_day=5), await world.order()
    at = calls(world, trader)
    await world.claim(lost)
    await world.journal.unknown(lost, 1, "read timeout")
    entry = await world.order(age_limit_s=1.0)
    with pytest.raises(ApplicationError) as again:
        await place(at, entry)
    assert (again.value.type, again.value.next_retry_delay) == ("InstrumentInDoubt", timedelta(seconds=1))
    await asyncio.sleep(1.1)
    ended = await place(at, entry)
    assert ended.status is OrderStatus.EXPIRED
    assert f"INSTRUMENT_IN_DOUBT: order {lost} of NSE:INFY is UNKNOWN" in (ended.reason or "")
    assert (trader.placed, at.pacer.day_sent) == (0, 0)


async def test_a_send_that_never_left_leaves_its_second_and_minute_to_the_next(world: JournalWorld) -> None:
    """A claim lost, an order ended, a deadline missed, a database away: the broker counted nothing."""
    trader = ToldTrader()
    trader.profile = BrokerProfile(1, 0, 1, 0, 5, 0, None)
    at = calls(world, trader)
    await place(at, await world.order(target="production"))
    await place(at, await world.order(Side.SELL, 10, Intent.EXIT))
    trader.refusal = NotPlaced("past its deadline", code="NOT_SENT", retryable=True)
    order_id = await world.order()
    with pytest.raises(ApplicationError):
        await place(at, order_id)
    trader.refusal = None
    assert (await place(at, order_id)).status is OrderStatus.SUBMITTED
    assert (trader.placed, at.pacer.day_sent) == (2, 1)


async def test_a_send_that_left_keeps_its_second_whatever_came_of_it(world: JournalWorld) -> None:
    trader = ToldTrader()
    trader.profile = BrokerProfile(1, 0, None, 0, 5, 0, None)
    trader.refusal = SessionExpired("403")
    at, order_id = calls(world, trader), await world.order()
    for why in ("SESSION_EXPIRED", "PacerBusy"):
        with pytest.raises(ApplicationError) as again:
            await place(at, order_id)
        assert again.value.type == why
    assert at.pacer.day_sent == 0


async def found_uncovered(world: JournalWorld, account: str, *lines: str) -> None:
    """A round of reconciliation that found these lines closed by somebody else."""
    standing = {"since": dict.fromkeys(lines, utc_now().isoformat()), "told": []}
    async with world.engine.begin() as connection:
        await connection.execute(
            insert(ROUNDS).values(
                round_id=new_id(),
                account=account,
                trading_day=trading_day(utc_now()),
                began_at=utc_now(),
                judged=True,
                found={},
                finished_at=utc_now(),
                watched={"uncovered": standing},
            )
        )


async def test_an_exit_goes_no_further_than_the_brokers_net_and_waits_where_that_leaves_nothing(
    world: JournalWorld,
) -> None:
    account = f"U{world.instance[-12:]}"
    trader = ToldTrader()
    at = calls(world, trader)
    at.proof, at.covers = world.logged_in(account), ExitCover(world.journal, at.trader).of
    await world.hold(Side.BUY, 10)
    await found_uncovered(world, account, "NSE:INFY:MIS")
    first, second, third = [
        await world.order(Side.SELL, quantity, Intent.EXIT, account=account) for quantity in (6, 30, 30)
    ]
    waits = await place(at, first)
    assert waits.status is OrderStatus.PENDING
    assert "the broker's net of NSE:INFY:MIS is +0, which leaves nothing to close" in (waits.waits or "")
    trader.net = -10  # somebody sold more than we hold: that is theirs
    assert (await place(at, first)).waits is not None
    assert (trader.placed, at.pacer.day_sent) == (0, 0)
    trader.net = 8  # bought back, in part
    whole, cut, nothing = [await place(at, order_id) for order_id in (first, second, third)]
    assert (whole.status, whole.quantity) == (OrderStatus.SUBMITTED, 6)
    assert (cut.status, cut.quantity) == (OrderStatus.SUBMITTED, 2), "what the net leaves goes out now"
    assert "leaves nothing to close" in (nothing.waits or "")
    trader.refusal = SessionExpired("403")
    with pytest.raises(ApplicationError, match="cannot be read before an exit"):
        await place(at, third)
    trader.refusal = None
    await found_uncovered(world, account)
    looked = trader.looked
    whole = await place(at, third)
    assert (whole.status, whole.quantity) == (OrderStatus.SUBMITTED, 2), "bounded by what is held alone"
    assert trader.looked == looked, "the broker is asked only where reconciliation found something"


# looking ----------------------------------------------------------------------------------------------------------


async def test_another_targets_book_is_no_evidence_against_an_order(world: JournalWorld) -> None:
    """The same user on another target: the account alone does not tell the books apart."""
    lost, gone, alike = [await world.order(target="production") for _ in range(3)]
    for order_id in (lost, gone, alike):
        await world.claim(order_id, proof=world.logged_in(ACCOUNT, "production"))
    await world.journal.unknown(lost, 1, "read timeout")
    await world.journal.submitted(gone, 1, f"B{gone}", "accepted")
    await sent_on(world, gone, trading_day(utc_now()) - timedelta(days=1))
    await world.journal.submitted(alike, 1, f"B{alike}", "accepted")
    trader = ToldTrader()
    trader.book_rows = (row(f"B{alike}", "CANCELLED"),)  # another's order, under the same id
    at = calls(world, trader)
    told = look(alike, f"B{alike}")
    bound = told.model_copy(update={"account": ACCOUNT, "target": "production"})
    for call, asked in (
        (at.look_up_by_tag, look(lost, None)),
        (at.look_at_book, look(gone, f"B{gone}")),
        (at.look_at_book, told),
        (at.look_at_book, bound),
    ):
        with pytest.raises(ApplicationError, match="KITE_TARGET") as again:
            await ActivityEnvironment().run(call, asked)
        assert again.value.type == "WRONG_ACCOUNT"
    for order_id in (gone, alike):
        assert (await world.journal.load(order_id)).status is OrderStatus.SUBMITTED
    assert f"B{alike}" not in await world.journal.broker_order_ids(ACCOUNT, TARGET, trading_day(utc_now()))


async def test_an_order_whose_day_ended_and_whose_row_is_gone_is_a_persons_to_decide(world: JournalWorld) -> None:
    """Zerodha's book is emptied each morning: what was not seen to end before cannot be seen any more."""
    order_id = await world.order()
    broker_order_id = await world.sent(order_id)
    await sent_on(world, order_id, trading_day(utc_now()) - timedelta(days=1))
    at = calls(world, ToldTrader())
    found: OrderView = await ActivityEnvironment().run(at.look_at_book, look(order_id, broker_order_id))
    assert found.status is OrderStatus.UNRESOLVED
    assert broker_order_id in (found.reason or "")


async def test_an_order_that_fell_out_of_todays_book_is_told_and_followed_on(world: JournalWorld) -> None:
    order_id = await world.order()
    broker_order_id = await world.sent(order_id)
    at = calls(world, ToldTrader())
    with capture_logs(processors=[]) as lines:
        found: OrderView = await ActivityEnvironment().run(at.look_at_book, look(order_id, broker_order_id))
    assert (found.status, found.missing) == (OrderStatus.SUBMITTED, False), "the broker may need a moment"
    assert lines
    async with world.engine.begin() as connection:
        await connection.execute(
            update(SENDS).where(SENDS.c.order_id == order_id).values(claimed_at=utc_now() - timedelta(minutes=5))
        )
    found = await ActivityEnvironment().run(at.look_at_book, look(order_id, broker_order_id))
    assert (found.status, found.missing) == (OrderStatus.SUBMITTED, True)


async def test_an_order_placed_while_a_book_is_on_its_way_does_not_make_it_sick(world: JournalWorld) -> None:
    """Else a busy account could never prove anything absent."""
    account = f"A{world.instance[-12:]}"
    lost = await world.order(account=account)
    await world.claim(lost)
    await world.journal.unknown(lost, 1, "read timeout")

    class Busy(ToldTrader):
        async def book(self) -> Book:
            now = utc_now()
            await world.sent(await world.order(account=account, instrument_token=1))
            return Book(account, trading_day(now), now, now, ())

    at = calls(world, Busy())
    at.proof = world.logged_in(account)
    found: OrderView = await ActivityEnvironment().run(at.look_up_by_tag, look(lost, None))
    assert "does not count" not in (found.evidence or "")


async def test_a_look_up_told_again_after_it_proved_absence_goes_on_to_the_next_send(world: JournalWorld) -> None:
    """Its first answer was lost (a killed worker, a timeout): without this the exit is looked up for ever and never sent."""
    await world.hold(Side.BUY, 10)
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.claim(leave)
    await world.journal.unknown(leave, 1, "read timeout")
    await world.journal.absent(leave, 1, "never reached the broker")
    at = calls(world, ToldTrader())
    again: OrderView = await ActivityEnvironment().run(at.look_up_by_tag, look(leave, None))
    assert (again.status, again.send_no) == (OrderStatus.PENDING, 2)
    assert (await place(at, leave, send_no=2)).status is OrderStatus.SUBMITTED
