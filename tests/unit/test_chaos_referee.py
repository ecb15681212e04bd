"""The referee of the chaos run sees every breach it is there for: a clean order passes, and each single wrong is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from core import ids
from core.errors import StopTheStart
from core.events.envelope import Envelope, EventType, make
from core.events.payloads import FillRecord, OrderEvent
from core.routing import order_workflow_id
from core.trading.types import Broker, Exchange, Intent, OrderStatus, OrderType, Side, Validity
from sandbox.fault_kinds import FaultKind
from sandbox.faults import parse
from tests.chaos import money
from tests.chaos.blows import plan as blow_plan
from tests.chaos.facts import BookOrder, BookTrade, Facts, Journal
from tests.chaos.faults import LEFT_OUT
from tests.chaos.faults import plan as fault_plan
from tests.chaos.home import refuse_other_targets
from tests.chaos.money import Deal
from tests.chaos.plan import Planned
from tests.chaos.plan import make as make_plan
from tests.chaos.referee import Verdict, judge
from tests.order_events import make_order_state, make_signal

T0 = datetime(2026, 10, 7, 4, 0, tzinfo=UTC)
PRICE = Decimal("1500.10")


def intent(broker: Broker = Broker.ZERODHA, number: int = 0) -> Planned:
    signal_id = ids.derive_at(T0, "test", broker, number)
    return Planned(
        number=number,
        broker=broker,
        signal_id=signal_id,
        order_id=ids.derive(ids.derive(signal_id, "decision"), "order"),
        strategy_id="momentum",
        instrument="NSE:INFY",
        instrument_token=408065,
        side=Side.BUY,
        intent=Intent.ENTRY,
        quantity=10,
        order_type=OrderType.MARKET,
        validity=Validity.DAY,
        price=None,
        age_limit_s=600,
        due_s=0,
        follows=None,
        twice=False,
    )


def event(
    one: Planned, seq: int, kind: EventType, status: OrderStatus, **state: Any
) -> tuple[str, Envelope, OrderEvent]:
    signal = make_signal(one.broker).model_copy(update={"signal_id": one.signal_id})
    order = make_order_state(signal, status, order_id=one.order_id, **state)
    fill = None
    if kind is EventType.ORDER_FILLED:
        fill = FillRecord(
            account="A", trading_day=T0.date(), exchange=Exchange.NSE, broker_order_id="B1", trade_id="T1", quantity=10,
            price=PRICE, filled_at=T0, realized_pnl=Decimal(0), charges=state["charges"], position_quantity=10,
            position_average_price=PRICE,
        )  # fmt: skip
    data = OrderEvent(order_seq=seq, order=order, fill=fill)
    made = make(
        kind, data, id=ids.derive(one.order_id, kind, seq), key=str(one.order_id), source="test",
        correlation_id=one.signal_id, broker=one.broker, ts=T0 + timedelta(seconds=seq),
    )  # fmt: skip
    return f"{one.broker.value}.orders.{kind.value.removeprefix('order.')}", made, data


def filled(one: Planned) -> Facts:
    """One intent that became one order, filled whole, everything in step."""
    charges = money.charges_of([Deal(T0, "T1", "B1", 1, 10, PRICE)])
    final = {"filled_quantity": 10, "average_price": PRICE, "realized_pnl": Decimal(0), "charges": charges}
    rows = [
        event(one, 1, EventType.ORDER_SUBMITTED, OrderStatus.SUBMITTED),
        event(one, 2, EventType.ORDER_ACK, OrderStatus.ACKED),
        event(one, 3, EventType.ORDER_FILLED, OrderStatus.FILLED, **final),
    ]
    order = {
        "order_id": one.order_id, "signal_id": one.signal_id, "status": "FILLED", "reason": None, "order_seq": 3,
        "send_no": 1, "updated_at": T0, "created_at": T0, **final,
    }  # fmt: skip
    send = {"send_no": 1, "tag": ids.order_tag(one.order_id, 1), "state": "SENT", "claimed_at": T0, "answered_at": T0}
    fill = {"broker_order_id": "B1", "trade_id": "T1", "quantity": 10, "price": PRICE, "realized_pnl": Decimal(0)}
    instance = f"momentum@{one.broker.value}"
    journal = Journal(
        orders={one.order_id: order},
        decisions={one.signal_id: {"accepted": True, "denials": "[]", "instance": instance, "decided_at": T0}},
        sends={one.order_id: [send]},
        fills={one.order_id: [fill]},
        events={
            one.order_id: [
                {"order_seq": data.order_seq, "topic": topic, "published_at": T0, "created_at": made.ts}
                for topic, made, data in rows
            ]
        },
        books_seen={one.order_id: []},
        positions=[
            {
                "instance": instance,
                "instrument_token": 408065,
                "product": "MIS",
                "quantity": 10,
                "average_price": PRICE,
                "realized_pnl": Decimal(0),
                "charges": charges,
            }
        ],
    )
    book = [
        BookOrder("B1", send["tag"], "COMPLETE", "BUY", 10, 10, 408065, "MIS", [BookTrade("T1", 10, PRICE, T0)])  # type: ignore[arg-type]
    ]
    workflows = {order_workflow_id(one.broker, one.order_id): "COMPLETED"}
    return Facts(one.broker, book, journal, {one.order_id: rows}, workflows)


def verdict_on(facts: Facts, one: Planned) -> Verdict:
    return judge([one], {one.signal_id: T0}, {one.broker: facts})


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


def unsent(one: Planned, status: str, reason: str | None, healthy: int, *, doubt: bool) -> Facts:
    """An intent without an order at the broker."""
    facts = filled(one)
    facts.book.clear()
    facts.journal.positions.clear()
    facts.journal.fills[one.order_id] = []
    nothing = {"filled_quantity": 0, "average_price": None, "realized_pnl": Decimal(0), "charges": Decimal(0)}
    facts.journal.orders[one.order_id] |= {
        "status": status,
        "reason": reason,
        **nothing,
        "order_seq": 2 if doubt else 1,
    }
    rows = [event(one, 1, EventType.ORDER_UNKNOWN, OrderStatus.UNKNOWN)] if doubt else []
    rows.append(event(one, len(rows) + 1, EventType.ORDER_EXPIRED, OrderStatus(status), **nothing))
    facts.log[one.order_id] = rows
    facts.journal.events[one.order_id] = [
        {"order_seq": data.order_seq, "topic": topic, "published_at": T0, "created_at": made.ts}
        for topic, made, data in rows
    ]
    facts.journal.books_seen[one.order_id] = [{"healthy": True}] * healthy
    return facts


@pytest.mark.parametrize(
    ("reason", "healthy", "doubt", "told"),
    [
        ("never reached the broker: 3 healthy books", 3, True, None),
        ("never reached the broker: 2 healthy books", 2, True, "2 healthy books as evidence"),
        ("too old to act on: 7 s", 0, False, None),
        (None, 0, False, "without a reason"),
    ],
)
def test_no_order_at_the_broker_needs_a_proven_reason(
    reason: str | None, healthy: int, doubt: bool, told: str | None
) -> None:
    one = intent()
    verdict = verdict_on(unsent(one, "EXPIRED", reason, healthy, doubt=doubt), one)
    assert [told in breach.what for breach in verdict.breaches if told] == ([True] if told else [])
    assert told or verdict.breaches == []
    assert sum(verdict.unsent.values()) == 1


def test_seconds_to_evidence_are_those_from_unknown_to_the_next_step() -> None:
    one = intent()
    assert verdict_on(unsent(one, "EXPIRED", "never", 3, doubt=True), one).unknown_s == [1.0]


def test_what_the_plan_wrote_down_does_not_count_as_unsent_beyond_it() -> None:
    short = replace(intent(), age_limit_s=5.0)
    assert verdict_on(unsent(short, "EXPIRED", "too old to act on", 0, doubt=False), short).beyond_plan == 0
    long = intent()
    verdict = verdict_on(unsent(long, "EXPIRED", "too old to act on", 0, doubt=False), long)
    assert (verdict.beyond_plan, verdict.too_many_unsent) == (1, True)


def test_a_fold_crosses_zero_at_the_price_of_the_deal() -> None:
    deals = [
        Deal(T0, "1", "A", 1, 10, Decimal(100)),
        Deal(T0 + timedelta(seconds=1), "2", "B", -1, 15, Decimal(103)),
        Deal(T0 + timedelta(seconds=2), "3", "C", 1, 2, Decimal(101)),
    ]
    held = money.fold(deals)
    assert (held.quantity, held.average, held.realized) == (-3, Fraction(103), Fraction(34))


def test_a_plan_is_decided_by_its_seed_and_leaves_only_what_it_entered() -> None:
    one, again, other = (make_plan(200, seed, 4.0, T0) for seed in (5, 5, 6))
    assert one == again
    assert one.intents != other.intents
    assert len({row.instrument for row in make_plan(4000, 5, 8.0, T0).intents}) >= 200
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


@pytest.mark.parametrize("target", ["production", "zerodha-sandbox"])
def test_any_target_but_local_is_refused(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITE_TARGET", target)
    with pytest.raises(StopTheStart, match="local alone"):
        refuse_other_targets()
