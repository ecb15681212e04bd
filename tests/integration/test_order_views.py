"""The order views on the real log and database: what the log says becomes rows and timelines, once each, newest wins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from core.config import Settings
from core.events import topics
from core.messaging.dlq_depth import dlq_depth
from core.messaging.producer import EventProducer
from core.storage import views
from core.storage.db import config_engine, view_engine
from core.storage.views import Cursor, OrderFilter
from core.trading.types import Broker, OrderStatus, Side
from streams.order_views import main
from tests.integration.portfolio_support import eventually, running
from tests.order_events import (
    FakeJournal,
    at,
    make_order_event,
    make_order_state,
    make_raw_event,
    make_rejected_event,
    make_signal,
    make_validated_event,
    order_id_of,
)

pytestmark = [pytest.mark.stack]
PAPER = Broker.PAPER


@pytest.fixture
def strategy() -> str:
    return f"t{uuid4().hex[:10]}"


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[EventProducer]:
    producer = EventProducer(settings, client_id="test")
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
async def paper(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = view_engine(settings, PAPER)
    yield engine
    await engine.dispose()


async def test_a_timeline_tells_signal_decision_and_steps_in_order(
    settings: Settings, producer: EventProducer, paper: AsyncEngine, strategy: str, tmp_path: Path
) -> None:
    signal = make_signal(strategy_id=strategy, name=strategy)
    submitted = make_order_event(PAPER, make_order_state(signal, updated_at=at(1)), 1)
    acked = make_order_event(PAPER, make_order_state(signal, OrderStatus.ACKED, updated_at=at(2)), 2)
    filled = FakeJournal().fill(strategy_id=strategy, name=strategy, at_s=3)
    async with running("order-views", main, settings, tmp_path):
        # Other topics have no order among each other: the fill comes first, the rest after it, some of it twice.
        await producer.send(topics.orders_event(PAPER, "filled"), filled)
        await eventually(lambda: views.find_order(paper, order_id_of(signal)))
        for _ in range(2):
            await producer.send(topics.orders_event(PAPER, "ack"), acked)
            await producer.send(topics.orders_event(PAPER, "submitted"), submitted)
            await producer.send(topics.signals_validated(PAPER), make_validated_event(PAPER, signal))
            await producer.send(topics.signals_raw(PAPER), make_raw_event(PAPER, signal))
        order = await views.find_order(paper, order_id_of(signal))
        assert order is not None
        told = await eventually(lambda: views.timeline(paper, order), lambda rows: len(rows) >= 5)
    assert [row.type for row in told] == [
        "signal.raw",
        "signal.validated",
        "order.submitted",
        "order.ack",
        "order.filled",
    ]
    order = await views.find_order(paper, order_id_of(signal))
    assert order is not None
    assert (order.status, order.filled_quantity, order.charges) == (OrderStatus.FILLED, 10, Decimal(1))


async def test_a_validated_signal_is_a_pending_order_and_a_rejected_one_is_none(
    settings: Settings, producer: EventProducer, paper: AsyncEngine, strategy: str, tmp_path: Path
) -> None:
    wanted, refused = (make_signal(strategy_id=strategy, name=f"{strategy}{n}") for n in "ab")
    async with running("order-views", main, settings, tmp_path):
        await producer.send(topics.signals_rejected(PAPER), make_rejected_event(PAPER, refused, "LOT_SIZE"))
        await producer.send(topics.signals_validated(PAPER), make_validated_event(PAPER, wanted))
        orders = await eventually(lambda: views.list_orders(paper, OrderFilter(strategy_id=strategy)))
    assert [(order.order_id, order.status) for order in orders] == [(order_id_of(wanted), OrderStatus.PENDING)]


async def open_letters(settings: Settings, topic: str) -> int:
    engine = config_engine(settings, pool_size=1)
    try:
        return (await dlq_depth(settings, engine))[topics.dlq(topic)]
    finally:
        await engine.dispose()


async def test_what_cannot_be_read_goes_to_the_dlq_and_the_partition_goes_on(
    settings: Settings, producer: EventProducer, paper: AsyncEngine, strategy: str, tmp_path: Path
) -> None:
    topic = topics.orders_event(PAPER, "submitted")
    before = await open_letters(settings, topic)
    signal = make_signal(strategy_id=strategy, name=strategy)
    good = make_order_event(PAPER, make_order_state(signal), 1)
    async with running("order-views", main, settings, tmp_path):
        await producer.send_raw(topic, key=good.key.encode(), value=b"{broken", headers=[])
        await producer.send(topic, good)
        await eventually(lambda: views.find_order(paper, order_id_of(signal)))
    assert await open_letters(settings, topic) == before + 1


async def test_orders_are_listed_newest_first_by_filter_and_page(paper: AsyncEngine, strategy: str) -> None:
    for n in range(5):
        side = Side.BUY if n % 2 else Side.SELL
        signal = make_signal(strategy_id=strategy, name=f"{strategy}{n}", side=side)
        status = OrderStatus.REJECTED if n == 4 else OrderStatus.ACKED
        await views.store(paper, make_order_event(PAPER, make_order_state(signal, status, created_at=at(n)), 1))
    wanted = OrderFilter(strategy_id=strategy)
    first = await views.list_orders(paper, wanted, limit=2)
    cursor = Cursor(first[-1].created_at, first[-1].order_id)
    rest = await views.list_orders(paper, wanted, after=Cursor.decode(cursor.encode()), limit=10)
    assert [order.created_at for order in (*first, *rest)] == [at(n) for n in (4, 3, 2, 1, 0)]
    rejected = await views.list_orders(paper, OrderFilter(statuses=[OrderStatus.REJECTED], strategy_id=strategy))
    assert [order.created_at for order in rejected] == [at(4)]
    assert len(await views.list_orders(paper, OrderFilter(strategy_id=strategy, since=at(3)))) == 2


@pytest.mark.parametrize("text", ["", "!!", "bm90IGEgY3Vyc29y", "MjAyNi0xMC0wN1QwNDowMDowMHx4"])
def test_a_foreign_cursor_is_refused(text: str) -> None:
    with pytest.raises(views.BadCursor):
        Cursor.decode(text)
