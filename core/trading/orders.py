"""The order's state machine: one pure transition table, and what a row of the broker's book means for an order.

Filled quantity never decreases; an end is sticky, except that a later fill is always booked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from core.trading.types import OrderStatus

_S = OrderStatus


class IllegalTransition(ValueError):
    """A step the table does not have: a bug, to be seen by a person with the order's timeline."""


TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    _S.PENDING: frozenset({_S.SUBMITTED, _S.UNKNOWN, _S.REJECTED, _S.EXPIRED, _S.CANCELLED}),
    _S.UNKNOWN: frozenset({_S.SUBMITTED, _S.PENDING, _S.EXPIRED, _S.UNRESOLVED, _S.REJECTED}),
    _S.UNRESOLVED: frozenset({_S.SUBMITTED, _S.EXPIRED, _S.PENDING}),
    _S.SUBMITTED: frozenset({_S.ACKED, _S.REJECTED, _S.CANCELLED, _S.UNRESOLVED}),
    _S.ACKED: frozenset({_S.PARTIALLY_FILLED, _S.FILLED, _S.CANCELLED, _S.REJECTED, _S.UNRESOLVED}),
    _S.PARTIALLY_FILLED: frozenset(
        {_S.PARTIALLY_FILLED, _S.FILLED, _S.CANCELLED, _S.REJECTED, _S.UNRESOLVED, _S.PENDING}
    ),
    _S.FILLED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.REJECTED: frozenset(),
    _S.EXPIRED: frozenset(),
}
"""From each state, where one step may lead. PENDING → CANCELLED is an order stopped before it was ever claimed for sending;
UNKNOWN → PENDING is an exit whose send is proven absent and that opens its next send (UNRESOLVED → PENDING the same, on a
person's word); PARTIALLY_FILLED → PENDING is an exit whose send filled all that was held when it was sent, while more of its position
is there or may come: its next send; from the followed states to UNRESOLVED goes an order whose trading day ended unseen: the broker's
book was emptied before it showed the end."""

_FORWARD = (_S.SUBMITTED, _S.ACKED)


def check(before: OrderStatus, after: OrderStatus) -> None:
    """Raises IllegalTransition where the table has no such step."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(
            f"an order cannot go from {before} to {after}: tell the developers, with the order's timeline"
        )


def path(before: OrderStatus, after: OrderStatus) -> tuple[OrderStatus, ...]:
    """The steps from `before` to `after`, passing through SUBMITTED and ACKED where the broker was faster than its answers.

    Empty when there is nothing to do: already there, or at an end (which is sticky).
    """
    if before.is_end or (before is after and after is not _S.PARTIALLY_FILLED):
        return ()
    if after in TRANSITIONS[before]:
        return (after,)
    steps: list[OrderStatus] = []
    at = before
    for step in _FORWARD:
        if after in TRANSITIONS[at]:
            break
        if step in TRANSITIONS[at]:
            steps.append(step)
            at = step
    check(at, after)
    return (*steps, after)


@dataclass(frozen=True, slots=True)
class SeenFill:
    """A trade of the order as the broker lists it."""

    trade_id: str
    quantity: int
    price: Decimal
    filled_at: datetime


@dataclass(frozen=True, slots=True)
class SeenOrder:
    """What the book says of the order, in our words: `end` is the status it ended in there, None while it works."""

    acked: bool
    end: OrderStatus | None
    quantity: int
    filled_quantity: int
    message: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """One transition to journal: the state after it, and the fill it books, if any."""

    status: OrderStatus
    fill: SeenFill | None = None


def end_of(book_status: str) -> OrderStatus | None:
    """Our end for the book's terminal statuses; every other string is not terminal (kite.trade/docs/connect/v3/orders)."""
    return {"COMPLETE": _S.FILLED, "CANCELLED": _S.CANCELLED, "REJECTED": _S.REJECTED}.get(book_status)


def fold_book(
    *,
    status: OrderStatus,
    quantity: int,
    filled_quantity: int,
    booked_trades: Iterable[str],
    seen: SeenOrder,
    trades: Sequence[SeenFill],
) -> tuple[Step, ...]:
    """The steps that bring an order to what the book shows. New trades are booked in (time, trade id) order.

    An end with fills waits: it is not among the steps until all trades that the book counts are there. `quantity` is what was sent
    under this broker order, `filled_quantity` what of it is booked. An order changed in the broker's own app is full at the book's
    quantity; until the book calls it complete, at no less than was sent. Only the row says that an order is FILLED: trades, which are read
    after it, may be of a cancelled order's last race, and the same facts in another order must lead to the same end.
    """
    full = seen.quantity if seen.end is _S.FILLED else max(quantity, seen.quantity)
    may_be_full = seen.end in {None, _S.FILLED} and seen.filled_quantity >= full
    steps: list[Step] = []
    at = status

    def go(after: OrderStatus) -> None:
        nonlocal at
        for step in path(at, after):
            steps.append(Step(step))
            at = step

    if at in {_S.PENDING, _S.UNKNOWN, _S.UNRESOLVED}:
        go(_S.SUBMITTED)
    if seen.acked and at is _S.SUBMITTED:
        go(_S.ACKED)
    booked = set(booked_trades)
    filled = filled_quantity
    for fill in sorted((t for t in trades if t.trade_id not in booked), key=lambda t: (t.filled_at, t.trade_id)):
        filled += fill.quantity
        if at.is_end:
            steps.append(Step(at, fill))
            continue
        if at is _S.SUBMITTED:
            go(_S.ACKED)
        after = _S.FILLED if may_be_full and filled >= full else _S.PARTIALLY_FILLED
        check(at, after)
        steps.append(Step(after, fill))
        at = after
    if seen.end is not None and not at.is_end and filled >= seen.filled_quantity:
        if seen.end is not _S.FILLED:
            go(seen.end)
        elif filled:  # complete of nothing contradicts itself: the next look tells
            go(_S.FILLED if filled >= full else _S.CANCELLED)
    return tuple(steps)


def held_open(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The same steps for an exit whose send is full and whose goal is not reached: FILLED it is not, it goes on with another send."""
    return tuple(
        Step(_S.PARTIALLY_FILLED, step.fill) if step.status is _S.FILLED else step
        for step in steps
        if step.status is not _S.FILLED or step.fill is not None
    )
