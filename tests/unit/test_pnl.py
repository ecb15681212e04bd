"""PnL: marks, sums, and the trading day's part."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from core.trading.pnl import DayBooks, Pnl, add_up, pnl_of, unrealized
from core.trading.positions import PositionFill, PositionState, fold
from core.trading.types import Exchange, Side

D = Decimal
MONDAY, TUESDAY = date(2026, 10, 5), date(2026, 10, 6)


@pytest.mark.parametrize(
    ("quantity", "average", "last", "expected"),
    [
        (10, "100", "101.5", "15"),
        (-10, "100", "101.5", "-15"),
        (0, "0", None, "0"),
        (10, "100", None, None),
    ],
)
def test_a_position_is_marked_against_its_average_price(
    quantity: int, average: str, last: str | None, expected: str | None
) -> None:
    state = PositionState(quantity, D(average))
    assert unrealized(state, D(last) if last else None) == (D(expected) if expected is not None else None)


def test_net_is_gross_less_charges_and_sums_count_what_has_no_price() -> None:
    marked = pnl_of(PositionState(10, D(100), D(50), D(7)), D(102))
    blind = pnl_of(PositionState(10, D(100), D(5), D(1)), None)
    assert (marked.gross, marked.net) == (D(70), D(63))
    assert add_up([marked, blind]) == Pnl(D(55), D(20), D(8), unmarked=1)


def test_a_day_has_its_own_realised_pnl_and_charges() -> None:
    def fill(day: date, side: Side, quantity: int, price: int) -> PositionFill:
        moment = datetime(day.year, day.month, day.day, 5, tzinfo=UTC)
        return PositionFill("A", day, Exchange.NSE, f"B{day}{side}", "1", side, quantity, D(price), moment, D(2))

    books = DayBooks()
    steps = list(
        fold([fill(MONDAY, Side.BUY, 10, 100), fill(MONDAY, Side.SELL, 4, 110), fill(TUESDAY, Side.SELL, 3, 90)])
    )
    for step in steps:
        books.add(step)
    state = steps[-1].after
    assert books.pnl(MONDAY, state, D(100)) == Pnl(D(40), D(0), D(4))
    assert books.pnl(TUESDAY, state, D(105)) == Pnl(D(-30), D(15), D(2))
