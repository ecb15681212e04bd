"""An instance's own book: events out of order, twice and late give the same position, orders and day."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as some

from core.clock import trading_day
from core.events.payloads import OrderEvent
from core.trading.context import Holding
from core.trading.types import Broker, Intent, OrderStatus, Product, Side
from streams.runner_orders import InstanceBook
from tests.order_events import T0, FakeJournal, at, make_order_event, make_order_state, make_signal

D = Decimal
KEY = ("NSE:INFY", Product.MIS)
TODAY = trading_day(T0)


def take(book: InstanceBook, *events: object) -> InstanceBook:
    for event in events:
        assert isinstance(event.data, OrderEvent)  # type: ignore[attr-defined]
        book.on_order(event.data)  # type: ignore[attr-defined]
    return book


def step(status: OrderStatus, seq: int) -> object:
    return make_order_event(Broker.PAPER, make_order_state(make_signal(), status), seq)


def test_a_signal_is_under_way_until_its_order_ends() -> None:
    book = InstanceBook()
    signal = make_signal()
    book.on_signal(signal, T0)
    assert [(order.order_id, order.status) for order in book.working] == [(None, None)]
    take(book, step(OrderStatus.ACKED, 2))
    assert [order.status for order in book.working] == [OrderStatus.ACKED]
    take(book, step(OrderStatus.CANCELLED, 3), step(OrderStatus.SUBMITTED, 1))
    assert book.working == ()


def test_an_end_seen_first_stays_the_end() -> None:
    book = take(InstanceBook(), step(OrderStatus.REJECTED, 1), step(OrderStatus.SUBMITTED, 1))
    assert book.working == ()


def test_an_unresolved_order_stays_under_way() -> None:
    state = make_order_state(make_signal(), OrderStatus.UNRESOLVED)
    event = make_order_event(Broker.PAPER, make_order_state(make_signal(), OrderStatus.ACKED), 4)
    unresolved = event.model_copy(update={"data": OrderEvent(order_seq=5, order=state)})
    assert len(take(InstanceBook(), unresolved).working) == 1


def test_a_signal_nobody_answers_stops_counting() -> None:
    for intent, patience in ((Intent.ENTRY, 35), (Intent.EXIT, 60)):
        book = InstanceBook()
        book.on_signal(make_signal(intent=intent), T0)
        book.on_time(at(patience - 1))
        assert book.working
        book.on_time(at(patience))
        assert not book.working


def test_a_refused_signal_is_over() -> None:
    book = InstanceBook()
    signal = make_signal()
    book.on_signal(signal, T0)
    book.on_refusal(UUID(int=5))
    assert book.working
    book.on_refusal(signal.signal_id)
    assert not book.working


def test_the_day_counts_its_own_fills_and_starts_anew() -> None:
    journal = FakeJournal()
    book = take(InstanceBook(), journal.fill(Side.BUY, 10, D(100)), journal.fill(Side.SELL, 10, D(103)))
    assert book.day(TODAY) == (2, D(28))  # 30 gross less 2 charges
    assert book.holdings() == {}
    tomorrow = 86_400.0
    assert book.day(TODAY + timedelta(days=1)) == (0, D(0))
    take(book, journal.fill(Side.BUY, 5, D(100), at_s=tomorrow))
    assert book.day(TODAY + timedelta(days=1)) == (1, D(-1))
    assert book.holdings() == {KEY: Holding(5, D(100))}
    take(book, journal.fill(Side.BUY, 5, D(200), at_s=50))  # yesterday's, told late
    assert book.day(TODAY + timedelta(days=1)) == (1, D(-1))
    assert book.holdings() == {KEY: Holding(10, D(150))}
    assert book.last_fill_at("NSE:INFY") == at(tomorrow)


fills = some.lists(
    some.tuples(some.sampled_from(list(Side)), some.integers(1, 20), some.integers(90, 110)), max_size=20
)


@settings(deadline=None)
@given(fills, some.randoms(use_true_random=False), some.integers(0, 40))
def test_fills_in_any_order_twice_and_over_a_restart_make_one_position(
    rows: list[tuple[Side, int, int]], random: object, cut: int
) -> None:
    journal = FakeJournal()
    events = [journal.fill(side, quantity, D(price)) for side, quantity, price in rows]
    straight = take(InstanceBook(), *events)
    shuffled = [*events, *events]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    book = take(InstanceBook(), *shuffled[:cut])
    book = InstanceBook.restore(json.loads(json.dumps(book.snapshot())))
    take(book, *shuffled[cut:])
    assert book.holdings() == straight.holdings()
    assert book.day(TODAY) == straight.day(TODAY)
    assert sum(side.sign * quantity for side, quantity, _ in rows) == book.holdings().get(KEY, Holding()).quantity
