"""The host's clock and the only conversions between UTC (everywhere) and IST (sessions and display)."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, timezone

IST = timezone(timedelta(hours=5, minutes=30), "IST")

DAY_ROLL_HOUR = 6
"""Zerodha flushes tokens and starts a new trading day at 06:00 IST (kite.trade/docs/connect/v3/user)."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def slept_s() -> float:
    """Seconds this host has spent asleep since it booted. time.monotonic() stands still meanwhile, so a deadline by it means nothing
    after a sleep. 0 where the system does not tell (macOS)."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def to_ist(moment: datetime) -> datetime:
    return moment.astimezone(IST)


def trading_day(moment: datetime) -> date:
    """The trading day a moment belongs to: it rolls at 06:00 IST, so 02:00 IST still belongs to yesterday."""
    return (to_ist(moment) - timedelta(hours=DAY_ROLL_HOUR)).date()


def day_began(day: date) -> datetime:
    """The first moment of a trading day, in UTC: 06:00 IST."""
    return datetime(day.year, day.month, day.day, DAY_ROLL_HOUR, tzinfo=IST).astimezone(UTC)


def from_epoch(seconds: int) -> datetime:
    """Kite's exchange timestamps are UTC epoch seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def parse_kite_time(text: str) -> datetime:
    """Kite's JSON timestamps are `YYYY-MM-DD HH:MM:SS` in IST without a zone; returns aware UTC. Raises ValueError for other text."""
    if len(text) != 19 or text[10] != " ":
        raise ValueError(f"{text!r} is no time as Kite writes it: YYYY-MM-DD HH:MM:SS")
    return (
        datetime.fromisoformat(text).replace(tzinfo=IST).astimezone(UTC)
    )  # a long book has thousands: strptime is slow
