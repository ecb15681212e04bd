"""Positions are folds of fills: tables for the rules, properties for what must always hold."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trading.positions import PositionFill, PositionState, apply_fill, fold, position_of
from core.trading.types import Exchange, Side

D = Decimal
T0 = datetime(2026, 10, 7, 4, 0, tzinfo=UTC)
TOLERANCE = D("0.001")
HUNDRED = D(100)


def make_fill(
    side: Side = Side.BUY, quantity: int = 10, price: Decimal = HUNDRED, *, at: int = 0, trade_id: str = "1"
) -> PositionFill:
    moment = T0 + timedelta(seconds=at)
    return PositionFill("PAPER", date(2026, 10, 7), Exchange.NSE, "B1", trade_id, side, quantity, price, moment)


@pytest.mark.parametrize(
    ("steps", "quantity", "average", "realized"),
    [
        ([("BUY", 10, "100")], 10, "100", "0"),
        ([("BUY", 10, "100"), ("BUY", 30, "104")], 40, "103", "0"),
        ([("BUY", 10, "100"), ("SELL", 4, "110")], 6, "100", "40"),
        ([("BUY", 10, "100"), ("SELL", 10, "95.5")], 0, "0", "-45"),
        ([("SELL", 10, "100")], -10, "100", "0"),
        ([("SELL", 10, "100"), ("SELL", 10, "110")], -20, "105", "0"),
        ([("SELL", 10, "100"), ("BUY", 4, "90")], -6, "100", "40"),
        ([("BUY", 10, "100"), ("SELL", 25, "110")], -15, "110", "100"),
        ([("SELL", 10, "100"), ("BUY", 25, "110")], 15, "110", "-100"),
        ([("BUY", 1, "100"), ("BUY", 1, "100"), ("BUY", 1, "101"), ("SELL", 3, "101")], 0, "0", "2"),
    ],
)
def test_a_position_is_the_average_cost_fold_of_its_fills(
    steps: list[tuple[str, int, str]], quantity: int, average: str, realized: str
) -> None:
    state = PositionState()
    for side, units, price in steps:
        state, _ = apply_fill(state, Side(side), units, D(price), D(0))
    assert (state.quantity, state.average_price) == (quantity, D(average))
    assert abs(state.realized_pnl - D(realized)) < D("0.00001")


def test_charges_add_up_and_never_touch_the_gross_pnl() -> None:
    state, gross = apply_fill(PositionState(), Side.BUY, 10, D(100), D("1.5"))
    state, gross = apply_fill(state, Side.SELL, 10, D(101), D("2.25"))
    assert (gross, state.realized_pnl, state.charges) == (D(10), D(10), D("3.75"))


@pytest.mark.parametrize(("quantity", "price"), [(0, "1"), (-5, "1"), (1, "-0.05")])
def test_an_impossible_fill_is_refused(quantity: int, price: str) -> None:
    with pytest.raises(ValueError, match="quantity of at least 1"):
        apply_fill(PositionState(), Side.BUY, quantity, D(price), D(0))


def test_a_fill_reported_twice_counts_once() -> None:
    assert position_of([make_fill(), make_fill()]).quantity == 10


def test_fills_of_one_second_fold_by_trade_id() -> None:
    steps = list(fold([make_fill(trade_id="2", price=D(110)), make_fill(trade_id="1", price=D(100))]))
    assert [step.fill.trade_id for step in steps] == ["1", "2"]


prices = st.decimals(min_value=D("0.05"), max_value=D(100_000), places=2)
quantities = st.integers(min_value=1, max_value=100_000)
executions = st.lists(st.tuples(st.sampled_from(Side), quantities, prices, st.integers(0, 20)), max_size=40)


def as_fills(rows: list[tuple[Side, int, Decimal, int]]) -> list[PositionFill]:
    return [make_fill(side, units, price, at=at, trade_id=f"{n:04}") for n, (side, units, price, at) in enumerate(rows)]


@given(executions)
def test_the_position_is_the_sum_of_signed_fills(rows: list[tuple[Side, int, Decimal, int]]) -> None:
    state = position_of(as_fills(rows))
    assert state.quantity == sum(side.sign * units for side, units, _, _ in rows)
    assert (state.quantity == 0) == (state.average_price == 0)


@given(executions, prices)
def test_realised_and_unrealised_add_up_to_what_was_paid_and_is_held(
    rows: list[tuple[Side, int, Decimal, int]], mark: Decimal
) -> None:
    state = position_of(as_fills(rows))
    cash = -sum((side.sign * units * price for side, units, price, _ in rows), D(0))
    unrealized = (mark - state.average_price) * state.quantity
    assert abs(state.realized_pnl + unrealized - (cash + state.quantity * mark)) < TOLERANCE


@given(executions, st.data())
def test_splitting_a_fill_changes_neither_position_nor_pnl(
    rows: list[tuple[Side, int, Decimal, int]], data: st.DataObject
) -> None:
    split: list[tuple[Side, int, Decimal, int]] = []
    for side, units, price, at in rows:
        first = data.draw(st.integers(1, units))
        split += [(side, part, price, at) for part in (first, units - first) if part]
    whole, parts = position_of(as_fills(rows)), position_of(as_fills(split))
    assert whole.quantity == parts.quantity
    assert abs(whole.realized_pnl - parts.realized_pnl) < TOLERANCE
    assert abs(whole.average_price - parts.average_price) < D("0.00000001")


@given(executions, st.randoms(use_true_random=False))
def test_arrival_order_does_not_matter(rows: list[tuple[Side, int, Decimal, int]], random: object) -> None:
    fills = as_fills(rows)
    shuffled = list(fills)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert list(fold(shuffled)) == list(fold(fills))
