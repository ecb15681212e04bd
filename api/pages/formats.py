"""How figures are written for people: rupees with Indian grouping, times in IST, a sign wherever there is a colour. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from core.clock import to_ist, utc_now

NONE = "–"
_PAISE = Decimal("0.01")
_MINUS = "\N{MINUS SIGN}"


def grouped(digits: str) -> str:
    """`12345678` → `1,23,45,678`: three digits, then pairs."""
    head, tail = digits[:-3], digits[-3:]
    pairs = []
    while head:
        pairs.append(head[-2:])
        head = head[:-2]
    return ",".join([*reversed(pairs), tail])


def number(value: Decimal | int) -> str:
    """A count, grouped."""
    sign = _MINUS if value < 0 else ""
    return sign + grouped(str(abs(int(value))))


def _amount(value: Decimal) -> str:
    whole, _, paise = str(abs(value).quantize(_PAISE, ROUND_HALF_UP)).partition(".")
    return f"₹{grouped(whole)}.{paise}"


def rupees(value: Decimal | None) -> str:
    """`₹1,23,456.70`; a dash where there is none."""
    if value is None:
        return NONE
    return (_MINUS if value < 0 else "") + _amount(value)


def gain(value: Decimal | None) -> str:
    """As `rupees`, with its sign always told: colour alone says nothing."""
    if value is None:
        return NONE
    if not value.quantize(_PAISE, ROUND_HALF_UP):
        return _amount(Decimal(0))
    return ("+" if value > 0 else _MINUS) + _amount(value)


def tone(value: Decimal | int | None) -> str:
    """The CSS class of a gain: `up`, `down` or nothing."""
    if value is None or not Decimal(value).quantize(_PAISE, ROUND_HALF_UP):
        return ""
    return "up" if value > 0 else "down"


def price(value: Decimal | None) -> str:
    """A price in rupees without the sign of the currency: `1,500.00`."""
    return NONE if value is None else rupees(value).replace("₹", "")


def clock(moment: datetime | None, *, now: datetime | None = None) -> str:
    """Time of day in IST, with the date where it is not today's: `09:16:03`, `20 Nov 15:29:58`, `20 Nov 2025 15:29:58`."""
    if moment is None:
        return NONE
    at, today = to_ist(moment), to_ist(now or utc_now())
    if at.date() == today.date():
        return f"{at:%H:%M:%S}"
    day = f"{at.day} {at:%b}" if at.year == today.year else f"{at.day} {at:%b %Y}"
    return f"{day} {at:%H:%M:%S}"


def moment(at: datetime | None) -> str:
    """The whole moment, for where a pointer rests: `20 Nov 2026 15:29:58.123 IST`."""
    if at is None:
        return ""
    local = to_ist(at)
    return f"{local.day} {local:%b %Y %H:%M:%S}.{local.microsecond // 1000:03d} IST"


def span(seconds: float) -> str:
    """`12 ms`, `3.4 s`, `5 min 20 s`, `2 h 05 min`."""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def ago(at: datetime | None, *, now: datetime | None = None) -> str:
    """How long since."""
    if at is None:
        return "never"
    since = (now or utc_now()) - at
    return "now" if since < timedelta(seconds=1) else f"{span(since.total_seconds())} ago"


def words(code: str) -> str:
    """`MAX_DAY_LOSS`, `max_day_loss` → `max day loss`."""
    return code.replace("_", " ").replace("-", " ").lower()


def signed(quantity: int) -> str:
    """`+50`, `−1,000`: units held."""
    return ("+" if quantity > 0 else "") + number(quantity)
