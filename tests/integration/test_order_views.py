"""The order views on the real log and database: what the log says becomes rows and timelines, once each, newest wins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api.reads import Reads
from api.routers.reports import pnl_day
from core import ids
from core.clock import trading_day, utc_now
from core.config import Settings
from core.events import topics
from core.events.envelope import EventType, make
from core.events.payloads import PnlSnapshot
from core.messaging.dlq_depth import dlq_depth
from core.messaging.producer import EventProducer
from core.storage import views
from core.storage.db import config_engine, view_engine
from core.storage.redis import EVERYTHING
from core.storage.view_pnl import minutes_of_day
from core.storage.views import Cursor, OrderFilter
from core.trading.types import Broker, Exchange, OrderStatus, Product, Side
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


async def test_the_days_pnl_is_kept_minute_by_minute_over_a_restart(
    settings: Settings, producer: EventProducer, paper: AsyncEngine, strategy: str, tmp_path: Path
) -> None:
    """Of a minute its first snapshot, or a later one of a fill; read again, it is the same."""
    began = utc_now().replace(second=0, microsecond=0) - timedelta(minutes=3)
    instance = f"{strategy}@paper"

    async def send(
        seconds: float, open_pnl: str | None, *, realized: str = "0", fill: bool = False, **values: Any
    ) -> None:
        snapshot = PnlSnapshot(
            instance=instance, strategy_id=strategy, instrument="NSE:INFY", instrument_token=1, exchange=Exchange.NSE,
            tradingsymbol="INFY", product=Product.MIS, quantity=1, average_price=Decimal(100), last_price=None,
            realized_pnl=Decimal(1000), unrealized_pnl=Decimal(open_pnl) if open_pnl else None, charges=Decimal(70),
            trading_day=trading_day(began), as_of=began + timedelta(seconds=seconds), simulated=True,
            **({"day_realized_pnl": Decimal(realized), "day_charges": Decimal(1)} | values),
        )  # fmt: skip
        identity = ids.new_id()
        event = make(
            EventType.PNL_SNAPSHOT, snapshot, id=identity, key=instance, source="test", correlation_id=identity, broker=PAPER,
            causation_id=ids.new_id() if fill else None,
        )  # fmt: skip
        await producer.send(topics.pnl_snapshots(PAPER), event)

    async def kept() -> list[tuple[float, str, str]]:
        rows = [row for row in await minutes_of_day(paper, trading_day(began)) if row.instance == instance]
        return [((row.as_of - began).total_seconds(), str(row.realized_pnl), str(row.unrealized_pnl)) for row in rows]

    async with running("order-views", main, settings, tmp_path):
        await send(0, "1", day_realized_pnl=None, day_charges=None)  # of a version before
        await send(1, "10")
        await send(2, "11")
        await send(30, "0", realized="12", fill=True)
        await send(40, "3", realized="12")
        await send(61, None, realized="12", fill=True)
        assert await eventually(kept, lambda rows: len(rows) == 2) == [(30, "12", "0"), (61, "12", "None")]
    async with running("order-views", main, settings, tmp_path):
        await send(30, "0", realized="12", fill=True)  # redelivered
        await send(1, "10")
        await send(62, "99")
        await send(125, "5", realized="12")
        rows = await eventually(kept, lambda rows: len(rows) == 3)
    assert rows == [(30, "12", "0"), (61, "12", "None"), (125, "12", "5")]
    reads = Reads(settings)
    told = await pnl_day(reads, PAPER, trading_day(began))
    await reads.close()
    mine = [mark for mark in told.marks if mark.instance == instance]
    assert [(str(mark.net_pnl), mark.unmarked) for mark in mine] == [("11", 0), ("11", 1), ("16", 0)]
    assert [mark.at for mark in told.marks] == sorted(mark.at for mark in told.marks)
    assert EVERYTHING in {mark.instance for mark in told.marks}
