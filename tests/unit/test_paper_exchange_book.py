"""What a tick does to the paper exchange's orders: eligibility, protection prices, shared depth, ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import trading_day
from core.ids import new_id
from core.trading.ticks import Depth, Tick
from core.trading.types import OrderType, Side, Validity
from streams.paper_exchange_book import LATENCY, ExchangeOrder, Market, match_all

ACCEPTED = datetime(2026, 11, 23, 5, 0, 0, 400_000, tzinfo=UTC)


def make_order(**changes: Any) -> ExchangeOrder:
    """BUY 10 at market, accepted at ACCEPTED."""
    order = ExchangeOrder(
        broker_order_id="P1",
        tag="1",
        trading_day=trading_day(ACCEPTED),
        instrument_token=1,
        instrument_type="EQ",
        tick_size=Decimal("0.05"),
        side=Side.BUY,
        order_type=OrderType.MARKET,
        validity=Validity.DAY,
        quantity=10,
        price=None,
        trigger_price=None,
        market_protection=Decimal(-1),
        status="OPEN",
        status_message=None,
        triggered=False,
        cancel_requested=False,
        modifications=0,
        filled_quantity=0,
        average_price=None,
        accepted_at=ACCEPTED,
        updated_at=ACCEPTED,
        done=False,
    )
    return replace(order, **changes)


def make_market(
    last: str = "1500",
    *,
    asks: list[tuple[str, int]] | None = None,
    bids: list[tuple[str, int]] | None = None,
    after: timedelta = timedelta(seconds=1),
    exchange_age: timedelta = timedelta(0),
) -> Market:
    """A tick received `after` acceptance, its exchange time floored to the second."""
    received = ACCEPTED + after
    tick = Tick(
        instrument_token=1,
        last_price=Decimal(last),
        received_at=received,
        exchange_ts=(received - exchange_age).replace(microsecond=0),
        bids=tuple(Depth(price=Decimal(p), quantity=q) for p, q in bids or []),
        asks=tuple(Depth(price=Decimal(p), quantity=q) for p, q in asks or []),
    )
    return Market.of(new_id(), tick)


@pytest.mark.parametrize(
    ("after", "exchange_age", "fills"),
    [
        (timedelta(milliseconds=-1), timedelta(0), False),
        (timedelta(0), timedelta(0), False),
        (LATENCY - timedelta(microseconds=1), timedelta(0), False),
        (LATENCY, timedelta(0), True),
        (LATENCY, timedelta(milliseconds=300), True),
        (timedelta(seconds=2), timedelta(seconds=3), False),
        (timedelta(hours=1), timedelta(hours=2), False),
    ],
    ids=["received before", "at acceptance", "within the latency", "at once", "same second", "late but old", "stale"],
)
def test_only_a_tick_younger_than_the_order_fills_it(after: timedelta, exchange_age: timedelta, fills: bool) -> None:
    looks, _ = match_all([make_order()], make_market(asks=[("1500", 50)], after=after, exchange_age=exchange_age))
    assert bool(looks) is fills


def test_a_market_order_becomes_a_limit_half_a_percent_away_and_fills_inside() -> None:
    ((look,), _) = match_all([make_order()], make_market(asks=[("1500.5", 4), ("1507.5", 3), ("1507.55", 100)]))
    assert (look.order.order_type, look.order.price) == (OrderType.LIMIT, Decimal("1507.50"))
    assert [(one.price, one.quantity) for one in look.executions] == [(Decimal("1500.5"), 4), (Decimal("1507.5"), 3)]
    assert (look.order.status, look.order.filled_quantity, look.order.done) == ("OPEN", 7, False)
    assert look.order.average_price == Decimal("1503.5")


def test_the_oldest_order_eats_first_and_the_next_one_gets_what_is_left() -> None:
    old = make_order(broker_order_id="P2")
    young = make_order(broker_order_id="P1", accepted_at=ACCEPTED + timedelta(milliseconds=5))
    looks, snapshot = match_all([young, old], make_market(asks=[("1500", 15)]))
    assert [(one.order.broker_order_id, one.order.filled_quantity) for one in looks] == [("P2", 10), ("P1", 5)]
    assert snapshot.asks == ()


def test_an_untriggered_stop_is_left_alone_and_a_triggered_one_sells_within_its_protection() -> None:
    changes = {"side": Side.SELL, "order_type": OrderType.SL_M, "trigger_price": Decimal(1490)}
    stop = make_order(status="TRIGGER PENDING", **changes)
    assert match_all([stop], make_market("1490.05", bids=[("1490", 50)]))[0] == []
    ((look,), _) = match_all([stop], make_market("1490", bids=[("1489", 4), ("1482.50", 50)]))
    assert (look.order.status, look.order.order_type, look.order.triggered) == ("OPEN", OrderType.LIMIT, True)
    assert look.order.price == Decimal("1482.55")
    assert look.order.filled_quantity == 4


def test_ioc_ends_with_its_first_look() -> None:
    order = make_order(validity=Validity.IOC, order_type=OrderType.LIMIT, price=Decimal(1500), market_protection=None)
    ((look,), _) = match_all([order], make_market(asks=[("1500", 3)]))
    assert (look.order.status, look.order.filled_quantity, look.order.done) == ("CANCELLED", 3, True)
    ((look,), _) = match_all([order], make_market(asks=[("1501", 3)]))
    assert (look.order.status, look.order.filled_quantity, look.order.done) == ("CANCELLED", 0, True)


def test_an_order_that_makes_no_sense_is_rejected_with_the_reason() -> None:
    order = make_order(order_type=OrderType.LIMIT, market_protection=None)
    ((look,), _) = match_all([order], make_market(asks=[("1500", 3)]))
    assert (look.order.status, look.order.done) == ("REJECTED", True)
    assert "no price" in (look.order.status_message or "")


def test_an_order_of_another_day_is_not_matched() -> None:
    order = make_order(trading_day=trading_day(ACCEPTED) - timedelta(days=1))
    assert match_all([order], make_market(asks=[("1500", 30)]))[0] == []


levels = st.lists(st.tuples(st.integers(28_000, 32_000), st.integers(1, 20)), max_size=5, unique_by=lambda one: one[0])


@given(
    st.lists(st.tuples(st.sampled_from(list(Side)), st.integers(1, 30), st.integers(29_000, 31_000)), max_size=6),
    st.lists(st.tuples(levels, levels), min_size=1, max_size=4),
)
def test_nothing_fills_more_than_asked_nor_more_than_shown_nor_worse_than_limited(
    wanted: list[tuple[Side, int, int]], ticks: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]
) -> None:
    orders = {
        f"P{number}": make_order(
            broker_order_id=f"P{number}",
            side=side,
            quantity=quantity,
            order_type=OrderType.LIMIT,
            price=Decimal(price) / 20,
            market_protection=None,
        )
        for number, (side, quantity, price) in enumerate(wanted)
    }
    for number, (bids, asks) in enumerate(ticks):
        market = make_market(
            bids=[(str(Decimal(p) / 20), q) for p, q in sorted(bids, reverse=True)],
            asks=[(str(Decimal(p) / 20), q) for p, q in sorted(asks)],
            after=timedelta(seconds=number + 1),
        )
        looks, snapshot = match_all(orders.values(), market)
        for side, before, after in (
            (Side.BUY, market.snapshot.asks, snapshot.asks),
            (Side.SELL, market.snapshot.bids, snapshot.bids),
        ):
            eaten = sum(one.quantity for look in looks for one in look.executions if look.order.side is side)
            assert eaten == sum(one.quantity for one in before) - sum(one.quantity for one in after)
        for look in looks:
            order, was = look.order, orders[look.order.broker_order_id]
            assert was.filled_quantity < order.filled_quantity <= order.quantity
            assert order.done is (order.filled_quantity == order.quantity)
            assert order.price is not None
            assert all((order.price - one.price) * order.side.sign >= 0 for one in look.executions)
            orders[order.broker_order_id] = order
