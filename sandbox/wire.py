"""How Kite writes things down: IST times, numbers as Go prints them, the success envelope. Never decides anything."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from starlette.responses import Response

IST = timezone(timedelta(hours=5, minutes=30))
DAY_STARTS = timedelta(hours=6)
"""Zerodha's day turns at 06:00 IST: tokens die, the order book is emptied."""


def now() -> datetime:
    """The exchange's clock, aware UTC."""
    return datetime.now(UTC)


def trading_day(at: datetime) -> date:
    """The day whose book an order placed at `at` belongs to."""
    return (at.astimezone(IST) - DAY_STARTS).date()


def next_token_death(at: datetime) -> datetime:
    """06:00 IST after `at`, aware UTC: when an access token issued at `at` dies."""
    day = trading_day(at) + timedelta(days=1)
    return (datetime.combine(day, datetime.min.time(), IST) + DAY_STARTS).astimezone(UTC)


def ist(at: datetime | None) -> str | None:
    """`YYYY-MM-DD HH:MM:SS` in IST without a zone, as every JSON answer of Kite writes times."""
    return None if at is None else at.astimezone(IST).strftime("%Y-%m-%d %H:%M:%S")


def number(value: Decimal | int) -> int | float:
    """A JSON number as Kite prints it: 72, not 72.0."""
    whole = int(value)
    return whole if whole == value else float(value)


def rupees(paise: int) -> int | float:
    return paise // 100 if paise % 100 == 0 else paise / 100


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def success(data: Any) -> Response:
    return raw_success(dumps(data))


def raw_success(data: bytes) -> Response:
    """The success envelope around data that is JSON already."""
    return Response(b'{"status":"success","data":' + data + b"}", media_type="application/json")
