"""The referee of the chaos run sees every breach it is there for: a clean order passes, and each single wrong is told."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import psutil
import pytest

from core import ids
from core.errors import StopTheStart
from core.routing import order_workflow_id
from core.trading.types import Broker, Intent
from sandbox.fault_kinds import FaultKind
from sandbox.faults import parse
from tests.chaos import money
from tests.chaos.blows import Action, _dealt
from tests.chaos.blows import plan as blow_plan
from tests.chaos.books import BookTrade
from tests.chaos.facts import Facts, newest
from tests.chaos.faults import LEFT_OUT
from tests.chaos.faults import plan as fault_plan
from tests.chaos.home import refuse_other_targets, refuse_the_days_end
from tests.chaos.money import Deal
from tests.chaos.plan import Planned
from tests.chaos.plan import make as make_plan
from tests.chaos.referee import judge
from tests.unit.chaos_case import (
    PRICE,
    T0,
    after,
    breaches_of,
    fault,
    filled,
    intent,
    row_of,
    verdict_on,
)


def test_an_order_in_step_with_the_brokers_book_passes() -> None:
    one = intent()
    verdict = verdict_on(filled(one), one)
    assert verdict.breaches == []
    assert (verdict.duplicates, verdict.lost, verdict.accepted[one.broker], verdict.claimed[one.broker]) == (0, 0, 1, 1)


def second_order(facts: Facts, one: Planned) -> None:
    """The same send reached the broker again."""
    facts.book.append(replace(facts.book[0], broker_order_id="B2", status="CANCELLED", filled_quantity=0, trades=[]))


def second_send(facts: Facts, one: Planned) -> None:
    """A send under a tag the journal knows nothing of."""
    tag = ids.order_tag(one.order_id, 2)
    facts.book.append(replace(facts.book[0], broker_order_id="B2", tag=tag, filled_quantity=0, trades=[]))


def set_order(**values: Any) -> Callable[[Facts, Planned], None]:
    return lambda facts, one: facts.journal.orders[one.order_id].update(values)


def set_position(**values: Any) -> Callable[[Facts, Planned], None]:
    return lambda facts, one: facts.journal.positions[0].update(values)


def drop_event(facts: Facts, one: Planned) -> None:
    del facts.log[one.order_id][1]


def event_with_other_contents(facts: Facts, one: Planned) -> None:
    topic, made, data = facts.log[one.order_id][0]
    facts.log[one.order_id].append((topic, made.model_copy(update={"source": "another"}), data))


def other_topic(facts: Facts, one: Planned) -> None:
    _, made, data = facts.log[one.order_id][0]
    facts.log[one.order_id][0] = (f"{one.broker.value}.orders.ack", made, data)


def other_price(facts: Facts, one: Planned) -> None:
    facts.book[0].trades[0] = replace(facts.book[0].trades[0], price=PRICE + Decimal("0.05"))


def nobody_decided(facts: Facts, one: Planned) -> None:
    facts.journal.decisions.clear()


def lost_order(facts: Facts, one: Planned) -> None:
    facts.journal.orders.clear()


def never_sent(facts: Facts, one: Planned) -> None:
    """FILLED, and the broker has never seen it."""
    facts.book.clear()


def workflow(status: str) -> Callable[[Facts, Planned], None]:
    return lambda facts, one: facts.workflows.update({order_workflow_id(one.broker, one.order_id): status})


def unpublished(facts: Facts, one: Planned) -> None:
    facts.journal.events[one.order_id][2]["published_at"] = None


def set_row(**values: Any) -> Callable[[Facts, Planned], None]:
    def wrong(facts: Facts, one: Planned) -> None:
        facts.book[0] = replace(facts.book[0], **values)

    return wrong


def filled_short(facts: Facts, one: Planned) -> None:
    """Nine of ten filled, and all agree that it is FILLED."""
    facts.book[0] = replace(facts.book[0], filled_quantity=9, trades=[BookTrade("T1", 9, PRICE, T0)])


def untagged(facts: Facts, one: Planned) -> None:
    facts.book.append(row_of(one, "100", tag=None))


def untagged_of_the_app(facts: Facts, one: Planned) -> None:
    facts.book.append(row_of(one, "100", tag=None, source="app"))
    facts.faults = [fault("foreign_order", detail="order 101: BUY 3 NSE:INFY MIS")]


def set_round(value: Any) -> Callable[[Facts, Planned], None]:
    def wrong(facts: Facts, one: Planned) -> None:
        facts.round = value

    return wrong


def drift(units: int | None) -> Callable[[Facts, Planned], None]:
    line = {"exchange": "NSE", "tradingsymbol": "INFY", "product": "MIS", "drift": units}
    return set_round({"judged": True, "lines": [line]})


def set_in_redis(**values: Any) -> Callable[[Facts, Planned], None]:
    def wrong(facts: Facts, one: Planned) -> None:
        assert facts.model is not None
        for key, view in facts.model.positions.items():
            facts.model.positions[key] = view.model_copy(update=values)

    return wrong


def set_total(**values: Any) -> Callable[[Facts, Planned], None]:
    def wrong(facts: Facts, one: Planned) -> None:
        assert facts.model is not None
        facts.model.pnl["*"] = facts.model.pnl["*"].model_copy(update=values)

    return wrong


def redis_empty(facts: Facts, one: Planned) -> None:
    facts.model = None


def redis_behind(facts: Facts, one: Planned) -> None:
    facts.model_behind = "the read model lacks the log up to 3"


def set_snapshot(**values: Any) -> Callable[[Facts, Planned], None]:
    def wrong(facts: Facts, one: Planned) -> None:
        facts.snapshots = {name: row.model_copy(update=values) for name, row in facts.snapshots.items()}

    return wrong


def no_snapshot(facts: Facts, one: Planned) -> None:
    facts.snapshots.clear()


def view_behind(facts: Facts, one: Planned) -> None:
    facts.journal.views[one.order_id] = {"status": "ACKED", "order_seq": 2}


def no_view(facts: Facts, one: Planned) -> None:
    facts.journal.views.clear()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (second_order, "2 orders at the broker for one intent"),
        (second_send, "2 orders at the broker for one intent"),
        (set_order(status="ACKED"), "has not ended"),
        (set_order(status="CANCELLED", reason="?"), "it stands at COMPLETE"),
        (set_order(filled_quantity=9), "filled 9, at the broker 10"),
        (set_order(average_price=PRICE + Decimal("0.01")), "average price"),
        (set_order(charges=Decimal("0.01")), "charges"),
        (set_order(realized_pnl=Decimal(1)), "its fills realised"),
        (set_position(quantity=9), "position"),
        (set_position(realized_pnl=Decimal("0.01")), "realized_pnl"),
        (drop_event, "the journal counts 3 steps"),
        (event_with_other_contents, "different contents"),
        (other_topic, "order.submitted on zerodha.orders.ack"),
        (other_price, "fills differ"),
        (nobody_decided, "nobody decided on"),
        (lost_order, "the journal has no order"),
        (never_sent, "no order at the broker"),
        (workflow("RUNNING"), "still runs"),
        (workflow("FAILED"), "ended FAILED"),
        (unpublished, "never published"),
        (set_row(placed=9), "with quantity 9"),
        (set_row(order_type="LIMIT", limit=PRICE), "with type LIMIT"),
        (set_row(limit=PRICE), "with price 1500.10"),
        (set_row(product="CNC"), "with product CNC"),
        (set_row(validity="IOC"), "with validity IOC"),
        (set_row(side="SELL"), "with side SELL"),
        (set_row(instrument_token=1), "with instrument 1"),
        (set_row(source="app"), "with source app"),
        (filled_short, "FILLED with 9 of 10"),
        (untagged, "has no tag"),
        (untagged_of_the_app, "no fault made it"),
        (set_round(None), "no round of reconciliation"),
        (set_round({"judged": False, "why_not": "the book is away", "lines": []}), "not judged: the book is away"),
        (drift(None), "could not judge NSE:INFY:MIS"),
        (drift(3), "drift in NSE:INFY:MIS: 3, 0 were carried in"),
        (set_in_redis(quantity=9), "in Redis: 9, the broker's trades add up to 10"),
        (set_in_redis(charges=Decimal(0)), "in Redis: charges"),
        (set_in_redis(realized_pnl=Decimal(1)), "in Redis: realized_pnl"),
        (redis_empty, "Redis holds no portfolio"),
        (redis_behind, "the read model lacks"),
        (set_total(charges=Decimal(0)), "PnL of * in Redis: charges"),
        (set_snapshot(quantity=9), "the last snapshot of"),
        (no_snapshot, "no snapshot of"),
        (view_behind, "people are shown"),
        (no_view, "people are shown no order"),
    ],
)
def test_a_single_wrong_is_told(wrong: Callable[[Facts, Planned], None], told: str) -> None:
    one = intent()
    facts = filled(one)
    wrong(facts, one)
    breaches = [breach.what for breach in verdict_on(facts, one).breaches]
    assert any(told in what for what in breaches), breaches


def test_an_order_of_the_other_broker_is_told() -> None:
    mine, other = intent(Broker.ZERODHA), intent(Broker.PAPER)
    facts = filled(mine)
    facts.journal.orders[other.order_id] = dict(facts.journal.orders[mine.order_id])
    verdict = judge([mine, other], {mine.signal_id: T0}, {Broker.ZERODHA: facts})
    assert any("other broker" in breach.what for breach in verdict.breaches)


def test_a_fold_crosses_zero_at_the_price_of_the_deal() -> None:
    deals = [
        Deal(T0, "1", "A", 1, 10, Decimal(100)),
        Deal(T0 + timedelta(seconds=1), "2", "B", -1, 15, Decimal(103)),
        Deal(T0 + timedelta(seconds=2), "3", "C", 1, 2, Decimal(101)),
    ]
    held = money.fold(deals)
    assert (held.quantity, held.average, held.realized) == (-3, Fraction(103), Fraction(34))


def test_untagged_orders_and_carried_positions_that_the_sandbox_was_told_of_are_no_breach() -> None:
    one = intent()
    facts = filled(one)
    facts.book.append(row_of(one, "100", tag=None, source="app"))
    facts.book.append(row_of(one, "101", tag=None, source="rms"))
    facts.faults = [
        fault("foreign_order", detail="order 100: BUY 3 NSE:INFY MIS"),
        fault("rms_square_off", detail="order 99: SELL 1 NSE:TCS MIS; order 101: SELL 3 NSE:INFY MIS"),
        fault("foreign_position", symbol="NSE:INFY", detail="7 carried at 1500.1"),
    ]
    line = {"exchange": "NSE", "tradingsymbol": "INFY", "product": "MIS", "drift": 7}
    facts.round = {"judged": True, "lines": [line]}
    assert breaches_of(facts, one) == []


def test_the_newest_run_of_a_workflow_is_the_one_that_counts() -> None:
    runs = [("a", after(5), "RUNNING"), ("a", T0, "COMPLETED"), ("b", None, "FAILED"), ("b", T0, "COMPLETED")]
    assert newest(runs) == {"a": "RUNNING", "b": "COMPLETED"}


def test_a_blow_at_nobody_is_no_blow() -> None:
    """A process that is gone, one that is dead and not yet buried, and one that runs."""
    assert asyncio.run(_dealt(Action.KILL, [])) is False
    child = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    victim = psutil.Process(child.pid)
    assert asyncio.run(_dealt(Action.FREEZE_SHORT, [victim])) is True
    assert asyncio.run(_dealt(Action.KILL, [victim])) is True
    deadline = time.monotonic() + 10
    while victim.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asyncio.run(_dealt(Action.KILL, [victim])) is False
    child.wait()
    assert asyncio.run(_dealt(Action.FREEZE_SHORT, [victim])) is False


def test_a_plan_is_decided_by_its_seed_and_leaves_only_what_it_entered() -> None:
    one, again, other = (make_plan(200, seed, 4.0, T0) for seed in (5, 5, 6))
    assert one == again
    assert one.intents != other.intents
    many = make_plan(4000, 5, 8.0, T0).intents
    assert len({row.instrument for row in many}) >= 200
    assert round(sum(row.age_limit_s == 5 for row in many) / len(many), 2) == 0.1, "one in ten lives five seconds"
    for broker in Broker:
        rows = {row.number: row for row in one.of(broker)}
        for row in rows.values():
            if row.follows is not None:
                entry = rows[row.follows]
                assert (entry.instrument, entry.side.opposite, entry.intent) == (row.instrument, row.side, Intent.ENTRY)
                assert row.due_s > entry.due_s


def test_every_planned_fault_is_one_the_sandbox_takes_and_no_kind_is_left_out_silently() -> None:
    rules = fault_plan(seed=3, lasts_s=2000)
    given = {parse(one.rule).rules[0].kind for one in rules}
    assert given | LEFT_OUT.keys() == set(FaultKind)
    assert rules == fault_plan(seed=3, lasts_s=2000)


def test_every_part_is_killed_once_and_frozen_once_a_round() -> None:
    parts = ["one", "two", "three"]
    blows = list(itertools.islice(blow_plan(parts, seed=3), 2 * len(parts)))
    for part in parts:
        actions = [blow.action for blow in blows if blow.part == part]
        assert sorted(action.seconds > 0 for action in actions) == [False, True]


def test_a_run_over_the_days_end_is_refused() -> None:
    """06:00 IST is 00:30 UTC."""
    evening = T0.replace(hour=23, minute=30)
    refuse_the_days_end(evening, 3599)
    with pytest.raises(StopTheStart, match="06:00 IST"):
        refuse_the_days_end(evening, 3601)


@pytest.mark.parametrize("target", ["production", "zerodha-sandbox"])
def test_any_target_but_local_is_refused(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITE_TARGET", target)
    with pytest.raises(StopTheStart, match="local alone"):
        refuse_other_targets()
