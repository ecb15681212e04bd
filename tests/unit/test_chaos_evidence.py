"""Why an intent has no order at the broker, and what an exit may sell: the referee of the chaos run takes nobody's word for either."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core import ids
from core.events.envelope import EventType
from core.trading.types import Broker, OrderStatus
from tests.chaos.books import BookTrade
from tests.chaos.facts import Facts
from tests.chaos.plan import Planned
from tests.chaos.verdict import Verdict
from tests.unit.chaos_case import (
    PRICE,
    PROVEN,
    T0,
    after,
    breaches_of,
    event,
    exit_of,
    fault,
    filled,
    intent,
    looks,
    row_of,
    send_of,
    unsent,
    verdict_on,
)


@pytest.mark.parametrize(
    ("reason", "seen", "doubt", "told"),
    [
        ("never reached the broker", PROVEN, True, None),
        ("never reached the broker", (2.0, 4.0), True, "2 healthy books 1.5 s apart"),
        ("never reached the broker", (2.0, 2.5, 3.0, 8.0), True, "2 healthy books 1.5 s apart"),
        ("never reached the broker", (0.5, 1.0, 1.4, 8.0), True, "1 healthy books"),
        ("never reached the broker", (2.0, 4.0, 6.0), True, "the last book 4.5 s after its deadline"),
        ("too old to act on: 7 s", (), False, None),
        (None, (), False, "without a reason"),
    ],
)
def test_no_order_at_the_broker_needs_a_proven_reason(
    reason: str | None, seen: tuple[float, ...], doubt: bool, told: str | None
) -> None:
    one = intent()
    verdict = verdict_on(unsent(one, "EXPIRED", reason, looks(one, *seen), doubt=doubt), one)
    assert [told in breach.what for breach in verdict.breaches if told] == ([True] if told else [])
    assert told or verdict.breaches == []
    assert sum(verdict.unsent.values()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"healthy": False},
        {"send_no": 2},
        {"rows": 0},
        {"account": "another"},
        {"trading_day": T0.date() - timedelta(days=1)},
    ],
)
def test_a_book_that_is_no_evidence_does_not_count(wrong: dict[str, Any]) -> None:
    """The middle one of three: sick, of another send, account or day, or shorter than what the journal knew."""
    one, other = intent(), intent(number=7)
    first, second, third = looks(one, *PROVEN)
    facts = unsent(one, "EXPIRED", "never reached the broker", [first, second | wrong, third], doubt=True)
    facts.journal.sends[other.order_id] = [send_of(other)]
    assert any("2 healthy books" in what for what in breaches_of(facts, one))


def test_an_exits_absence_is_proven_send_by_send() -> None:
    """The second send reached the broker; the first was given up after two books."""
    one = intent()
    facts = filled(one)
    topic, made, data = event(one, 1, EventType.ORDER_UNKNOWN, OrderStatus.UNKNOWN)
    facts.log[one.order_id].append((topic, made, data))
    gone = send_of(one, state="ABSENT", broker_order_id=None, answer="never reached the broker")
    facts.journal.sends[one.order_id] = [gone, send_of(one, 2)]
    facts.book[0].tag = ids.order_tag(one.order_id, 2)
    facts.journal.books_seen[one.order_id] = looks(one, 2.0, 4.0)
    assert any("send 1 was UNKNOWN and is held absent: 2 healthy books" in what for what in breaches_of(facts, one))
    facts.journal.books_seen[one.order_id] = looks(one, *PROVEN)
    assert not any("held absent" in what for what in breaches_of(facts, one))


@pytest.mark.parametrize(
    ("kind", "detail", "told"),
    [
        ("error", "not carried out", None),
        ("timed_out_400", "not carried out", "the broker's log has no such refusal"),
        ("error", "carried out, answered 200", "the broker's log has no such refusal"),
        (None, "", "the broker's log has no such refusal"),
    ],
)
def test_a_refusal_must_stand_in_the_brokers_own_log(kind: str | None, detail: str, told: str | None) -> None:
    one = intent()
    facts = unsent(one, "REJECTED", "INPUT: no", [], doubt=False, state="REFUSED")
    facts.faults = [fault(kind, one, detail=detail)] if kind else []
    breaches = breaches_of(facts, one)
    assert [told in what for what in breaches if told] == ([True] if told else [])
    assert told or breaches == []


def test_a_claimed_send_held_absent_without_doubt_or_refusal_is_told() -> None:
    one = intent()
    facts = unsent(one, "EXPIRED", "too old to act on: 7 s", [], doubt=False)
    facts.journal.sends[one.order_id][0] |= {"claimed_at": T0}
    assert any("was claimed, never UNKNOWN" in what for what in breaches_of(facts, one))


def test_seconds_to_evidence_are_those_from_unknown_to_the_next_step() -> None:
    one = intent()
    assert verdict_on(unsent(one, "EXPIRED", "never", looks(one, *PROVEN), doubt=True), one).unknown_s == [1.0]


def test_what_the_plan_wrote_down_does_not_count_as_unsent_beyond_it() -> None:
    short = replace(intent(), age_limit_s=5.0)
    assert verdict_on(unsent(short, "EXPIRED", "too old to act on", [], doubt=False), short).beyond_plan.total() == 0
    long = intent()
    verdict = verdict_on(unsent(long, "EXPIRED", "too old to act on", [], doubt=False), long)
    assert (verdict.beyond_plan[long.broker], verdict.too_many_unsent) == (1, [long.broker])


def test_a_short_lived_intent_that_ended_for_another_reason_is_beyond_the_plan() -> None:
    short = replace(intent(), age_limit_s=5.0)
    facts = unsent(short, "CANCELLED", "cancelled before it was sent", [], doubt=False)
    assert verdict_on(facts, short).beyond_plan[short.broker] == 1
    facts.journal.orders.clear()
    facts.journal.decisions[short.signal_id] |= {"accepted": False, "denials": '[{"code": "UNKNOWN_ORDER"}]'}
    assert verdict_on(facts, short).beyond_plan[short.broker] == 1


def test_a_send_is_planned_to_be_lost_only_where_the_sandbox_wrote_that_it_did_not_carry_it_out() -> None:
    one = intent()
    facts = unsent(one, "EXPIRED", "never reached the broker", looks(one, *PROVEN), doubt=True)
    for each, beyond in (
        (fault("request_lost", one), 0),
        (fault("answer_lost", one, detail="carried out, answered 200"), 1),
        (fault("trades_lag", one), 1),
        (fault("request_lost", intent(number=9)), 1),
    ):
        facts.faults = [each]
        assert verdict_on(facts, one).beyond_plan[one.broker] == beyond, each


def test_five_in_a_hundred_are_counted_by_broker() -> None:
    verdict = Verdict()
    verdict.published = Counter({Broker.PAPER: 100, Broker.ZERODHA: 100})
    verdict.beyond_plan = Counter({Broker.PAPER: 0, Broker.ZERODHA: 6})
    assert verdict.too_many_unsent == [Broker.ZERODHA]
    verdict.beyond_plan[Broker.ZERODHA] = 5
    assert verdict.too_many_unsent == []


# exits --------------------------------------------------------------------------------------------------------------


def entered_and_left(exit_quantity: int = 10, **row: Any) -> tuple[Facts, Planned, Planned]:
    """An entry of 10, filled, and an exit accepted five seconds later."""
    entry = intent()
    leave = exit_of(entry, quantity=exit_quantity)
    facts = filled(entry)
    accepted: dict[str, Any] = {
        "accepted_at": after(5),
        "ended_at": after(6),
        "trades": [BookTrade("T2", exit_quantity, PRICE, after(6))],
    }
    facts.book.append(row_of(leave, "B2", **accepted | row))
    return facts, entry, leave


def oversold(facts: Facts, *intents: Planned) -> list[str]:
    return [what for what in breaches_of(facts, *intents) if "OVERSOLD" in what]


def test_an_exit_for_what_is_held_is_no_oversell_and_one_unit_more_is() -> None:
    assert oversold(*entered_and_left(10)) == []
    assert oversold(*entered_and_left(11)) == ["OVERSOLD: exit B2 accepted for 11, 10 were left to exit"]


def test_an_exit_accepted_before_its_entry_filled_is_told() -> None:
    facts, entry, leave = entered_and_left(10)
    facts.book[0].trades = [BookTrade("T1", 10, PRICE, after(5.5))]
    assert oversold(facts, entry, leave) == ["OVERSOLD: exit B2 accepted for 10, 0 were left to exit"]


def test_two_exits_at_once_are_told_and_one_after_the_others_cancel_is_not() -> None:
    """The second exit sees what the first still works for."""
    facts, entry, first = entered_and_left(6, status="OPEN", filled_quantity=0, trades=[], ended_at=None)
    second = exit_of(entry, number=2, quantity=10)
    facts.book.append(row_of(second, "B3", accepted_at=after(7), ended_at=after(8), trades=[]))
    assert oversold(facts, entry, first, second) == ["OVERSOLD: exit B3 accepted for 10, 4 were left to exit"]
    facts.book[1] = replace(facts.book[1], status="CANCELLED", ended_at=after(6.5))
    assert oversold(facts, entry, first, second) == []


def unsent_exit(status: str, reason: str, seconds: float = 30.0) -> tuple[Facts, Planned, Planned]:
    """An entry of 10, filled, whose exit ended unsent so long after T0."""
    entry = intent()
    leave = exit_of(entry)
    facts, other = filled(entry), unsent(leave, status, reason, [], doubt=False)
    other.journal.orders[leave.order_id] |= {"ended_at": after(seconds)}
    for name in ("orders", "decisions", "sends", "fills", "events", "books_seen", "views"):
        getattr(facts.journal, name).update(getattr(other.journal, name))
    facts.log |= other.log
    facts.workflows |= other.workflows
    return facts, entry, leave


def test_an_unsent_exit_is_told_where_something_was_left_to_exit() -> None:
    facts, entry, leave = unsent_exit("CANCELLED", "nothing left to exit")
    assert breaches_of(facts, entry, leave) == ["an exit ended CANCELLED unsent, and 10 were left to exit"]
    facts.journal.fills[entry.order_id][0]["recorded_at"] = after(31)  # found later: nobody could know
    assert breaches_of(facts, entry, leave) == []


def test_an_exit_that_expired_is_told_whatever_was_held() -> None:
    facts, entry, leave = unsent_exit("EXPIRED", "too old to act on")
    assert "an exit EXPIRED: exits never do" in breaches_of(facts, entry, leave)


def test_a_denied_exit_is_told_where_something_was_left_to_exit() -> None:
    facts, entry, leave = unsent_exit("CANCELLED", "nothing left to exit")
    del facts.journal.orders[leave.order_id]
    del facts.log[leave.order_id]
    facts.journal.decisions[leave.signal_id] |= {"accepted": False, "decided_at": after(30)}
    assert breaches_of(facts, entry, leave) == ["an exit was denied, and 10 were left to exit"]


def test_an_exit_a_person_cancelled_is_told_unless_strangers_had_closed_what_it_was_for() -> None:
    facts, entry, leave = unsent_exit("CANCELLED", "cancelled before it was sent")
    facts.journal.orders[leave.order_id]["cancel_requested"] = True
    told = ["an exit ended CANCELLED unsent, and 10 were left to exit"]
    assert breaches_of(facts, entry, leave) == told
    facts.faults = [fault("rms_square_off", detail="order 999: SELL 10 NSE:INFY MIS")]
    squared = {"tag": None, "source": "rms", "trades": [BookTrade("T9", 4, PRICE, after(10))]}
    facts.book.append(row_of(leave, "999", **squared))
    assert breaches_of(facts, entry, leave) == told, "6 are still there"
    facts.book[-1].trades = [BookTrade("T9", 10, PRICE, after(10))]
    assert breaches_of(facts, entry, leave) == []
    facts.book[-1].trades = [BookTrade("T9", 10, PRICE, after(40))]
    assert breaches_of(facts, entry, leave) == told, "closed after the person cancelled"


def test_a_further_order_of_an_exit_is_told_unless_the_one_before_had_filled_whole() -> None:
    """An exit is a goal: cut to what was held, it goes on when more of it is there."""
    facts, entry, leave = entered_and_left(6)
    facts.book.append(row_of(leave, "B3", 2, accepted_at=after(7), ended_at=after(8), trades=[]))
    twice = "2 orders at the broker for one intent"
    assert twice not in breaches_of(facts, entry, leave)
    facts.book[-1] = replace(facts.book[-1], accepted_at=after(5.5))
    assert twice in breaches_of(facts, entry, leave), "the first still worked"
    facts.book[-1] = replace(facts.book[-1], accepted_at=after(7))
    facts.book[1] = replace(facts.book[1], status="CANCELLED")
    assert twice in breaches_of(facts, entry, leave)
