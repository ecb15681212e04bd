"""The portfolio service on the real log and Redis: positions from fills, marks from ticks, a model that refills and rebuilds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from core import ids
from core.clock import utc_now
from core.config import Settings
from core.events import topics
from core.events.envelope import Envelope, EventType, decode, make
from core.events.payloads import PnlSnapshot
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.routing import redis_prefix
from core.storage import redis
from core.storage.redis import PortfolioStore, PositionView
from core.trading.signals import instance_name
from core.trading.ticks import Tick
from core.trading.types import Broker, Product, Side
from streams.portfolio import main
from streams.portfolio_rebuild import rebuild
from tests.integration.portfolio_support import eventually, running
from tests.order_events import TOKENS, FakeJournal

pytestmark = [pytest.mark.stack]
D = Decimal


@pytest.fixture
def strategy() -> str:
    """A strategy of its own for each test: the log keeps the fills of all."""
    return f"t{uuid4().hex[:10]}"


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[EventProducer]:
    producer = EventProducer(settings, client_id="test")
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
async def cache(settings: Settings) -> AsyncIterator[Redis]:
    connection = await redis.connect(settings)
    yield connection
    await connection.aclose()


async def send_fills(producer: EventProducer, broker: Broker, *events: Envelope) -> None:
    await producer.send_many([(topics.orders_event(broker, "filled"), event) for event in events])


async def send_tick(producer: EventProducer, instrument: str, price: str) -> None:
    now = utc_now()
    tick = Tick(instrument_token=TOKENS[instrument], last_price=D(price), exchange_ts=now, received_at=now)
    identity = ids.new_id()
    key = str(TOKENS[instrument])
    event = make(EventType.TICK, tick, id=identity, key=key, source="test", correlation_id=identity)
    await producer.send(topics.MARKET_TICKS, event)


async def position(cache: Redis, broker: Broker, strategy: str) -> PositionView | None:
    model = await PortfolioStore(cache, broker).read()
    key = (instance_name(strategy, broker), "NSE:INFY", Product.MIS)
    return model.positions.get(key) if model else None


async def test_fills_and_ticks_become_marked_positions_of_both_brokers(
    settings: Settings, producer: EventProducer, cache: Redis, strategy: str, tmp_path: Path
) -> None:
    async with running("portfolio", main, settings, tmp_path):
        for broker, price in ((Broker.PAPER, "100"), (Broker.ZERODHA, "200")):
            journal = FakeJournal(broker)
            await send_fills(
                producer,
                broker,
                journal.fill(Side.BUY, 10, D(price), strategy_id=strategy, name=f"{strategy}a"),
                journal.fill(Side.SELL, 4, D(price) + 10, strategy_id=strategy, name=f"{strategy}b", charges=D("2.25")),
            )
        await send_tick(producer, "NSE:INFY", "210.5")
        for broker, unrealized in ((Broker.PAPER, D(663)), (Broker.ZERODHA, D(63))):
            view = await eventually(
                lambda broker=broker: position(cache, broker, strategy),
                lambda view: view is not None and view.last_price == D("210.5"),
            )
            assert view is not None
            assert (view.quantity, view.realized_pnl, view.charges) == (6, D(40), D("3.25"))
            assert view.unrealized_pnl == unrealized
            assert view.net_pnl == unrealized + 40 - D("3.25")
            assert view.simulated is True


async def test_snapshots_follow_each_fill_and_each_moved_mark(
    settings: Settings, producer: EventProducer, strategy: str, tmp_path: Path
) -> None:
    reader = LogReader(settings, client_id="test", topics=[topics.pnl_snapshots(Broker.PAPER)])
    await reader.start("latest")
    seen: list[PnlSnapshot] = []

    async def snapshots() -> list[PnlSnapshot]:
        for record in await reader.read(0.2):
            data = decode(record.value).data
            if isinstance(data, PnlSnapshot) and data.strategy_id == strategy:
                assert record.key.decode() == f"{strategy}@paper:NSE:INFY:MIS"
                seen.append(data)
        return seen

    try:
        async with running("portfolio", main, settings, tmp_path):
            journal = FakeJournal()
            await send_fills(
                producer,
                Broker.PAPER,
                *[journal.fill(strategy_id=strategy, name=f"{strategy}{n}", at_s=n) for n in range(3)],
            )
            await eventually(snapshots, lambda rows: [row.quantity for row in rows][:3] == [10, 20, 30])
            await send_tick(producer, "NSE:INFY", "101.05")
            await eventually(snapshots, lambda rows: rows[-1].last_price == D("101.05"))
        assert seen[-1].unrealized_pnl == D("31.5")
    finally:
        await reader.stop()


async def test_fills_that_came_while_no_portfolio_ran_get_their_snapshot(
    settings: Settings, producer: EventProducer, strategy: str, tmp_path: Path
) -> None:
    """The last word on a position is never that of before an outage: a position closed meanwhile moves no more mark."""
    reader = LogReader(settings, client_id="test", topics=[topics.pnl_snapshots(Broker.PAPER)])
    await reader.start("latest")
    seen: list[PnlSnapshot] = []

    async def snapshots() -> list[PnlSnapshot]:
        for record in await reader.read(0.2):
            data = decode(record.value).data
            if isinstance(data, PnlSnapshot) and data.strategy_id == strategy:
                seen.append(data)
        return seen

    journal = FakeJournal()
    try:
        async with running("portfolio", main, settings, tmp_path):
            await send_fills(producer, Broker.PAPER, journal.fill(strategy_id=strategy, name=f"{strategy}1"))
            await eventually(snapshots, lambda rows: bool(rows) and rows[-1].quantity == 10)
        closing = journal.fill(Side.SELL, 10, D(103), strategy_id=strategy, name=f"{strategy}2", at_s=1)
        await send_fills(producer, Broker.PAPER, closing)
        async with running("portfolio", main, settings, tmp_path):
            await eventually(snapshots, lambda rows: rows[-1].quantity == 0)
        assert seen[-1].realized_pnl != 0
    finally:
        await reader.stop()


async def test_an_emptied_redis_is_filled_again_without_a_restart(
    settings: Settings, producer: EventProducer, cache: Redis, strategy: str, tmp_path: Path
) -> None:
    async with running("portfolio", main, settings, tmp_path):
        await send_fills(producer, Broker.PAPER, FakeJournal().fill(strategy_id=strategy, name=strategy))
        before = await eventually(lambda: position(cache, Broker.PAPER, strategy))
        await cache.flushall()
        after = await eventually(lambda: position(cache, Broker.PAPER, strategy), within_s=5)
        assert before is not None
        assert after is not None
        assert after.model_dump(exclude={"updated_at"}) == before.model_dump(exclude={"updated_at"})


async def test_a_rebuild_agrees_with_the_live_model_and_names_a_planted_difference(
    settings: Settings, producer: EventProducer, cache: Redis, strategy: str, tmp_path: Path
) -> None:
    journal = FakeJournal()
    buy = journal.fill(Side.BUY, 10, D("100.05"), at_s=10, strategy_id=strategy, name=f"{strategy}1")
    sell = journal.fill(Side.SELL, 7, D("99.95"), at_s=20, strategy_id=strategy, name=f"{strategy}2")
    late = journal.fill(Side.BUY, 3, D("99.10"), at_s=5, strategy_id=strategy, name=f"{strategy}3")
    async with running("portfolio", main, settings, tmp_path):
        await send_fills(producer, Broker.PAPER, buy, sell, late, buy)
        view = await eventually(
            lambda: position(cache, Broker.PAPER, strategy), lambda view: view is not None and view.fills == 3
        )
        assert view is not None
    outcome = await rebuild(settings, Broker.PAPER)
    assert outcome.live
    assert outcome.differences == []
    assert outcome.fills >= 3

    planted = view.model_copy(update={"realized_pnl": view.realized_pnl + D("0.01"), "quantity": 5})
    await PortfolioStore(cache, Broker.PAPER).update([planted], [], {})
    found = (await rebuild(settings, Broker.PAPER)).differences
    assert {(row.key, row.field) for row in found} == {(view.key, "realized_pnl"), (view.key, "quantity")}


async def test_without_a_live_model_the_rebuild_says_so(settings: Settings, cache: Redis) -> None:
    keys = [key async for key in cache.scan_iter(f"{redis_prefix(Broker.PAPER)}portfolio:*")]
    if keys:
        await cache.delete(*keys)
    assert (await rebuild(settings, Broker.PAPER)).live is False


async def test_a_second_portfolio_stands_by_until_the_first_ends(settings: Settings, tmp_path: Path) -> None:
    import asyncio

    from core import logging
    from core.health import HealthReporter
    from core.service import ServiceContext

    second = ServiceContext(
        "portfolio", settings, HealthReporter("second", tmp_path), asyncio.Event(), logging.get("second")
    )
    async with running("portfolio", main, settings, tmp_path):
        task = asyncio.ensure_future(main(second))
        await eventually(lambda: "another process holds the lease" in second.health._parts.get("lease", ""))
        assert not second.health.ready
    await eventually(lambda: second.health.ready, within_s=15)
    second.stop.set()
    await asyncio.wait_for(task, 10)
