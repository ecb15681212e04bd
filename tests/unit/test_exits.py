"""What of a position an exit may close: what it was decided on, never what was entered after it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from core.trading.exits import Moved, Share, share


def older(quantity: int) -> Moved:
    return Moved(quantity, younger=False)


def younger(quantity: int) -> Moved:
    return Moved(quantity, younger=True)


@pytest.mark.parametrize(
    ("what", "held", "since", "mine", "anew"),
    [
        ("nothing happened since", 10, [], 10, 0),
        ("nothing is held", 0, [], 0, 0),
        ("an entry from before it filled on", 10, [older(7)], 10, 0),
        ("closed, and an entry from before it filled on", 3, [younger(-7), older(3)], 3, 0),
        ("its own first send filled, and an entry from before it filled on", 3, [older(-7), older(3)], 3, 0),
        ("entered anew beside it", 15, [younger(5)], 10, 5),
        ("closed and entered anew", 5, [younger(-10), younger(5)], 0, 5),
        ("closed by an exit from before it and entered anew", 5, [older(-10), younger(5)], 0, 5),
        ("some closed, then entered anew", 9, [younger(-6), younger(5)], 4, 5),
        ("entered anew, and that closed by its own exit", 10, [younger(5), younger(-5)], 10, 0),
        ("entered anew, and more than that closed", 3, [younger(5), younger(-12)], 3, 0),
        ("turned, and turned again", 5, [younger(-15), younger(10)], 0, 5),
        ("held on the other side when it was decided", 0, [older(4)], 0, 0),
        ("on the other side, then entered anew", 6, [younger(10)], 0, 6),
        ("another one from before it takes all of its own and some of the new", 2, [younger(5), older(-13)], 0, 2),
    ],
)
def test_an_exit_closes_what_it_was_decided_on(what: str, held: int, since: list[Moved], mine: int, anew: int) -> None:
    found = share(held, since)
    assert (found.mine, found.anew) == (mine, anew), what


moves = st.lists(st.builds(Moved, st.integers(-20, 20).filter(bool), st.booleans()), max_size=8)


@given(st.integers(-20, 20), moves)
def test_what_is_held_is_the_exits_or_new_to_the_unit(began: int, since: list[Moved]) -> None:
    held = began + sum(move.quantity for move in since)
    found = share(held, since)
    assert found.at_decision == began
    assert found.mine + found.anew == max(held, 0)
    assert found.mine >= 0
    assert found.anew >= 0


@given(st.integers(1, 20), st.lists(st.integers(1, 20), max_size=5))
def test_after_a_flat_position_nothing_entered_anew_is_the_exits(began: int, entered: list[int]) -> None:
    since = [younger(-began), *(younger(quantity) for quantity in entered)]
    assert share(sum(entered), since) == Share(0, sum(entered), began)


@given(st.integers(0, 20), st.lists(st.integers(-20, 20).filter(bool), max_size=8))
def test_without_a_younger_order_all_that_is_held_is_the_exits(began: int, since: list[int]) -> None:
    held = began + sum(since)
    assert share(held, [older(quantity) for quantity in since]).mine == max(held, 0)


# many orders of one position -------------------------------------------------------------------------------------------


@dataclass
class Order:
    """An entry that buys or an exit that sells. `sent` is what an exit's present send may still take; `at` is when it was decided."""

    at: int
    is_exit: bool
    wanted: int
    held_then: int
    filled: int = 0
    sent: int = 0
    ended: bool = False


class Goals(RuleBasedStateMachine):
    """Entries fill and exits are claimed, filled and cut short in any order. An exit's send is sized as the journal sizes it."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[Order] = []
        self.fills: list[tuple[Order, int]] = []
        """Order and signed quantity, each booked after the orders decided before it (`Order.at` counts both)."""
        self.moments: list[int] = []
        self.clock = itertools.count()

    @property
    def held(self) -> int:
        return sum(quantity for _, quantity in self.fills)

    def _decide(self, is_exit: bool, wanted: int) -> None:
        self.orders.append(Order(next(self.clock), is_exit, wanted, self.held))

    def _book(self, order: Order, quantity: int) -> None:
        order.filled += quantity
        self.moments.append(next(self.clock))
        self.fills.append((order, -quantity if order.is_exit else quantity))

    def _pick(self, which: int, orders: Iterable[Order]) -> Order | None:
        there = list(orders)
        return there[which % len(there)] if there else None

    def _left(self, order: Order) -> int:
        """What the exit may take now, as core/storage/exits.py has it."""
        since = [
            Moved(quantity, other.at > order.at)
            for moment, (other, quantity) in zip(self.moments, self.fills, strict=True)
            if moment > order.at
        ]
        taken = sum(other.sent for other in self.orders if other is not order)
        return min(order.wanted - order.filled, self.held - taken, share(self.held, since).mine)

    @rule(wanted=st.integers(1, 20))
    def an_entry_is_decided(self, wanted: int) -> None:
        self._decide(False, wanted)

    @rule(wanted=st.integers(1, 60))
    def an_exit_is_decided(self, wanted: int) -> None:
        self._decide(True, wanted)

    @rule(which=st.integers(0, 30), part=st.integers(1, 20))
    def an_entry_fills(self, which: int, part: int) -> None:
        order = self._pick(which, (one for one in self.orders if not one.is_exit and not one.ended))
        if order is not None:
            self._book(order, min(part, order.wanted - order.filled))
            order.ended = order.filled == order.wanted

    @rule(which=st.integers(0, 30))
    def an_entry_is_cancelled(self, which: int) -> None:
        order = self._pick(which, (one for one in self.orders if not one.is_exit and not one.ended))
        if order is not None:
            order.ended = True

    @rule(which=st.integers(0, 30))
    def an_exit_is_claimed(self, which: int) -> None:
        order = self._pick(which, (one for one in self.orders if one.is_exit and not one.ended and not one.sent))
        if order is not None:
            order.sent = max(self._left(order), 0)

    @rule(which=st.integers(0, 30), part=st.integers(1, 60))
    def an_exit_fills(self, which: int, part: int) -> None:
        order = self._pick(which, (one for one in self.orders if one.sent))
        if order is not None:
            quantity = min(part, order.sent)
            order.sent -= quantity
            self._book(order, quantity)
            order.ended = order.filled == order.wanted

    @rule(which=st.integers(0, 30))
    def an_exit_is_cut_short(self, which: int) -> None:
        order = self._pick(which, (one for one in self.orders if one.sent))
        if order is not None:
            order.sent, order.ended = 0, True

    @invariant()
    def nothing_is_ever_oversold(self) -> None:
        assert sum(order.sent for order in self.orders) <= self.held

    @invariant()
    def no_exit_closes_what_was_entered_after_it(self) -> None:
        for order in self.orders:
            if order.is_exit:
                older = sum(
                    quantity
                    for moment, (other, quantity) in zip(self.moments, self.fills, strict=True)
                    if moment > order.at and quantity > 0 and other.at < order.at
                )
                assert order.filled <= order.held_then + older

    def teardown(self) -> None:
        """An exit of everything, with no entry after it, goes on until the position is flat."""
        for order in self.orders:
            order.ended = order.ended or not order.is_exit
        self._decide(True, 10_000)
        for _ in range(len(self.orders) + 1):
            for order in self.orders:
                if order.is_exit and not order.ended:
                    order.sent = order.sent or max(self._left(order), 0)
                    if order.sent:
                        quantity, order.sent = order.sent, 0
                        self._book(order, quantity)
        assert self.held == 0


Goals.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_exits_of_one_position_in_any_order = Goals.TestCase
