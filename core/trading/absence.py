"""Is a sent order, of which we never heard, proven absent? Judged from the books seen since, never from a timeout.

Zerodha has no idempotency key; its staff say to look in the order book before any retry (kite.trade/forum 8124, 4827).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from core.trading.durations import OrderDurations


class Verdict(StrEnum):
    WAITING = "WAITING"
    PROVEN = "PROVEN"
    DAY_OVER = "DAY_OVER"
    """The send's trading day ended without proof: only a person can tell now."""
    EMPTY = "EMPTY"
    """Proof, were it not that every book was empty. A person is asked; a book that lists anything may still prove it."""


@dataclass(frozen=True, slots=True)
class SeenBook:
    """A book without our tag. Healthy: of the send's own account and day, holding every broker order the journal knows.

    `empty`: it lists nothing at all, which holds everything we know only while we know nothing.
    """

    requested_at: datetime
    healthy: bool
    empty: bool = False


def judge(
    books: Iterable[SeenBook],
    *,
    deadline_at: datetime,
    send_day: date,
    today: date,
    durations: OrderDurations,
    empty_proves: bool = False,
) -> tuple[Verdict, str]:
    """The verdict and, in words, the evidence it rests on.

    Proof: `absence_books` healthy books requested after the send deadline, each `absence_spacing` after the one before, the last at least
    `absence_after` past the deadline. A book that lists nothing proves nothing: a broker that has lost sight of its book for a while
    answers the same. `empty_proves` says that this broker's empty book is as good as any other.
    """
    healthy = [book for book in books if book.healthy and book.requested_at > deadline_at]
    listing = _spaced((book for book in healthy if empty_proves or not book.empty), durations)
    told = f"{len(listing)} healthy books without our tag"
    if listing:
        told += f", the last {(listing[-1] - deadline_at).total_seconds():.0f} s after the send deadline"
    if _proves(listing, deadline_at, durations):
        return Verdict.PROVEN, told
    empty = _spaced((book for book in healthy if book.empty and not empty_proves), durations)
    if empty:
        told += f"; {len(empty)} empty ones, which prove nothing while no order of ours is known to be listed"
    if today > send_day:
        return Verdict.DAY_OVER, f"{told}; the trading day {send_day} is over without proof"
    if not listing and _proves(empty, deadline_at, durations):
        return Verdict.EMPTY, told
    return Verdict.WAITING, told


def _spaced(books: Iterable[SeenBook], durations: OrderDurations) -> list[datetime]:
    """Moments of the books that count: each far enough from the one before."""
    spacing = timedelta(seconds=durations.absence_spacing)
    counted: list[datetime] = []
    for moment in sorted(book.requested_at for book in books):
        if not counted or moment - counted[-1] >= spacing:
            counted.append(moment)
    return counted


def _proves(moments: list[datetime], deadline_at: datetime, durations: OrderDurations) -> bool:
    after = timedelta(seconds=durations.absence_after)
    return len(moments) >= durations.absence_books and moments[-1] - deadline_at >= after
