"""The day's PnL as curves: what was seen of each position, added up at each moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from api import curve
from api.curve import CurveMark
from core.storage.redis import EVERYTHING, PnlView
from core.storage.view_pnl import MinuteRow
from core.trading.types import Broker

OPEN = datetime(2026, 10, 7, 3, 45, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def row(
    minute: int, instance: str, realized: str, open_pnl: str | None, charges: str = "0", *, of: str = "INFY"
) -> MinuteRow:
    at = OPEN + timedelta(minutes=minute)
    unrealized = None if open_pnl is None else Decimal(open_pnl)
    as_of = at + timedelta(seconds=7)
    return MinuteRow(at, instance, f"NSE:{of}", "MIS", Decimal(realized), unrealized, Decimal(charges), as_of)


def told(rows: list[MinuteRow], step: timedelta = MINUTE) -> list[tuple[int, str, str, str, str, int]]:
    """(minute, instance, realised, unrealised, net, unmarked)."""
    found = []
    for mark in curve.marks(Broker.PAPER, rows, step):
        assert mark.gross_pnl == mark.realized_pnl + mark.unrealized_pnl
        assert mark.net_pnl == mark.gross_pnl - mark.charges
        assert mark.at.second == 7
        minute = int((mark.at - OPEN).total_seconds() // 60)
        money = (mark.realized_pnl, mark.unrealized_pnl, mark.net_pnl)
        found.append((minute, mark.instance, *map(str, money), mark.unmarked))
    return found


def test_each_instance_and_the_whole_have_a_point_where_something_moved() -> None:
    rows = [row(0, "a", "0", "10", "1"), row(1, "b", "5", "-2"), row(3, "a", "20", "0", "2")]
    assert told(rows) == [
        (0, "a", "0", "10", "9", 0),
        (0, EVERYTHING, "0", "10", "9", 0),
        (1, "b", "5", "-2", "3", 0),
        (1, EVERYTHING, "5", "8", "12", 0),  # a stands as it was last seen
        (3, "a", "20", "0", "18", 0),
        (3, EVERYTHING, "25", "-2", "21", 0),
    ]


def test_an_instances_positions_are_added_up_and_one_without_a_price_is_counted() -> None:
    rows = [row(0, "a", "1", "10"), row(0, "a", "2", None, of="TCS"), row(1, "a", "2", "4", of="TCS")]
    assert told(rows) == [
        (0, "a", "3", "10", "13", 1),
        (0, EVERYTHING, "3", "10", "13", 1),
        (1, "a", "3", "14", "17", 0),
        (1, EVERYTHING, "3", "14", "17", 0),
    ]


@pytest.mark.parametrize(("minutes", "points"), [(1, 4), (5, 2), (60, 1)])
def test_a_wider_step_keeps_the_last_of_each(minutes: int, points: int) -> None:
    rows = [row(minute, "a", "0", str(minute)) for minute in (0, 1, 4, 9)]
    found = told(rows, timedelta(minutes=minutes))
    assert len(found) == 2 * points
    assert found[-1] == (9, EVERYTHING, "0", "9", "9", 0)


def test_no_row_is_no_point() -> None:
    assert told([]) == []


def test_the_curve_ends_with_the_day_as_the_portfolio_has_it() -> None:
    view = PnlView(
        instance="a", strategy_id="a", realized_pnl=Decimal(900), unrealized_pnl=Decimal(50), gross_pnl=Decimal(950),
        charges=Decimal(90), net_pnl=Decimal(860), trading_day=OPEN.date(), day_realized_pnl=Decimal(100),
        day_gross_pnl=Decimal(150), day_charges=Decimal(9), day_net_pnl=Decimal(141), open_positions=1, unmarked=0,
        as_of=OPEN, simulated=True,
    )  # fmt: skip
    assert curve.now(Broker.PAPER, view) == CurveMark(
        at=OPEN, broker=Broker.PAPER, instance="a", realized_pnl=Decimal(100), unrealized_pnl=Decimal(50),
        gross_pnl=Decimal(150), charges=Decimal(9), net_pnl=Decimal(141), unmarked=0,
    )  # fmt: skip
