"""How the dashboard writes figures."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from api.pages import formats

NOW = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("0", "₹0.00"),
        ("999.5", "₹999.50"),
        ("1000", "₹1,000.00"),
        ("123456.785", "₹1,23,456.79"),
        ("-12345678.9", "−₹1,23,45,678.90"),
        ("1234567890", "₹1,23,45,67,890.00"),
    ],
)
def test_rupees_are_grouped_the_indian_way(value: str, shown: str) -> None:
    assert formats.rupees(Decimal(value)) == shown


@pytest.mark.parametrize(
    ("value", "shown", "tone"),
    [("1.5", "+₹1.50", "up"), ("-1.5", "−₹1.50", "down"), ("0", "₹0.00", ""), ("-0.004", "₹0.00", "")],
)
def test_a_gain_tells_its_sign_in_text(value: str, shown: str, tone: str) -> None:
    assert formats.gain(Decimal(value)) == shown
    assert formats.tone(Decimal(value)) == tone


def test_what_is_not_known_is_a_dash() -> None:
    assert {formats.rupees(None), formats.gain(None), formats.price(None), formats.clock(None)} == {formats.NONE}


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (datetime(2026, 11, 23, 3, 46, 3, tzinfo=UTC), "09:16:03"),
        (datetime(2026, 11, 22, 18, 29, 59, tzinfo=UTC), "22 Nov 23:59:59"),
        (datetime(2026, 11, 22, 18, 30, tzinfo=UTC), "00:00:00"),
        (datetime(2025, 11, 22, 18, 30, tzinfo=UTC), "23 Nov 2025 00:00:00"),
    ],
)
def test_a_time_is_ist_and_has_its_date_where_it_is_not_today(at: datetime, shown: str) -> None:
    assert formats.clock(at, now=NOW) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0124, "12 ms"), (0.9996, "1.0 s"), (3.44, "3.4 s"), (320, "5 min 20 s"), (7505, "2 h 05 min")],
)
def test_spans_are_read_at_a_glance(seconds: float, shown: str) -> None:
    assert formats.span(seconds) == shown
