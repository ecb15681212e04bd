"""What one snapshot does to one order: a table for the rules, properties for what must hold whatever the book shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trading.matching import (
    AUTO_PROTECTION,
    DepthLevel,
    Execution,
    MarketSnapshot,
    RestingOrder,
    consume,
    match,
    protection_price,
)
from core.trading.types import OrderType, Side, Validity

NOW = datetime(2026, 1, 5, 5, 0, tzinfo=UTC)
TICK = Decimal("0.05")


def levels(*rows: tuple[str, int]) -> tuple[DepthLevel, ...]:
    return tuple(DepthLevel(Decimal(price), quantity) for price, quantity in rows)


def make_snapshot(last: str = "100", *, age: float = 0.0, **sides: tuple[DepthLevel, ...]) -> MarketSnapshot:
    bids = sides.get("bids", levels(("99.95", 10), ("99.90", 20)))
    asks = sides.get("asks", levels(("100.00", 10), ("100.05", 20)))
    return MarketSnapshot(Decimal(last), bids, asks, NOW - timedelta(seconds=age))


def make_order(
    side: Side = Side.BUY,
    order_type: OrderType = OrderType.LIMIT,
    *,
    quantity: int = 5,
    price: str | None = "100.00",
    trigger: str | None = None,
    **changes: object,
) -> RestingOrder:
    fields: dict[str, object] = {
        "broker_order_id": "1",
        "side": side,
        "order_type": order_type,
        "validity": Validity.DAY,
        "quantity": quantity,
        "filled_quantity": 0,
        "price": None if price is None else Decimal(price),
        "trigger_price": None if trigger is None else Decimal(trigger),
        "triggered": False,
        "accepted_at": NOW,
        **changes,
    }
    return RestingOrder(**fields)  # type: ignore[arg-type]


def fills(*rows: tuple[str, int]) -> tuple[Execution, ...]:
    return tuple(Execution(Decimal(price), quantity) for price, quantity in rows)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (make_order(price="100.00", quantity=5), fills(("100.00", 5))),
        (make_order(price="101.00", quantity=5), fills(("100.00", 5))),  # at the better book price
        (make_order(price="99.95"), ()),  # rests
        (make_order(price="100.00", quantity=25), fills(("100.00", 10))),  # the rest rests
        (make_order(price="100.05", quantity=25), fills(("100.00", 10), ("100.05", 15))),
        (make_order(price="100.05", quantity=25, filled_quantity=20), fills(("100.00", 5))),
        (make_order(Side.SELL, price="99.95", quantity=12), fills(("99.95", 10))),
        (make_order(Side.SELL, price="99.00", quantity=12), fills(("99.95", 10), ("99.90", 2))),
        (make_order(Side.SELL, price="100.00"), ()),
        (make_order(order_type=OrderType.MARKET, price=None, quantity=99), fills(("100.00", 10), ("100.05", 20))),
        (make_order(order_type=OrderType.MARKET, price="100.00", quantity=99), fills(("100.00", 10))),
    ],
)
def test_an_order_takes_the_other_side_up_to_its_price(order: RestingOrder, expected: tuple[Execution, ...]) -> None:
    result = match(order, make_snapshot())
    assert result.executions == expected
    assert not result.cancel_remainder


@pytest.mark.parametrize(
    ("side", "order_type", "price", "trigger", "last", "triggered", "filled"),
    [
        (Side.BUY, OrderType.SL, "100.10", "100.00", "99.95", False, 0),
        (Side.BUY, OrderType.SL, "100.10", "100.00", "100.00", True, 5),
        (Side.BUY, OrderType.SL, "99.00", "98.00", "100.00", True, 0),  # triggered, then rests as a limit
        (Side.SELL, OrderType.SL, "99.90", "100.00", "100.05", False, 0),
        (Side.SELL, OrderType.SL, "99.90", "100.00", "99.90", True, 5),
        (Side.SELL, OrderType.SL_M, None, "100.00", "99.90", True, 5),
        (Side.BUY, OrderType.SL_M, "100.00", "100.00", "100.00", True, 5),
    ],
)
def test_a_stop_triggers_on_the_last_price_and_may_fill_at_once(
    side: Side, order_type: OrderType, price: str | None, trigger: str, last: str, triggered: bool, filled: int
) -> None:
    result = match(make_order(side, order_type, price=price, trigger=trigger), make_snapshot(last))
    assert (result.triggered, result.quantity) == (triggered, filled)


def test_a_triggered_stop_stays_triggered_when_the_price_comes_back() -> None:
    order = make_order(order_type=OrderType.SL, price="100.10", trigger="100.00", triggered=True)
    assert match(order, make_snapshot("99.00")).executions == fills(("100.00", 5))


def test_a_snapshot_older_than_the_order_does_nothing() -> None:
    ioc = make_order(validity=Validity.IOC, quantity=50)
    result = match(ioc, make_snapshot(age=0.001))
    assert (result.executions, result.cancel_remainder) == ((), False)
    assert match(ioc, make_snapshot(age=0)).quantity == 10


@pytest.mark.parametrize(
    ("order", "cancelled"),
    [
        (make_order(validity=Validity.IOC, quantity=25, price="100.00"), True),
        (make_order(validity=Validity.IOC, quantity=25, price="1.00"), True),
        (make_order(validity=Validity.IOC, quantity=10, price="100.00"), False),
        (make_order(validity=Validity.IOC, order_type=OrderType.SL, trigger="200", price="210"), False),
    ],
)
def test_ioc_cancels_what_the_first_look_leaves(order: RestingOrder, cancelled: bool) -> None:
    assert match(order, make_snapshot()).cancel_remainder is cancelled


def test_max_quantity_makes_a_fill_partial() -> None:
    result = match(make_order(quantity=5), make_snapshot(), max_quantity=2)
    assert result.executions == fills(("100.00", 2))
    assert match(make_order(quantity=5), make_snapshot(), max_quantity=0).executions == ()


def test_consume_takes_out_what_was_taken_and_nothing_else() -> None:
    snapshot = make_snapshot()
    rest = consume(snapshot, Side.BUY, fills(("100.00", 10), ("100.05", 5)))
    assert rest.asks == levels(("100.05", 15))
    assert rest.bids == snapshot.bids


@pytest.mark.parametrize(
    ("side", "last", "percent", "tick", "kind", "expected"),
    [
        (Side.BUY, "99.00", "-1", "0.01", "EQ", "100.98"),
        (Side.BUY, "100.00", "-1", "0.01", "EQ", "101.00"),
        (Side.SELL, "500.00", "-1", "0.05", "EQ", "495.00"),
        (Side.BUY, "1500.00", "-1", "0.10", "FUT", "1507.50"),
        (Side.BUY, "9.95", "-1", "0.05", "CE", "10.40"),
        (Side.BUY, "50.00", "-1", "0.05", "PE", "51.50"),
        (Side.BUY, "100.00", "-1", "0.05", "PE", "102.00"),
        (Side.SELL, "600.00", "-1", "0.05", "CE", "594.00"),
        (Side.BUY, "156.69", "2", "0.01", "EQ", "159.82"),  # the pair in Zerodha's published order book
        (Side.SELL, "1000.30", "0.5", "0.10", "EQ", "995.30"),  # 995.2985 rounds into the band
        (Side.SELL, "0.05", "100", "0.05", "CE", "0.05"),  # never below one tick
    ],
)
def test_protection_price_follows_the_broker_s_bands(
    side: Side, last: str, percent: str, tick: str, kind: str, expected: str
) -> None:
    assert protection_price(side, Decimal(last), Decimal(percent), Decimal(tick), kind) == Decimal(expected)


@pytest.mark.parametrize("percent", ["0", "-2", "100.01"])
def test_a_protection_that_means_nothing_is_refused(percent: str) -> None:
    with pytest.raises(ValueError, match="market protection"):
        protection_price(Side.BUY, Decimal("10"), Decimal(percent), TICK, "EQ")


def test_a_stop_without_a_trigger_is_refused() -> None:
    with pytest.raises(ValueError, match="no trigger price"):
        match(make_order(order_type=OrderType.SL), make_snapshot())


prices = st.integers(1, 4000).map(lambda ticks: ticks * TICK)


@st.composite
def books(draw: st.DrawFn) -> MarketSnapshot:
    last = draw(st.integers(50, 2000))
    below = sorted(draw(st.sets(st.integers(1, last), max_size=5)), reverse=True)
    above = sorted(draw(st.sets(st.integers(last + 1, last + 200), max_size=5)))
    sizes = st.integers(1, 500)
    return MarketSnapshot(
        last * TICK,
        tuple(DepthLevel(ticks * TICK, draw(sizes)) for ticks in below),
        tuple(DepthLevel(ticks * TICK, draw(sizes)) for ticks in above),
        NOW + timedelta(seconds=draw(st.integers(-2, 2))),
    )


@st.composite
def orders(draw: st.DrawFn) -> RestingOrder:
    quantity = draw(st.integers(1, 2000))
    order_type = draw(st.sampled_from(OrderType))
    stop = order_type in {OrderType.SL, OrderType.SL_M}
    price = draw(prices) if order_type in {OrderType.LIMIT, OrderType.SL} else draw(st.none() | prices)
    return make_order(
        draw(st.sampled_from(Side)),
        order_type,
        quantity=quantity,
        price=None if price is None else str(price),
        trigger=str(draw(prices)) if stop else None,
        filled_quantity=draw(st.integers(0, quantity)),
        validity=draw(st.sampled_from([Validity.DAY, Validity.IOC])),
        triggered=stop and draw(st.booleans()),
    )


@given(orders(), books(), st.none() | st.integers(0, 3000))
def test_a_fill_never_exceeds_the_order_the_book_or_the_limit_price(
    order: RestingOrder, book: MarketSnapshot, cap: int | None
) -> None:
    result = match(order, book, max_quantity=cap)
    side = book.asks if order.side is Side.BUY else book.bids
    available = {level.price: level.quantity for level in side}
    assert 0 <= result.quantity <= order.pending_quantity
    assert cap is None or result.quantity <= cap
    for execution in result.executions:
        assert 0 < execution.quantity <= available[execution.price]
        if order.price is not None:
            assert (execution.price - order.price) * order.side.sign <= 0
    paid = [execution.price * order.side.sign for execution in result.executions]
    assert paid == sorted(paid)  # best price first


@given(orders(), books())
def test_time_triggers_and_ioc_hold_for_every_order_and_book(order: RestingOrder, book: MarketSnapshot) -> None:
    result = match(order, book)
    if book.exchange_ts < order.accepted_at:
        assert result == match(order, book, max_quantity=0)
        assert not result.executions
        assert result.triggered is order.triggered
        assert not result.cancel_remainder
    if order.triggered:
        assert result.triggered
    if order.order_type in {OrderType.SL, OrderType.SL_M} and not result.triggered:
        assert not result.executions
    if result.cancel_remainder:
        assert order.validity is Validity.IOC
        assert result.quantity < order.pending_quantity


@given(orders(), orders(), books())
def test_two_orders_never_share_the_same_liquidity(
    first: RestingOrder, second: RestingOrder, book: MarketSnapshot
) -> None:
    one = match(first, book)
    two = match(second, consume(book, first.side, one.executions))
    if first.side is second.side:
        visible = sum(level.quantity for level in (book.asks if first.side is Side.BUY else book.bids))
        assert one.quantity + two.quantity <= visible


@given(
    st.sampled_from(Side),
    st.integers(1, 200_000),
    st.sampled_from(["0.01", "0.05", "0.10", "1"]),
    st.sampled_from(["EQ", "FUT", "CE", "PE"]),
    st.one_of(st.just(AUTO_PROTECTION), st.decimals("0.01", "100", places=2)),
)
def test_a_protection_price_lies_on_the_tick_and_within_its_band(
    side: Side, paise: int, tick: str, kind: str, percent: Decimal
) -> None:
    last, size = Decimal(paise) / 100, Decimal(tick)
    price = protection_price(side, last, percent, size, kind)
    assert price % size == 0
    assert price >= size
    if price > size:
        assert (price - last) * side.sign <= last * (percent if percent > 0 else 5) / 100
