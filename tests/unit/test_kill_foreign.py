"""An exit of what is not ours whose day is over holds no kill switch up, and only then: until its book is gone the book tells."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from core.brokers.port import Book, BookRow
from core.storage.kill_foreign import DAY_OVER, DONE, REFUSED, SENDING, SENT, past
from core.trading.types import Exchange, OrderType, Product, Side

SENT_AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
"""14:30 IST of a Friday."""

FRIDAY, MONDAY = date(2026, 11, 20), date(2026, 11, 23)


def send(state: str, **changes: Any) -> dict[str, Any]:
    return {"tag": "T1", "state": state, "deadline_at": SENT_AT, "answer": "accepted"} | changes


def book(day: date, *tags: str) -> Book:
    row = BookRow(
        "B1", tags, "OPEN", None, Exchange.NSE, "SBIN", 779521, Side.SELL, Product.MIS, OrderType.MARKET, 5, 0, 0, None,
        None, None, SENT_AT,
    )  # fmt: skip
    return Book("AB1234", day, SENT_AT, SENT_AT, (row,))


@pytest.mark.parametrize(
    ("what", "given", "seen", "over"),
    [
        ("answered, its day is over", send(SENT), book(MONDAY), True),
        ("not answered, its day is over", send(SENDING), book(MONDAY), True),
        ("its own day still", send(SENT), book(FRIDAY), False),
        ("sent after midnight UTC of the same session", send(SENT, deadline_at=SENT_AT + timedelta(hours=15)), book(FRIDAY), False),
        ("listed all the same", send(SENT), book(MONDAY, "T1"), False),
        ("refused", send(REFUSED), book(MONDAY), False),
        ("done", send(DONE), book(MONDAY), False),
        ("ended before", send(DAY_OVER), book(MONDAY), False),
    ],
)  # fmt: skip
def test_what_nobody_will_ever_see_end(what: str, given: dict[str, Any], seen: Book, over: bool) -> None:
    assert (past([given], seen) == [given]) is over, what
