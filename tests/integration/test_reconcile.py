"""Rounds of reconciliation on a real journal, log and Temporal, with a broker that shows what each test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from core import ids, metrics
from core.brokers.port import Book
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import Transient
from core.events.topics import reconciliations
from core.order_start import from_journal, start_order
from core.reconcile_work import RoundResult
from core.routing import order_workflow_id
from core.storage.claims import ClaimResult
from core.storage.journal import FILLS, SENDS
from core.storage.reconcile import DAYS, ROUNDS, load_standing
from core.trading.calendar import SessionKind, SessionPhase
from core.trading.durations import OrderDurations
from core.trading.types import Intent, OrderStatus, Product, Side
from tests.integration.reconcile_world import BROKER, World, figures, reconcile_world
from tests.journal_world import trade

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(stack: Settings) -> AsyncIterator[World]:
    async with reconcile_world(stack) as one:
        yield one


# comparing --------------------------------------------------------------------------------------------------------


async def test_ours_foreign_and_carry_add_up_and_are_told_to_the_log(world: World) -> None:
    world.trader.net[("TCS", Product.NRML)] = 5
    await world.filled(10)
    world.trader.order("F1", 7)
    world.trader.order("F2", -3, filled=0, status="OPEN")
    first = await world.round()
    assert figures(first)["INFY:MIS"] == (17, 10, 7, None), "one round alone does not tell what the day began with"
    report = await world.round()
    assert figures(report) == {"INFY:MIS": (17, 10, 7, 0), "TCS:NRML": (5, 0, 5, 0)}
    assert report.judged
    assert {row.broker_order_id: row.status for row in report.foreign_orders} == {"F1": "COMPLETE", "F2": "OPEN"}
    assert report.foreign_orders_count == 2
    assert world.trader.cancelled == [], "FOREIGN is never touched"
    assert world.sent[0][0] == reconciliations(BROKER)
    assert world.alerts.raised == []
    gauge = metrics.foreign.labels(BROKER.value, "NSE:INFY", "MIS")
    assert gauge._value.get() == 7


async def test_drift_is_told_to_a_person_when_it_stands_and_its_gauge_goes_back(world: World) -> None:
    await world.filled(10)
    await world.opened()
    world.trader.net[("INFY", Product.MIS)] += 4
    first = await world.round()
    assert figures(first)["INFY:MIS"] == (14, 10, 0, 4)
    assert world.alerts.raised == [], "a fill may be in flight"
    await world.round()
    await world.round()
    assert world.alerts.kinds() == ["drift"]
    assert "4 unexplained" in world.alerts.raised[0][1]
    gauge = metrics.drift.labels(BROKER.value, "NSE:INFY", "MIS")
    assert gauge._value.get() == 4
    world.trader.net[("INFY", Product.MIS)] -= 4
    assert figures(await world.round())["INFY:MIS"] == (10, 10, 0, 0)
    assert gauge._value.get() == 0
    assert (await load_standing(world.journal.journal, world.account)).drift.told == frozenset()


async def test_a_fill_between_the_reads_is_not_drift(world: World) -> None:
    await world.filled(10)
    await world.opened()

    async def fills() -> None:
        world.trader.order("F1", 5)

    world.trader.between = fills
    assert figures(await world.round())["INFY:MIS"] == (15, 10, 5, None)
    assert figures(await world.round())["INFY:MIS"] == (15, 10, 5, 0)


async def test_a_position_closed_by_somebody_else_is_told(world: World) -> None:
    await world.filled(10)
    world.trader.order("RMS", -10)
    for _ in range(3):
        report = await world.round()
    assert figures(report)["INFY:MIS"] == (0, 10, -10, 0)
    assert world.alerts.kinds() == ["position_uncovered"]


async def test_the_carry_of_a_new_day_is_foreign_and_drift_of_the_old_one_is_not_forgotten(world: World) -> None:
    await world.filled(10)
    await world.opened()
    world.trader.net[("INFY", Product.MIS)] += 4
    for _ in range(2):
        await world.round()
    await _yesterday(world)
    await world.round()
    report = await world.round()
    assert figures(report)["INFY:MIS"] == (14, 10, 4, 0)
    assert world.alerts.kinds() == ["drift", "drift"]
    assert "counts as FOREIGN" in world.alerts.raised[1][1]


async def _yesterday(world: World) -> None:
    """Make all that was seen and booked be of the day before; the broker's book starts empty."""
    before: date = trading_day(utc_now()) - timedelta(days=1)
    async with world.journal.engine.begin() as connection:
        for table in (FILLS, SENDS, DAYS):
            await connection.execute(update(table).where(table.c.account == world.account).values(trading_day=before))
        watched = await connection.scalar(
            select(ROUNDS.c.watched).where(ROUNDS.c.account == world.account).order_by(ROUNDS.c.finished_at.desc())
        )
        await connection.execute(
            update(ROUNDS)
            .where(ROUNDS.c.account == world.account)
            .values(watched=watched | {"day": before.isoformat()})
        )
    world.trader.rows, world.trader.listed = [], {}


# books that are no evidence ---------------------------------------------------------------------------------------


async def test_a_book_without_an_order_we_know_of_is_not_judged(world: World) -> None:
    await world.filled(10)
    await world.round()
    world.trader.rows, world.trader.net = [], {}
    report = await world.round()
    assert (report.judged, report.lines) == (False, ())
    assert report.why_not == "the book lacks 1 orders the journal knows of"
    assert world.alerts.kinds() == ["reconcile_blind"]
    await world.round()
    assert world.alerts.kinds() == ["reconcile_blind"], "said once"


async def test_a_broker_that_rests_at_night_wakes_nobody(world: World) -> None:
    class Night:
        def phase(self, kind: SessionKind, moment: datetime) -> SessionPhase:
            return SessionPhase.CLOSED

    night: Any = Night()
    day, world.orders.calendar = world.orders.calendar, night
    world.trader.owner = "SOMEBODY"
    await world.round()
    await world.round()
    assert world.alerts.raised == []
    world.orders.calendar = day
    await world.round()
    assert world.alerts.kinds() == ["reconcile_blind"], "it is told when the day begins"


async def test_a_book_that_lacks_an_order_is_not_judged_but_what_it_shows_of_ours_is_adopted(world: World) -> None:
    """One row missing all day must not keep what turned up late from being booked and cancelled."""
    await world.filled(10)
    world.trader.rows, world.trader.net = [], {}
    order_id = await world.order()
    await world.journal.claim(order_id)
    await world.journal.journal.unknown(order_id, 1, "read timeout")
    await world.journal.journal.absent(order_id, 1, "proven")
    tag = (await world.journal.journal.load(order_id)).send["tag"]
    world.trader.order("LATE1", 10, filled=4, status="OPEN", tags=[tag])
    report = await world.round()
    assert (report.judged, report.why_not) == (False, "the book lacks 1 orders the journal knows of")
    assert (report.adopted, report.late_fills) == ((order_id,), 1)
    assert world.trader.cancelled == ["LATE1"]


async def test_another_accounts_book_adopts_nothing(world: World) -> None:
    order_id = await world.order()
    await world.journal.claim(order_id)
    await world.journal.journal.unknown(order_id, 1, "read timeout")
    await world.journal.journal.absent(order_id, 1, "proven")
    tag = (await world.journal.journal.load(order_id)).send["tag"]
    world.trader.order("LATE1", 10, filled=4, status="OPEN", tags=[tag])
    own = world.trader.book

    async def anothers() -> Book:
        return replace(await own(), account="SOMEBODY")

    world.trader.book = anothers  # type: ignore[method-assign]
    report = await world.round()
    assert report.why_not == f"it is the book of SOMEBODY, not of {world.account}"
    assert (report.judged, report.adopted, world.trader.cancelled) == (False, (), [])


async def test_foreign_trades_that_vanish_make_the_book_no_evidence(world: World) -> None:
    world.trader.order("F1", 7)
    await world.round()
    world.trader.rows, world.trader.listed, world.trader.net = [], {}, {}
    report = await world.round()
    assert report.why_not == "1 trades of today that were listed before are gone"


async def test_another_accounts_book_is_not_judged(world: World) -> None:
    world.trader.owner = "SOMEBODY"
    report = await world.round()
    assert "SOMEBODY's account" in (report.why_not or "")


async def test_a_broker_that_is_away_is_told_and_the_rest_of_the_round_goes_on(world: World) -> None:
    async def away() -> None:
        raise Transient("zerodha positions: 503", part="zerodha")

    world.trader.between = away
    order_id = await world.order()
    report = await world.round()
    assert not report.judged
    assert "zerodha positions: 503" in report.trouble
    assert report.started_again == (order_id,)


# what is mended ---------------------------------------------------------------------------------------------------


async def test_a_fill_after_the_end_is_booked_and_published(world: World) -> None:
    order_id = await world.order()
    broker_order_id = await world.journal.sent(order_id)
    await world.journal.fill(order_id, trade(4), status="CANCELLED")
    assert await world.status(order_id) is OrderStatus.CANCELLED
    early = (await world.journal.fills())[0]
    world.trader.order(broker_order_id, 10, filled=6, status="CANCELLED")
    late = world.trader.listed[broker_order_id][0]
    first = replace(late, trade_id=early["trade_id"], quantity=4, filled_at=early["filled_at"])
    world.trader.listed[broker_order_id] = [first, replace(late, quantity=2)]
    report = await world.round()
    assert report.late_fills == 1
    found = await world.journal.journal.load(order_id)
    assert (found.status, found.order["filled_quantity"]) == (OrderStatus.CANCELLED, 6)
    assert (await world.journal.position())["quantity"] == 6
    events = await world.journal.events(order_id)
    assert [event["published_at"] is not None for event in events] == [True] * len(events)
    again = await world.round()
    assert (again.late_fills, figures(again)["INFY:MIS"]) == (0, (6, 6, 0, 0))


async def test_a_row_of_a_send_given_up_is_adopted_alarmed_and_cancelled_while_it_works(world: World) -> None:
    order_id = await world.order()
    await world.journal.claim(order_id)
    await world.journal.journal.unknown(order_id, 1, "read timeout")
    await world.journal.journal.absent(order_id, 1, "3 books without it")
    assert await world.status(order_id) is OrderStatus.EXPIRED
    late_id = f"L{order_id.hex[-12:]}"
    world.trader.order(late_id, 10, filled=3, status="OPEN", tags=[ids.order_tag(order_id, 1)])
    report = await world.round()
    assert (report.adopted, report.late_fills, report.foreign_orders_count) == ((order_id,), 1, 0)
    assert world.trader.cancelled == [late_id]
    assert world.alerts.kinds() == ["late_row"]
    assert await world.status(order_id) is OrderStatus.EXPIRED
    assert (await world.journal.position())["quantity"] == 3
    assert figures(await world.round())["INFY:MIS"] == (3, 3, 0, 0)


async def test_a_late_row_holds_exits_back_until_a_round_sees_its_end_and_has_booked_its_fills(world: World) -> None:
    await world.filled(10)
    leave = await world.order(Side.SELL, intent=Intent.EXIT)
    await world.journal.claim(leave)
    await world.journal.journal.unknown(leave, 1, "read timeout")
    await world.journal.journal.absent(leave, 1, "3 books without it")
    tags = [ids.order_tag(leave, 1)]
    world.trader.order("LATE2", -10, filled=4, status="OPEN", tags=tags)
    await world.round()
    assert (await world.journal.claim(leave, 2)).result is ClaimResult.IN_DOUBT
    world.trader.order("LATE2", -10, filled=6, status="CANCELLED", tags=tags, lists=False, net=False)
    await world.round()
    assert (await world.journal.claim(leave, 2)).result is ClaimResult.IN_DOUBT, "two more are sold and not listed yet"
    one = world.trader.listed["LATE2"][0]
    world.trader.listed["LATE2"].append(replace(one, trade_id="T2", quantity=2))
    await world.round()
    assert (await world.journal.claim(leave, 2)).quantity == 4


async def test_a_row_whose_fills_were_all_booked_while_it_worked_lets_exits_go_once_it_has_ended(world: World) -> None:
    await world.filled(10)
    leave = await world.order(Side.SELL, intent=Intent.EXIT)
    await world.journal.claim(leave)
    await world.journal.journal.unknown(leave, 1, "read timeout")
    await world.journal.journal.absent(leave, 1, "3 books without it")
    tags = [ids.order_tag(leave, 1)]
    world.trader.order("LATE3", -10, filled=4, status="OPEN", tags=tags)
    await world.round()
    world.trader.order("LATE3", -10, filled=4, status="CANCELLED", tags=tags, net=False)
    await world.round()
    assert (await world.journal.claim(leave, 2)).quantity == 6


async def test_a_round_repeated_after_a_crash_is_one_round(world: World) -> None:
    await world.filled(10)
    at = world.at()
    compared = await ActivityEnvironment().run(world.book.compare_with_broker, at)
    again = await ActivityEnvironment().run(world.book.compare_with_broker, at)
    assert again == compared
    for _ in range(2):
        await ActivityEnvironment().run(world.orders.report_round, RoundResult(round=at, compared=compared))
    assert len(world.sent) == 1


async def test_events_left_behind_are_published(world: World) -> None:
    order_id = await world.order()
    await world.journal.sent(order_id)
    report = await world.round()
    assert report.published_late >= 1
    assert all(event["published_at"] for event in await world.journal.events(order_id))


async def test_a_log_that_is_away_keeps_rounds_and_events_for_the_next(world: World, monkeypatch: Any) -> None:
    order_id = await world.order()
    await world.journal.sent(order_id)
    send = world.orders.producer.send_raw

    async def away(*_: Any, **__: Any) -> None:
        raise Transient("kafka does not take it", part="kafka")

    monkeypatch.setattr(world.orders.producer, "send_raw", away)
    with pytest.raises(Transient):
        await world.round()
    monkeypatch.setattr(world.orders.producer, "send_raw", send)
    await world.round()
    mine = [report for _, report in world.sent if report.account == world.account]
    assert len(mine) == 2
    assert any("does not take" in trouble for trouble in mine[0].trouble)
    assert all(event["published_at"] for event in await world.journal.events(order_id))


# lost workflows ---------------------------------------------------------------------------------------------------


async def state(world: World, order_id: UUID) -> tuple[WorkflowExecutionStatus | None, str]:
    found = await world.client.get_workflow_handle(order_workflow_id(BROKER, order_id)).describe()
    return found.status, found.run_id


async def test_the_workflow_of_an_open_order_is_started_when_it_is_gone_and_never_twice(world: World) -> None:
    order_id = await world.order()
    with pytest.raises(RPCError):
        await state(world, order_id)
    assert (await world.round()).started_again == (order_id,)
    status, first = await state(world, order_id)
    assert status is WorkflowExecutionStatus.RUNNING
    assert (await world.round()).started_again == ()
    assert (await state(world, order_id))[1] == first
    await world.client.get_workflow_handle(order_workflow_id(BROKER, order_id)).terminate()
    assert (await world.round()).started_again == (order_id,)
    status, second = await state(world, order_id)
    assert status is WorkflowExecutionStatus.RUNNING
    assert second != first


async def test_orders_of_another_target_stay_alone(world: World) -> None:
    sent = await world.order(target="production")
    name = await world.journal.sent(sent)
    assert (await world.round()).judged, "this book need not list it"
    world.trader.order(name, 10)  # the same id, of somebody else's order
    report = await world.round()
    assert (report.judged, report.foreign_orders_count, report.late_fills) == (True, 1, 0)
    assert await world.status(sent) is OrderStatus.SUBMITTED
    order_id = await world.order(target="production")
    assert (await world.round()).started_again == ()
    with pytest.raises(RPCError):
        await state(world, order_id)


async def test_a_workflow_that_missed_its_orders_end_is_told(world: World) -> None:
    order_id = await world.order()
    found = await world.journal.journal.load(order_id)
    await start_order(world.client, from_journal(BROKER, found.order, OrderDurations()))
    await world.journal.journal.end_unsent(order_id, OrderStatus.CANCELLED, "a person resolved it")
    await _until_told(world, order_id)
    handle = world.client.get_workflow_handle(order_workflow_id(BROKER, order_id))
    history = await handle.fetch_history()
    signals = [e for e in history.events if e.HasField("workflow_execution_signaled_event_attributes")]
    assert len(signals) == 1, "each round one, and it was told in one"


async def _until_told(world: World, order_id: UUID) -> None:
    """The visibility store is a moment behind: rounds until it lists the workflow."""
    for _ in range(50):
        if order_id in (await world.round()).told:
            return
    raise AssertionError("the workflow was not told in 50 rounds")


async def test_the_input_from_the_journal_is_the_one_of_the_signal(world: World) -> None:
    order_id = await world.order(Side.SELL, 7, intent=Intent.EXIT, price=Decimal("101.5"), order_type="LIMIT")
    order = (await world.journal.journal.load(order_id)).order
    made = from_journal(BROKER, order, OrderDurations())
    assert (made.order_id, made.side, made.quantity, made.intent, made.price, made.send_no) == (
        order_id, Side.SELL, 7, Intent.EXIT, Decimal("101.5"), 1,
    )  # fmt: skip
    assert (made.resumed, made.symbol, made.correlation_id) == (None, "INFY", order["correlation_id"])
    assert made.requested_by == f"strategy {order['strategy_id']}"
