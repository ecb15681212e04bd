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


@dataclass(frozen=True, slots=True)
class SeenBook:
    """A book without our tag. Healthy: of the send's own account and day, holding every broker order the journal knows."""

    requested_at: datetime
    healthy: bool


def judge(
    books: Iterable[SeenBook], *, deadline_at: datetime, send_day: date, today: date, durations: OrderDurations
) -> tuple[Verdict, str]:
    """The verdict and, in words, the evidence it rests on.

    Proof: `absence_books` healthy books requested after the send deadline, each `absence_spacing` after the one before, the last at least
    `absence_after` past the deadline.
    """
    spacing = timedelta(seconds=durations.absence_spacing)
    counted: list[datetime] = []
    for book in sorted(books, key=lambda b: b.requested_at):
        if (
            book.healthy
            and book.requested_at > deadline_at
            and (not counted or book.requested_at - counted[-1] >= spacing)
        ):
            counted.append(book.requested_at)
    late_enough = bool(counted) and counted[-1] - deadline_at >= timedelta(seconds=durations.absence_after)
    told = f"{len(counted)} healthy books without our tag"
    if counted:
        told += f", the last {(counted[-1] - deadline_at).total_seconds():.0f} s after the send deadline"
    if len(counted) >= durations.absence_books and late_enough:
        return Verdict.PROVEN, told
    if today > send_day:
        return Verdict.DAY_OVER, f"{told}; the trading day {send_day} is over without proof"
    return Verdict.WAITING, told
