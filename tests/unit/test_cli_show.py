"""How the command line shows money and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cli.show import ist, ist_short, rupees


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "₹0.00"),
        ("999.999", "₹1,000.00"),
        ("1234567.8", "₹12,34,567.80"),
        ("-100000", "-₹1,00,000.00"),
        ("123456789.01", "₹12,34,56,789.01"),
        ("-0.001", "₹0.00"),
        (None, "–"),
    ],
)
def test_rupees_are_grouped_the_indian_way(amount: str | None, shown: str) -> None:
    assert rupees(Decimal(amount) if amount is not None else None) == shown


def test_times_are_shown_in_ist() -> None:
    moment = datetime(2026, 10, 7, 20, 0, 1, 250_000, tzinfo=UTC)
    assert ist(moment) == "01:30:01.250"
    assert ist_short(moment, moment) == "01:30:01"
    assert ist_short(moment, moment + timedelta(days=1)) == "8 Oct 01:30"
