"""Absence is proven by books, never by time alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from core.trading.absence import SeenBook, Verdict, judge
from core.trading.durations import OrderDurations

DEADLINE = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
DAY = date(2026, 11, 20)


def books(*seconds: int, sick: tuple[int, ...] = ()) -> list[SeenBook]:
    return [SeenBook(DEADLINE + timedelta(seconds=s), s not in sick) for s in seconds]


@pytest.mark.parametrize(
    ("seen", "today", "verdict"),
    [
        ([], DAY, Verdict.WAITING),
        (books(60, 90, 121), DAY, Verdict.PROVEN),
        (books(60, 90, 119), DAY, Verdict.WAITING),  # the last one too early
        (books(100, 110, 125), DAY, Verdict.WAITING),  # too close together
        (books(60, 90, 121, sick=(90,)), DAY, Verdict.WAITING),  # one of them no evidence
        (books(60, 90, 121, 151, sick=(90,)), DAY, Verdict.PROVEN),
        (books(-30, 60, 121), DAY, Verdict.WAITING),  # before the deadline it could still have been sent
        (books(60, 90), DAY + timedelta(days=1), Verdict.DAY_OVER),
        (books(60, 90, 121), DAY + timedelta(days=1), Verdict.PROVEN),
    ],
)
def test_the_verdict(seen: list[SeenBook], today: date, verdict: Verdict) -> None:
    found, told = judge(seen, deadline_at=DEADLINE, send_day=DAY, today=today, durations=OrderDurations())
    assert found is verdict
    assert "healthy books without our tag" in told


def empty(*seconds: int) -> list[SeenBook]:
    return [SeenBook(DEADLINE + timedelta(seconds=s), True, empty=True) for s in seconds]


@pytest.mark.parametrize(
    ("seen", "today", "verdict"),
    [
        (empty(60, 90), DAY, Verdict.WAITING),
        (empty(60, 90, 119), DAY, Verdict.WAITING),
        (empty(60, 90, 121), DAY, Verdict.EMPTY),
        (empty(60, 90, 121), DAY + timedelta(days=1), Verdict.DAY_OVER),
        (empty(60) + books(90, 121), DAY, Verdict.WAITING),  # the first is none
        (empty(60, 90, 121) + books(151), DAY, Verdict.WAITING),  # the broker lists again: its books will prove it
        (empty(60, 90, 121) + books(151, 181, 211), DAY, Verdict.PROVEN),
    ],
)
def test_an_empty_book_proves_nothing_and_a_person_is_asked(
    seen: list[SeenBook], today: date, verdict: Verdict
) -> None:
    found, told = judge(seen, deadline_at=DEADLINE, send_day=DAY, today=today, durations=OrderDurations())
    assert found is verdict
    assert verdict is Verdict.PROVEN or "which prove nothing" in told


def test_an_empty_book_of_a_broker_that_cannot_lose_sight_of_it_is_one_like_any_other() -> None:
    seen, durations = empty(60, 90, 121), OrderDurations()
    found, _ = judge(seen, deadline_at=DEADLINE, send_day=DAY, today=DAY, durations=durations, empty_proves=True)
    assert found is Verdict.PROVEN


def test_durations_are_divided_by_one_factor_and_guards_keep_a_floor() -> None:
    fast = OrderDurations().scaled(100)
    assert fast.absence_after == pytest.approx(1.2)
    assert fast.heartbeat == 2.0
    assert fast.absence_books == OrderDurations().absence_books
