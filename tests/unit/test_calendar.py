"""Phases of the trading day by kind of instrument, day and hour."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trading.calendar import (
    HOLIDAYS_CONFIRMED_UNTIL,
    IST,
    SESSIONS,
    AlwaysOpen,
    DayPlan,
    ExchangeCalendar,
    SessionKind,
    SessionPhase,
    calendar_for,
    phase,
    session_kind,
)
from core.trading.types import Exchange

CALENDAR = ExchangeCalendar()
MONDAY = date(2026, 11, 23)
BEFORE_THE_AUCTION = date(2026, 7, 31)
HOLIDAY = date(2026, 11, 24)


def ist(day: date, wall: str) -> datetime:
    return datetime.combine(day, time.fromisoformat(wall), IST)


@pytest.mark.parametrize(
    ("exchange", "has_derivatives", "wall", "expected"),
    [
        (Exchange.NSE, True, "08:59:59", "CLOSED"),
        (Exchange.NSE, True, "09:00", "PRE_OPEN"),
        (Exchange.NSE, True, "09:14:59", "PRE_OPEN"),
        (Exchange.NSE, True, "09:15", "OPEN"),
        (Exchange.NSE, True, "15:14:59", "OPEN"),
        (Exchange.NSE, True, "15:15", "CAS_REFERENCE"),
        (Exchange.NSE, True, "15:20", "CAS_ORDERS"),
        (Exchange.NSE, True, "15:25", "CAS_LIMIT_ONLY"),
        (Exchange.NSE, True, "15:30", "CAS_MATCH"),
        (Exchange.NSE, True, "15:35", "CLOSED"),
        (Exchange.NSE, True, "15:50", "POST_CLOSE"),
        (Exchange.NSE, True, "16:00", "CLOSED"),
        (Exchange.NSE, False, "15:15", "OPEN"),
        (Exchange.NSE, False, "15:29:59", "OPEN"),
        (Exchange.NSE, False, "15:30", "CLOSED"),
        (Exchange.BSE, False, "15:55", "POST_CLOSE"),
        (Exchange.NFO, True, "09:00", "CLOSED"),
        (Exchange.NFO, True, "09:15", "OPEN"),
        (Exchange.NFO, True, "15:39:59", "OPEN"),
        (Exchange.NFO, True, "15:40", "CLOSED"),
        (Exchange.CDS, True, "16:59", "OPEN"),
        (Exchange.MCX, True, "23:29", "OPEN"),
        (Exchange.MCX, True, "23:30", "CLOSED"),
    ],
)
def test_each_hour_of_a_trading_day_has_its_phase(
    exchange: Exchange, has_derivatives: bool, wall: str, expected: str
) -> None:
    moment = ist(MONDAY, wall)
    assert phase(exchange, moment, CALENDAR, has_derivatives=has_derivatives) == expected
    assert phase(exchange, moment.astimezone(UTC), CALENDAR, has_derivatives=has_derivatives) == expected


@pytest.mark.parametrize(
    ("exchange", "wall", "expected"),
    [(Exchange.NSE, "15:20", "OPEN"), (Exchange.NSE, "15:45", "POST_CLOSE"), (Exchange.NFO, "15:35", "CLOSED")],
)
def test_days_before_the_closing_auction_keep_the_old_hours(exchange: Exchange, wall: str, expected: str) -> None:
    assert phase(exchange, ist(BEFORE_THE_AUCTION, wall), CALENDAR) == expected


@pytest.mark.parametrize("day", [date(2026, 11, 21), date(2026, 11, 22), HOLIDAY, date(2026, 12, 25)])
def test_weekends_and_holidays_are_closed(day: date) -> None:
    assert not CALENDAR.is_trading_day(day)
    assert phase(Exchange.NSE, ist(day, "11:00"), CALENDAR) is SessionPhase.CLOSED
    assert CALENDAR.square_off_at(SessionKind.EQUITY, day) is None


def test_a_special_session_trades_on_a_sunday() -> None:
    sunday = date(2026, 11, 8)
    evening = DayPlan(((time(18, 0), SessionPhase.OPEN), (time(19, 0), SessionPhase.CLOSED)), time(18, 50))
    calendar = ExchangeCalendar(special={sunday: {SessionKind.EQUITY: evening}})
    assert calendar.phase(SessionKind.EQUITY, ist(sunday, "18:30")).is_open
    assert calendar.phase(SessionKind.EQUITY, ist(sunday, "11:00")) is SessionPhase.CLOSED
    assert calendar.phase(SessionKind.COMMODITY, ist(sunday, "18:30")) is SessionPhase.CLOSED


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (ist(MONDAY, "08:00"), ist(MONDAY, "09:15")),
        (ist(MONDAY, "11:00"), ist(MONDAY, "11:00")),
        (ist(MONDAY, "16:00"), ist(date(2026, 11, 25), "09:15")),
        (ist(date(2026, 11, 20), "20:00"), ist(MONDAY, "09:15")),
    ],
)
def test_the_next_open_skips_weekends_and_holidays(moment: datetime, expected: datetime) -> None:
    assert CALENDAR.next_open(SessionKind.EQUITY_WITH_DERIVATIVES, moment) == expected


def test_trading_days_step_over_weekends_and_holidays() -> None:
    assert CALENDAR.next_trading_day(MONDAY) == date(2026, 11, 25)
    assert CALENDAR.previous_trading_day(MONDAY) == date(2026, 11, 20)


@pytest.mark.parametrize("kind", list(SessionKind))
@pytest.mark.parametrize("day", [BEFORE_THE_AUCTION, MONDAY])
def test_we_square_off_while_trading_is_still_continuous(kind: SessionKind, day: date) -> None:
    square_off, closes = CALENDAR.square_off_at(kind, day), CALENDAR.closes_at(kind, day)
    assert square_off is not None
    assert closes is not None
    assert square_off < closes
    assert CALENDAR.phase(kind, square_off).is_open


def test_equity_is_flat_well_before_ten_past_three() -> None:
    square_off = CALENDAR.square_off_at(SessionKind.EQUITY_WITH_DERIVATIVES, MONDAY)
    assert square_off is not None
    assert square_off < ist(MONDAY, "15:10")


@given(st.datetimes(timezones=st.just(UTC)), st.sampled_from(SessionKind))
def test_the_local_sandbox_is_always_open(moment: datetime, kind: SessionKind) -> None:
    assert calendar_for(simulated=True).phase(kind, moment) is SessionPhase.OPEN


def test_other_targets_follow_the_exchange() -> None:
    assert isinstance(calendar_for(simulated=False), ExchangeCalendar)
    assert isinstance(calendar_for(simulated=True), AlwaysOpen)


def test_a_naive_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        CALENDAR.phase(SessionKind.EQUITY, datetime(2026, 11, 23, 11))  # noqa: DTZ001


def test_unknown_derivatives_take_the_careful_hours() -> None:
    assert session_kind(Exchange.NSE) is SessionKind.EQUITY_WITH_DERIVATIVES


@pytest.mark.parametrize(("begins", "plans"), SESSIONS)
def test_every_table_has_every_kind_in_ascending_steps(begins: date, plans: dict[SessionKind, DayPlan]) -> None:
    assert set(plans) == set(SessionKind)
    for plan in plans.values():
        walls = [wall for wall, _ in plan.steps]
        assert walls == sorted(set(walls))
        assert plan.steps[-1][1] is SessionPhase.CLOSED


def test_the_library_knows_the_confirmed_year() -> None:
    assert date(2026, 1, 26) in CALENDAR.holidays
    assert HOLIDAYS_CONFIRMED_UNTIL.year >= 2026
