"""When an exchange trades: phases of a day by kind of instrument, trading days, square-off times. Pure: the moment is given.

Never reads a clock. Times below are IST and dated; a change of the exchange's hours is one more row, not an edit.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from enum import StrEnum
from typing import Protocol

import holidays as holiday_library

from core.trading.types import Exchange

IST = timezone(timedelta(hours=5, minutes=30), "IST")

_SEARCH_DAYS = 30


class SessionPhase(StrEnum):
    """What the exchange does now. Continuous trading is OPEN alone; CAS is the closing auction of cash stocks."""

    CLOSED = "CLOSED"
    PRE_OPEN = "PRE_OPEN"
    OPEN = "OPEN"
    CAS_REFERENCE = "CAS_REFERENCE"
    """The reference price is computed: no orders."""

    CAS_ORDERS = "CAS_ORDERS"
    """Limit and market orders are collected."""

    CAS_LIMIT_ONLY = "CAS_LIMIT_ONLY"
    """Limit orders only, until a random moment of its last two minutes."""

    CAS_MATCH = "CAS_MATCH"
    POST_CLOSE = "POST_CLOSE"

    @property
    def is_open(self) -> bool:
        """Continuous trading: an order may be matched at once."""
        return self is SessionPhase.OPEN

    @property
    def is_closing_auction(self) -> bool:
        return self.value.startswith("CAS_")


class SessionKind(StrEnum):
    """Kinds of instruments that share their hours."""

    EQUITY_WITH_DERIVATIVES = "EQUITY_WITH_DERIVATIVES"
    EQUITY = "EQUITY"
    DERIVATIVES = "DERIVATIVES"
    CURRENCY = "CURRENCY"
    COMMODITY = "COMMODITY"


@dataclass(frozen=True, slots=True)
class DayPlan:
    """One kind's day: (from this IST time, this phase), ascending; before the first and where none holds, CLOSED.

    `square_off` is when we flatten intraday (MIS) positions ourselves, ahead of the broker's own square-off and its fee.
    """

    steps: tuple[tuple[time, SessionPhase], ...]
    square_off: time

    def phase_at(self, wall: time) -> SessionPhase:
        found = SessionPhase.CLOSED
        for begins, phase in self.steps:
            if wall < begins:
                break
            found = phase
        return found

    @property
    def opens(self) -> time:
        return next(begins for begins, phase in self.steps if phase is SessionPhase.OPEN)

    @property
    def closes(self) -> time:
        """When continuous trading ends."""
        after = [begins for begins, phase in self.steps if begins > self.opens and phase is not SessionPhase.OPEN]
        return min(after)


_PRE_OPEN = (time(9, 0), SessionPhase.PRE_OPEN)
_OPEN = (time(9, 15), SessionPhase.OPEN)


def _continuous(begins: time, ends: time, square_off: time) -> DayPlan:
    return DayPlan(((begins, SessionPhase.OPEN), (ends, SessionPhase.CLOSED)), square_off)


_CURRENCY = _continuous(time(9, 0), time(17, 0), time(16, 30))
_COMMODITY = _continuous(time(9, 0), time(23, 30), time(23, 0))

BEFORE_AUCTION: Mapping[SessionKind, DayPlan] = {
    kind: DayPlan(
        (
            _PRE_OPEN,
            _OPEN,
            (time(15, 30), SessionPhase.CLOSED),
            (time(15, 40), SessionPhase.POST_CLOSE),
            (time(16, 0), SessionPhase.CLOSED),
        ),
        time(15, 10),
    )
    for kind in (SessionKind.EQUITY, SessionKind.EQUITY_WITH_DERIVATIVES)
} | {
    SessionKind.DERIVATIVES: _continuous(time(9, 15), time(15, 30), time(15, 15)),
    SessionKind.CURRENCY: _CURRENCY,
    SessionKind.COMMODITY: _COMMODITY,
}

WITH_AUCTION: Mapping[SessionKind, DayPlan] = {
    SessionKind.EQUITY_WITH_DERIVATIVES: DayPlan(
        (
            _PRE_OPEN,
            _OPEN,
            (time(15, 15), SessionPhase.CAS_REFERENCE),
            (time(15, 20), SessionPhase.CAS_ORDERS),
            (time(15, 25), SessionPhase.CAS_LIMIT_ONLY),
            (time(15, 30), SessionPhase.CAS_MATCH),
            (time(15, 35), SessionPhase.CLOSED),
            (time(15, 50), SessionPhase.POST_CLOSE),
            (time(16, 0), SessionPhase.CLOSED),
        ),
        time(15, 5),
    ),
    SessionKind.EQUITY: DayPlan(
        (
            _PRE_OPEN,
            _OPEN,
            (time(15, 30), SessionPhase.CLOSED),
            (time(15, 50), SessionPhase.POST_CLOSE),
            (time(16, 0), SessionPhase.CLOSED),
        ),
        time(15, 5),
    ),
    SessionKind.DERIVATIVES: _continuous(time(9, 15), time(15, 40), time(15, 20)),
    SessionKind.CURRENCY: _CURRENCY,
    SessionKind.COMMODITY: _COMMODITY,
}

SESSIONS: tuple[tuple[date, Mapping[SessionKind, DayPlan]], ...] = (
    (date(2000, 1, 1), BEFORE_AUCTION),
    (date(2026, 8, 3), WITH_AUCTION),
)
"""Hours by the day they begin to hold. The closing auction: SEBI circular HO/47/11/11(3)2025-MRD-POD2/I/2765/2026 of
16-Jan-2026. Zerodha's own MIS square-off (15:20 equity, 15:25 F&O) was published before it; ours is earlier throughout."""

HOLIDAYS_CONFIRMED_UNTIL = date(2026, 12, 31)
"""NSE publishes a year's list each December (2026: circular CMTR71775); later days rest on the library's estimate."""


def nse_holidays() -> Container[date]:
    """NSE's trading holidays as the `holidays` library knows them; weekends are not in it."""
    return holiday_library.financial_holidays("NSE")


def session_kind(exchange: Exchange, *, has_derivatives: bool = True) -> SessionKind:
    """Which hours an instrument of this exchange keeps.

    Args:
        has_derivatives: the stock has futures or options, so it takes part in the closing auction. Where that is not
            known, True is the careful answer: continuous trading ends earlier.
    """
    if exchange in (Exchange.NSE, Exchange.BSE):
        return SessionKind.EQUITY_WITH_DERIVATIVES if has_derivatives else SessionKind.EQUITY
    if exchange in (Exchange.NFO, Exchange.BFO):
        return SessionKind.DERIVATIVES
    return SessionKind.COMMODITY if exchange is Exchange.MCX else SessionKind.CURRENCY


class TradingCalendar(Protocol):
    """What anyone may ask of a calendar. Moments are aware; days are trading days in IST."""

    def phase(self, kind: SessionKind, moment: datetime) -> SessionPhase: ...

    def is_trading_day(self, day: date) -> bool: ...

    def opens_at(self, kind: SessionKind, day: date) -> datetime | None:
        """When continuous trading of that day begins, aware UTC; None where the day has none or never closes."""
        ...

    def square_off_at(self, kind: SessionKind, day: date) -> datetime | None:
        """When intraday positions of that day are flattened, aware UTC; None for never."""
        ...

    def next_open(self, kind: SessionKind, moment: datetime) -> datetime:
        """`moment` itself while open, else when continuous trading next begins, aware UTC."""
        ...


def phase(
    exchange: Exchange, moment: datetime, calendar: TradingCalendar, *, has_derivatives: bool = True
) -> SessionPhase:
    """The phase an instrument of this exchange is in at `moment` (aware)."""
    return calendar.phase(session_kind(exchange, has_derivatives=has_derivatives), moment)


@dataclass(frozen=True, slots=True)
class ExchangeCalendar:
    """The exchange's days and hours. `special` holds days that break the rule (Muhurat, a budget Sunday): their plans."""

    holidays: Container[date] = field(default_factory=nse_holidays)
    sessions: tuple[tuple[date, Mapping[SessionKind, DayPlan]], ...] = SESSIONS
    special: Mapping[date, Mapping[SessionKind, DayPlan]] = field(default_factory=dict)

    def phase(self, kind: SessionKind, moment: datetime) -> SessionPhase:
        wall = _ist(moment)
        plan = self.plan(kind, wall.date())
        return SessionPhase.CLOSED if plan is None else plan.phase_at(wall.time())

    def is_trading_day(self, day: date) -> bool:
        return day in self.special or (day.weekday() < 5 and day not in self.holidays)

    def plan(self, kind: SessionKind, day: date) -> DayPlan | None:
        """The day's plan for this kind, None where it does not trade."""
        if day in self.special:
            return self.special[day].get(kind)
        if not self.is_trading_day(day):
            return None
        return _in_force(self.sessions, day).get(kind)

    def opens_at(self, kind: SessionKind, day: date) -> datetime | None:
        plan = self.plan(kind, day)
        return None if plan is None else _utc(day, plan.opens)

    def closes_at(self, kind: SessionKind, day: date) -> datetime | None:
        """When continuous trading of that day ends, aware UTC."""
        plan = self.plan(kind, day)
        return None if plan is None else _utc(day, plan.closes)

    def square_off_at(self, kind: SessionKind, day: date) -> datetime | None:
        plan = self.plan(kind, day)
        return None if plan is None else _utc(day, plan.square_off)

    def next_open(self, kind: SessionKind, moment: datetime) -> datetime:
        if self.phase(kind, moment).is_open:
            return moment
        day = _ist(moment).date()
        for _ in range(_SEARCH_DAYS):
            opens = self.opens_at(kind, day)
            if opens is not None and opens >= moment:
                return opens
            day += timedelta(days=1)
        raise ValueError(f"no trading day within {_SEARCH_DAYS} days of {moment}: the calendar's holidays are wrong")

    def next_trading_day(self, day: date) -> date:
        """The first trading day after `day`."""
        return self._step(day, 1)

    def previous_trading_day(self, day: date) -> date:
        return self._step(day, -1)

    def _step(self, day: date, direction: int) -> date:
        for _ in range(_SEARCH_DAYS):
            day += timedelta(days=direction)
            if self.is_trading_day(day):
                return day
        raise ValueError(f"no trading day within {_SEARCH_DAYS} days of {day}: the calendar's holidays are wrong")


@dataclass(frozen=True, slots=True)
class AlwaysOpen:
    """The local sandbox: a session opens when its day begins and stays open. Nothing is squared off by the hour."""

    def phase(self, kind: SessionKind, moment: datetime) -> SessionPhase:
        return SessionPhase.OPEN

    def is_trading_day(self, day: date) -> bool:
        return True

    def opens_at(self, kind: SessionKind, day: date) -> datetime | None:
        return None

    def square_off_at(self, kind: SessionKind, day: date) -> datetime | None:
        return None

    def next_open(self, kind: SessionKind, moment: datetime) -> datetime:
        return moment


def calendar_for(*, simulated: bool) -> TradingCalendar:
    """The calendar of a deployment: always open on the local sandbox, the exchange's anywhere else."""
    return AlwaysOpen() if simulated else ExchangeCalendar()


def _in_force(
    sessions: tuple[tuple[date, Mapping[SessionKind, DayPlan]], ...], day: date
) -> Mapping[SessionKind, DayPlan]:
    found = [plans for begins, plans in sessions if begins <= day]
    if not found:
        raise ValueError(f"no trading hours are known for {day}")
    return found[-1]


def _ist(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a moment must be aware")
    return moment.astimezone(IST)


def _utc(day: date, wall: time) -> datetime:
    return datetime.combine(day, wall, IST).astimezone(UTC)
