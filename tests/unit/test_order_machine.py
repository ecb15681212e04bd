"""The order's life as a state machine under hypothesis: a broker with a mind of its own, and our side that hears of it in any order.

Ours is the pure part alone (path, fold_book, the rules of sends); the journal keeps it across restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.trading.orders import TRANSITIONS, SeenFill, SeenOrder, end_of, fold_book, path
from core.trading.types import Intent, OrderStatus, SendState

S = OrderStatus
NOW = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Look:
    """One look at the broker: the row, and the trades listed at that moment or a little later."""

    status: str
    quantity: int
    filled: int
    trades: tuple[SeenFill, ...]


@dataclass
class Ours:
    """What the journal holds of the order. Every step taken must be in the table."""

    intent: Intent
    quantity: int
    status: OrderStatus = S.PENDING
    send: SendState = SendState.INTENT
    known: bool = False
    filled: int = 0
    fills: dict[str, int] = field(default_factory=dict)
    cancel: bool = False

    def go(self, to: OrderStatus) -> None:
        for step in path(self.status, to):
            assert step in TRANSITIONS[self.status]
            self.status = step

    def see(self, look: Look) -> None:
        """Fold one look, as the journal does."""
        seen = SeenOrder(look.status != "PUT ORDER REQ RECEIVED", end_of(look.status), look.quantity, look.filled, None)
        steps = fold_book(
            status=self.status,
            quantity=self.quantity,
            filled_quantity=self.filled,
            booked_trades=self.fills,
            seen=seen,
            trades=look.trades,
        )
        self.known, self.send = True, SendState.SENT
        for step in steps:
            assert step.status in TRANSITIONS[self.status] or step.status is self.status
            assert not (self.status.is_end and step.status is not self.status), "an end is sticky"
            self.status = step.status
            if step.fill is not None:
                assert step.fill.trade_id not in self.fills
                self.fills[step.fill.trade_id] = step.fill.quantity
                self.filled += step.fill.quantity


class OrderLife(RuleBasedStateMachine):
    """The broker's truth grows by its rules; ours hears answers, hints with fresh or old looks, cancels and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Look] = []
        self.trades: list[SeenFill] = []
        self.row: Look | None = None
        self.answer_due = False
        self.ours = Ours(Intent.ENTRY, 1)
        self.sends = 0

    @initialize(intent=st.sampled_from(Intent), quantity=st.integers(1, 20))
    def decided(self, intent: Intent, quantity: int) -> None:
        self.ours = Ours(intent, quantity)

    # the broker --------------------------------------------------------------------------------------------------

    def _changes(self, status: str, filled: int | None = None) -> None:
        before = self.row
        count = sum(t.quantity for t in self.trades) if filled is None else filled
        assert before is not None
        self.row = Look(status, before.quantity, count, tuple(self.trades))
        self.history.append(self.row)

    def _at_broker(self, *statuses: str) -> bool:
        return self.row is not None and self.row.status in statuses

    @rule()
    @precondition(lambda self: self._at_broker("PUT ORDER REQ RECEIVED"))
    def exchange_opens_it(self) -> None:
        self._changes("OPEN")

    @rule()
    @precondition(lambda self: self._at_broker("PUT ORDER REQ RECEIVED", "OPEN"))
    def exchange_rejects_it(self) -> None:
        if not self.trades:
            self._changes("REJECTED")

    @rule(share=st.integers(1, 20))
    @precondition(lambda self: self._at_broker("PUT ORDER REQ RECEIVED", "OPEN", "CANCEL PENDING"))
    def exchange_fills_some(self, share: int) -> None:
        self._fill(share)
        assert self.row is not None
        full = sum(t.quantity for t in self.trades) == self.row.quantity
        self._changes("COMPLETE" if full else "OPEN")

    @rule(share=st.integers(1, 20))
    @precondition(lambda self: self._at_broker("CANCELLED"))
    def a_fill_that_raced_the_cancel_turns_up(self, share: int) -> None:
        self._fill(share)
        self._changes("CANCELLED")

    def _fill(self, share: int) -> None:
        assert self.row is not None
        left = self.row.quantity - sum(t.quantity for t in self.trades)
        if left:
            number = len(self.trades)
            moment = NOW + timedelta(seconds=number)
            self.trades.append(SeenFill(f"T{number}", min(share, left), Decimal(100), moment))

    @rule()
    @precondition(lambda self: self._at_broker("OPEN", "CANCEL PENDING"))
    def exchange_cancels_it(self) -> None:
        self._changes("CANCELLED")

    # ours --------------------------------------------------------------------------------------------------------

    @rule(arrives=st.booleans(), answered=st.booleans())
    @precondition(lambda self: self.ours.status is S.PENDING and self.ours.send is SendState.INTENT)
    def send(self, arrives: bool, answered: bool) -> None:
        """Claimed and sent: it arrives or not, and we hear of it or not. A latched cancel stops it."""
        if self.ours.cancel:
            self.ours.go(S.CANCELLED)
            return
        self.sends += 1
        self.ours.send = SendState.SENDING
        if arrives:
            self.row = Look("PUT ORDER REQ RECEIVED", self.ours.quantity, 0, ())
            self.history.append(self.row)
            self.answer_due = answered
        elif answered:
            self.ours.send = SendState.INTENT  # a certain "not placed"

    @rule()
    @precondition(lambda self: self.answer_due)
    def the_answer_arrives(self) -> None:
        """At once, or long after look-up found the order."""
        self.answer_due = False
        self.ours.known, self.ours.send = True, SendState.SENT
        if self.ours.status in {S.PENDING, S.UNKNOWN, S.UNRESOLVED}:
            self.ours.go(S.SUBMITTED)

    @rule()
    @precondition(lambda self: self.ours.send is SendState.SENDING)
    def the_worker_restarts(self) -> None:
        """It finds a claimed send without an answer: only the book can tell now."""
        self.ours = replace(self.ours, send=SendState.UNKNOWN, fills=dict(self.ours.fills))
        self.ours.go(S.UNKNOWN)

    @rule()
    @precondition(lambda self: self.ours.status is S.UNKNOWN)
    def the_day_ends(self) -> None:
        self.ours.go(S.UNRESOLVED)

    @rule()
    @precondition(lambda self: self.row is None and self.ours.status is S.UNKNOWN)
    def absence_is_proven(self) -> None:
        if self.ours.intent is Intent.ENTRY:
            self.ours.go(S.EXPIRED)
        else:
            self.ours.go(S.PENDING)
            self.ours.send = SendState.INTENT

    @rule()
    def cancel_is_asked(self) -> None:
        """Before it is known it latches; then the exchange hears of it."""
        self.ours.cancel = True
        if self.ours.known and self._at_broker("OPEN"):
            self._changes("CANCEL PENDING")

    @rule(which=st.integers(0, 30), trades_later=st.integers(0, 5), lagging=st.integers(0, 3))
    @precondition(lambda self: self.history)
    def a_hint_makes_us_look(self, which: int, trades_later: int, lagging: int) -> None:
        """A look from any moment; its trades may be of a later moment, or lag behind the row."""
        at = which % len(self.history)
        row = self.history[at]
        listed = self.history[min(at + trades_later, len(self.history) - 1)].trades
        self.ours.see(replace(row, trades=listed[: max(len(listed) - lagging, 0)]))

    # what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_filled_beyond_what_was_sent(self) -> None:
        assert self.ours.filled <= self.ours.quantity
        assert self.ours.filled == sum(self.ours.fills.values())

    @invariant()
    def it_reaches_the_broker_once(self) -> None:
        assert sum(1 for look in self.history if look.status == "PUT ORDER REQ RECEIVED") <= 1

    @invariant()
    def an_order_the_broker_has_never_ends_by_itself(self) -> None:
        assert self.row is None or self.ours.status is not S.EXPIRED

    def teardown(self) -> None:
        """Whatever was heard, and in whatever order: the last book brings it to the same end as if only that had been seen."""
        if self.row is None:
            return
        self.ours.see(self.row)
        assert set(self.ours.fills) == {t.trade_id for t in self.trades}, "a fill was lost"
        fresh = Ours(self.ours.intent, self.ours.quantity)
        fresh.see(self.row)
        assert (self.ours.status, self.ours.filled) == (fresh.status, fresh.filled)
        for looks in (self.history, list(reversed(self.history))):
            other = Ours(self.ours.intent, self.ours.quantity)
            for look in [*looks, self.row]:
                other.see(look)
            assert (other.status, other.fills) == (fresh.status, fresh.fills)


OrderLife.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_an_orders_life_in_any_order = OrderLife.TestCase
