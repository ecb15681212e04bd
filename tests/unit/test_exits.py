"""What of a position an exit may close: what it was decided on, never what was entered after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
