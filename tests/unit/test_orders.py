"""The order's state machine as tables and invariants: what the broker's book makes of an order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trading.orders import (
    TRANSITIONS,
    IllegalTransition,
    SeenFill,
    SeenOrder,
    check,
    end_of,
    fold_book,
    held_open,
    path,
)
from core.trading.types import OrderStatus as S

NOW = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)


def trade(number: int, quantity: int, at: int = 0) -> SeenFill:
    return SeenFill(f"T{number}", quantity, Decimal("100.05"), NOW + timedelta(seconds=at))


def seen(status: str, filled: int, quantity: int = 10, *, acked: bool = True) -> SeenOrder:
    return SeenOrder(acked, end_of(status), quantity, filled, "words of the broker")


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        (S.PENDING, S.SUBMITTED, (S.SUBMITTED,)),
        (S.PENDING, S.FILLED, (S.SUBMITTED, S.ACKED, S.FILLED)),
        (S.UNKNOWN, S.CANCELLED, (S.SUBMITTED, S.CANCELLED)),
        (S.UNRESOLVED, S.ACKED, (S.SUBMITTED, S.ACKED)),
        (S.PARTIALLY_FILLED, S.UNRESOLVED, (S.UNRESOLVED,)),
        (S.SUBMITTED, S.REJECTED, (S.REJECTED,)),
        (S.PARTIALLY_FILLED, S.PARTIALLY_FILLED, (S.PARTIALLY_FILLED,)),
        (S.ACKED, S.ACKED, ()),
        (S.FILLED, S.CANCELLED, ()),
        (S.EXPIRED, S.SUBMITTED, ()),
    ],
)
def test_a_fast_broker_is_followed_through_every_state(before: S, after: S, steps: tuple[S, ...]) -> None:
    assert path(before, after) == steps


@pytest.mark.parametrize(
    ("before", "after"), [(S.ACKED, S.UNKNOWN), (S.SUBMITTED, S.EXPIRED), (S.FILLED, S.ACKED), (S.ACKED, S.PENDING)]
)
def test_a_step_that_is_not_in_the_table_is_refused(before: S, after: S) -> None:
    with pytest.raises(IllegalTransition, match=f"{before} to {after}"):
        check(before, after)


@pytest.mark.parametrize(
    ("status", "book", "trades", "expected"),
    [
        # before        what the book shows        its trades                   the steps: (status, quantity booked)
        (S.SUBMITTED, seen("OPEN", 0), [], [(S.ACKED, 0)]),
        (S.SUBMITTED, seen("PUT ORDER REQ RECEIVED", 0, acked=False), [], []),
        (S.SUBMITTED, seen("COMPLETE", 10), [trade(1, 10)], [(S.ACKED, 0), (S.FILLED, 10)]),
        (S.UNKNOWN, seen("COMPLETE", 10), [trade(1, 10)], [(S.SUBMITTED, 0), (S.ACKED, 0), (S.FILLED, 10)]),
        (S.ACKED, seen("OPEN", 4), [trade(1, 4)], [(S.PARTIALLY_FILLED, 4)]),
        (S.ACKED, seen("COMPLETE", 10), [trade(1, 4), trade(2, 6, 1)], [(S.PARTIALLY_FILLED, 4), (S.FILLED, 6)]),
        # an end with fills waits until the trades add up
        (S.ACKED, seen("COMPLETE", 10), [trade(1, 4)], [(S.PARTIALLY_FILLED, 4)]),
        (S.ACKED, seen("CANCELLED", 4), [], []),
        (S.ACKED, seen("CANCELLED", 4), [trade(1, 4)], [(S.PARTIALLY_FILLED, 4), (S.CANCELLED, 0)]),
        (S.ACKED, seen("CANCELLED", 0), [], [(S.CANCELLED, 0)]),
        (S.SUBMITTED, seen("REJECTED", 0, acked=False), [], [(S.REJECTED, 0)]),
        # an end is sticky, and a later fill is booked all the same
        (S.CANCELLED, seen("OPEN", 0), [], []),
        (S.CANCELLED, seen("CANCELLED", 4), [trade(1, 4)], [(S.CANCELLED, 4)]),
        # reduced in the broker's own app
        (S.ACKED, seen("COMPLETE", 6, quantity=6), [trade(1, 6)], [(S.FILLED, 6)]),
        # increased there: it works on after what we sent is filled
        (S.ACKED, seen("OPEN", 10, quantity=20), [trade(1, 10)], [(S.PARTIALLY_FILLED, 10)]),
        # complete, and the rest will never come; complete of nothing is no evidence of anything yet
        (S.ACKED, seen("COMPLETE", 4), [trade(1, 4)], [(S.PARTIALLY_FILLED, 4), (S.CANCELLED, 0)]),
        (S.ACKED, seen("COMPLETE", 0), [], []),
    ],
)
def test_the_book_decides(status: S, book: SeenOrder, trades: list[SeenFill], expected: list[tuple[S, int]]) -> None:
    steps = fold_book(status=status, quantity=10, filled_quantity=0, booked_trades=(), seen=book, trades=trades)
    assert [(step.status, step.fill.quantity if step.fill else 0) for step in steps] == expected


def test_an_order_reduced_to_what_is_filled_already_ends_without_a_new_fill() -> None:
    steps = fold_book(
        status=S.PARTIALLY_FILLED,
        quantity=10,
        filled_quantity=6,
        booked_trades=["T1"],
        seen=seen("COMPLETE", 6, quantity=6),
        trades=[trade(1, 6)],
    )
    assert [(step.status, step.fill) for step in steps] == [(S.FILLED, None)]


@pytest.mark.parametrize(
    ("status", "filled", "trades", "expected"),
    [
        (S.SUBMITTED, 0, [trade(1, 10)], [(S.ACKED, 0), (S.PARTIALLY_FILLED, 10)]),
        (S.ACKED, 0, [trade(1, 4), trade(2, 6, 1)], [(S.PARTIALLY_FILLED, 4), (S.PARTIALLY_FILLED, 6)]),
        (S.PARTIALLY_FILLED, 10, [], []),  # complete without a new fill
    ],
)
def test_an_exit_that_goes_on_books_its_fills_and_does_not_end(
    status: S, filled: int, trades: list[SeenFill], expected: list[tuple[S, int]]
) -> None:
    steps = fold_book(
        status=status, quantity=10, filled_quantity=filled, booked_trades=(), seen=seen("COMPLETE", 10), trades=trades
    )
    assert steps[-1].status is S.FILLED
    held = held_open(steps)
    assert [(step.status, step.fill.quantity if step.fill else 0) for step in held] == expected
    assert path(held[-1].status if held else status, S.PENDING) == (S.PENDING,)


def test_a_trade_already_booked_is_not_booked_again() -> None:
    steps = fold_book(
        status=S.PARTIALLY_FILLED,
        quantity=10,
        filled_quantity=4,
        booked_trades=["T1"],
        seen=seen("OPEN", 4),
        trades=[trade(1, 4)],
    )
    assert steps == ()


@given(
    parts=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    looks=st.lists(st.integers(0, 8), max_size=6),
    ended=st.booleans(),
)
def test_however_the_book_is_seen_fills_add_up_and_an_end_stays(
    parts: list[int], looks: list[int], ended: bool
) -> None:
    """Looks at a growing book in any order, repeated and stale ones included, lead to the same order."""
    quantity = sum(parts)
    trades = [trade(number, part, number) for number, part in enumerate(parts)]
    status, filled, booked = S.SUBMITTED, 0, set[str]()
    for count in [*looks, len(parts)]:
        listed = trades[:count]
        done = sum(t.quantity for t in listed)
        book = seen("COMPLETE" if done == quantity and ended else "OPEN", done, quantity)
        before = status
        for step in fold_book(
            status=status, quantity=quantity, filled_quantity=filled, booked_trades=booked, seen=book, trades=listed
        ):
            assert step.status in TRANSITIONS[status] or step.status is status
            status = step.status
            if step.fill is not None:
                filled += step.fill.quantity
                booked.add(step.fill.trade_id)
        assert not before.is_end or status is before
        assert filled <= quantity
    assert filled == quantity
    assert status is S.FILLED
