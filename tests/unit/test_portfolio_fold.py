"""The portfolio's fold: what filled events add up to, whatever order and however often they come."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import trading_day, utc_now
from core.errors import Poison
from core.trading.positions import PositionState
from core.trading.types import Broker, OrderStatus, Product, Side
from streams.portfolio_drift import DriftWatch
from streams.portfolio_fold import PortfolioFold, differences
from streams.portfolio_views import Mark, Moment, pnl_views, position_view, snapshot
from tests.order_events import T0, FakeJournal, at, make_order_event, make_order_state, make_signal

D = Decimal
KEY = ("momentum@paper", "NSE:INFY", Product.MIS)
MOMENT = Moment(trading_day(T0), utc_now(), simulated=True)


def make_fold(*events: object) -> PortfolioFold:
    fold = PortfolioFold()
    for event in events:
        fold.apply(event)  # type: ignore[arg-type]
    return fold


def test_a_position_belongs_to_instance_instrument_and_product() -> None:
    journal = FakeJournal()
    fold = make_fold(
        journal.fill(),
        journal.fill(product=Product.CNC),
        journal.fill(instrument="NSE:TCS"),
        journal.fill(strategy_id="reversion"),
    )
    assert {key: state.quantity for key, state in fold.states().items()} == {
        KEY: 10,
        ("momentum@paper", "NSE:INFY", Product.CNC): 10,
        ("momentum@paper", "NSE:TCS", Product.MIS): 10,
        ("reversion@paper", "NSE:INFY", Product.MIS): 10,
    }


def test_an_execution_reported_twice_is_booked_once() -> None:
    event = FakeJournal().fill()
    fold = PortfolioFold()
    assert fold.apply(event) is not None
    assert fold.apply(event) is None
    assert fold.states()[KEY].quantity == 10


def test_a_late_fill_folds_its_position_again() -> None:
    journal = FakeJournal()
    buy = journal.fill(Side.BUY, 10, D(100), at_s=10)
    sell = journal.fill(Side.SELL, 10, D(120), at_s=20)
    late = journal.fill(Side.BUY, 10, D(90), at_s=5)
    state = make_fold(buy, sell, late).states()[KEY]
    assert (state.quantity, state.average_price, state.realized_pnl) == (10, D(95), D(250))


def test_a_filled_event_without_a_fill_is_poison() -> None:
    state = make_order_state(make_signal(), OrderStatus.FILLED)
    with pytest.raises(Poison, match="carries no fill"):
        PortfolioFold().apply(make_order_event(Broker.PAPER, state, 1))


@given(
    st.lists(
        st.tuples(st.sampled_from(Side), st.integers(1, 500), st.integers(1, 10_000), st.integers(0, 30)), max_size=25
    ),
    st.randoms(use_true_random=False),
)
def test_any_arrival_order_folds_to_the_same_portfolio(
    rows: list[tuple[Side, int, int, int]], shuffle: random.Random
) -> None:
    journal = FakeJournal()
    events = [journal.fill(side, units, D(price) / 20, at_s=second) for side, units, price, second in rows]
    shuffled = list(events) + events[:3]
    shuffle.shuffle(shuffled)
    assert differences(make_fold(*events).states(), make_fold(*shuffled).states()) == []


def test_views_and_snapshot_show_gross_charges_and_net() -> None:
    journal = FakeJournal()
    fold = make_fold(journal.fill(Side.BUY, 10, D(100)), journal.fill(Side.SELL, 4, D(110), charges=D("2.5")))
    position = fold.positions[KEY]
    view = position_view(position, Mark(D(105), at(30)), MOMENT)
    assert (view.realized_pnl, view.unrealized_pnl, view.charges) == (D(40), D(30), D("3.5"))
    assert (view.gross_pnl, view.net_pnl, view.day_net_pnl, view.fills) == (D(70), D("66.5"), D("66.5"), 2)
    instance, everything = pnl_views([(position, Mark(D(105), at(30)))], MOMENT)
    assert (instance.instance, everything.instance, everything.net_pnl) == ("momentum@paper", "*", D("66.5"))
    assert snapshot(position, None, MOMENT).unrealized_pnl is None


def test_a_snapshot_tells_the_days_part_beside_the_whole() -> None:
    journal = FakeJournal()
    buy = journal.fill(Side.BUY, 10, D(100), at_s=1, charges=D(3))
    sell = journal.fill(Side.SELL, 4, D(110), at_s=86_400, charges=D(2))
    fold = make_fold(buy, sell)
    today = Moment(trading_day(at(86_400)), utc_now(), simulated=True)
    told = snapshot(fold.positions[KEY], Mark(D(105), T0), today)
    assert (told.realized_pnl, told.charges, told.unrealized_pnl) == (40, 5, 30)
    assert (told.day_realized_pnl, told.day_charges) == (40, 2)
    before = snapshot(fold.positions[KEY], None, MOMENT)
    assert (before.day_realized_pnl, before.day_charges, before.unrealized_pnl) == (0, 3, None)


def test_an_open_position_without_a_price_has_no_unrealised_pnl() -> None:
    fold = make_fold(FakeJournal().fill())
    view = position_view(fold.positions[KEY], None, MOMENT)
    assert view.unrealized_pnl is view.gross_pnl is view.net_pnl is None
    assert pnl_views([(fold.positions[KEY], None)], MOMENT)[-1].unmarked == 1


def test_differences_name_position_and_field() -> None:
    live = make_fold(FakeJournal().fill()).states()
    planted = {**live, KEY: PositionState(10, D(100), D("0.05"), D(1))}
    assert [(row.field, row.live, row.rebuilt) for row in differences(planted, live)] == [("realized_pnl", "0.05", "0")]
    assert [row.field for row in differences({}, live)] == ["quantity", "average_price", "charges"]


def test_a_fill_the_log_never_saw_is_drift_once_patience_is_over() -> None:
    journal = FakeJournal()
    first, _lost, last = journal.fill(at_s=1), journal.fill(at_s=2), journal.fill(at_s=3)
    fold, watch = PortfolioFold(), DriftWatch(Broker.PAPER, patience_s=0)
    for event in (first, last):
        position = fold.apply(event)
        assert position is not None
        watch.look(position)
    watch.judge(fold)
    (drift,) = watch.take()
    assert "the journal says 30 at 100" in drift.message
    watch.judge(fold)
    assert watch.take() == []


def test_fills_that_come_out_of_order_are_no_drift_in_the_end() -> None:
    journal = FakeJournal()
    events = [journal.fill(at_s=second) for second in (1, 2, 3)]
    fold, watch = PortfolioFold(), DriftWatch(Broker.PAPER, patience_s=0)
    for event in reversed(events):
        position = fold.apply(event)
        assert position is not None
        watch.look(position)
    watch.judge(fold)
    assert watch.take() == []
