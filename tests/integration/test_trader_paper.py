"""The paper exchange alone: one fill a tick, no old ticks, shared depth, hints after the fact, and kill -9 at any point."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text, update

from core.clock import utc_now
from core.config import Settings
from core.errors import NotPlaced, Transient
from core.events.envelope import decode
from core.events.payloads import OrderUpdate
from core.events.topics import orders_updates
from core.ids import new_id
from core.messaging.reader import LogReader
from core.storage.db import broker_engine
from core.storage.models import ExchangeOrderRow
from core.trading.types import Broker, OrderType, Side
from tests.integration.trader_worlds import (
    ExchangeProcess,
    PaperWorld,
    limit,
    make_request,
    paper_exchange,
    paper_world,
    trades_of,
    wait_row,
    wait_status,
)

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
async def exchange(stack: Settings) -> AsyncIterator[ExchangeProcess]:
    async with paper_exchange(stack) as running:
        yield running


@pytest.fixture
async def world(stack: Settings, exchange: ExchangeProcess) -> AsyncIterator[PaperWorld]:
    async with paper_world(stack, exchange) as found:
        yield found


async def looked(world: PaperWorld) -> None:
    """Wait until the exchange has looked at every tick published so far: an order of our own fills on one more tick."""
    mark = await world.trader.place(limit(world, "9000", quantity=1))
    await world.settle()
    await world.market("1500", asks=[("9000", 1)])
    await wait_status(world, mark, "COMPLETE")


async def test_a_tick_older_than_the_order_fills_nothing(world: PaperWorld) -> None:
    old = world.tick("1500", asks=[("1500", 500)])
    order_id = await world.trader.place(make_request(world))
    await world.publish(old)
    await world.settle()
    stale = world.tick("1500", asks=[("1500", 500)])
    await world.publish(stale.model_copy(update={"exchange_ts": stale.exchange_ts - timedelta(seconds=5)}))
    await looked(world)
    assert (await world.trader.orders([order_id]))[order_id].filled_quantity == 0


async def test_a_tick_delivered_twice_fills_once(world: PaperWorld) -> None:
    order_id = await world.trader.place(limit(world, "1500"))
    await world.settle()
    await world.publish(world.tick("1500", asks=[("1500", 4)]), times=3)
    await wait_row(world, order_id, lambda row: row.filled_quantity > 0)
    await looked(world)
    assert (await world.trader.orders([order_id]))[order_id].filled_quantity == 4
    assert len(await trades_of(world, order_id)) == 1


async def test_two_orders_cannot_eat_the_same_level(world: PaperWorld) -> None:
    first = await world.trader.place(limit(world, "1500", quantity=6))
    second = await world.trader.place(limit(world, "1500", quantity=6))
    await world.settle()
    await world.market("1500", asks=[("1500", 10)])
    await wait_status(world, first, "COMPLETE")
    row = await wait_row(world, second, lambda one: one.filled_quantity > 0)
    assert (row.status, row.filled_quantity) == ("OPEN", 4)


async def test_a_market_order_becomes_a_limit_at_its_protection_price_and_the_rest_rests(world: PaperWorld) -> None:
    order_id = await world.trader.place(make_request(world))
    await world.settle()
    await world.market("1500", asks=[("1500.5", 3), ("1520", 100)])
    row = await wait_row(world, order_id, lambda one: one.filled_quantity == 3)
    assert (row.status, row.order_type, row.price) == ("OPEN", OrderType.LIMIT, Decimal("1507.5"))


async def test_a_killed_exchange_forgets_nothing_and_fills_once(world: PaperWorld) -> None:
    order_id = await world.trader.place(limit(world, "1500"))
    await world.settle()
    await world.market("1500", asks=[("1500", 3)])
    await wait_row(world, order_id, lambda row: row.filled_quantity == 3)
    await world.exchange.kill()
    placed_meanwhile = await world.trader.place(limit(world, "1500", quantity=2))
    cancelled_meanwhile = await world.trader.place(limit(world, "1400"))
    await world.trader.cancel(cancelled_meanwhile)
    await world.exchange.start()
    await wait_status(world, cancelled_meanwhile, "CANCELLED")
    await world.market("1500", asks=[("1500", 9)])
    await wait_status(world, order_id, "COMPLETE")
    await wait_status(world, placed_meanwhile, "COMPLETE")
    assert sorted(t.quantity for t in await trades_of(world, order_id)) == [3, 7]


async def test_placing_is_idempotent_under_concurrency(world: PaperWorld) -> None:
    request = limit(world, "1400")
    ids = await asyncio.gather(*(world.trader.place(request) for _ in range(10)))
    assert len(set(ids)) == 1
    assert [row.tags for row in (await world.trader.book()).rows if request.tag in row.tags] == [(request.tag,)]


async def test_a_day_order_ends_with_its_day(world: PaperWorld, stack: Settings) -> None:
    order_id = await world.trader.place(limit(world, "1400"))
    engine = broker_engine(stack, Broker.PAPER)
    async with engine.begin() as connection:
        yesterday = {"trading_day": utc_now().date() - timedelta(days=2), "updated_at": utc_now()}
        of_ours = ExchangeOrderRow.broker_order_id == order_id
        await connection.execute(update(ExchangeOrderRow).where(of_ours).values(**yesterday))
    await engine.dispose()
    row = await wait_status(world, order_id, "CANCELLED")
    assert row.status_message == "the trading day is over"


async def test_hints_tell_of_fills_and_ends_but_not_of_resting(world: PaperWorld, stack: Settings) -> None:
    topic = orders_updates(Broker.PAPER)
    reader = LogReader(stack, client_id=f"test-{new_id()}", topics=[topic])
    await reader.start("latest")
    order_id = await world.trader.place(limit(world, "1500"))
    await world.settle()
    await world.market("1500", asks=[("1500", 4)])
    await wait_row(world, order_id, lambda row: row.filled_quantity == 4)
    await world.trader.cancel(order_id)
    await wait_status(world, order_id, "CANCELLED")
    hints: list[OrderUpdate] = []
    until = time.monotonic() + 10
    while len(hints) < 2 and time.monotonic() < until:
        for record in await reader.read(0.5):
            update_ = decode(record.value).data
            assert isinstance(update_, OrderUpdate)
            if update_.broker_order_id == order_id:
                assert record.key.decode() == order_id
                hints.append(update_)
    await reader.stop()
    assert [hint.status for hint in hints] == ["UPDATE", "CANCELLED"]


async def test_a_database_that_is_away_means_not_placed(world: PaperWorld, stack: Settings) -> None:
    from core.brokers.paper import PaperTrader

    trader = PaperTrader(stack.model_copy(update={"postgres_port": 1}))
    with pytest.raises(NotPlaced) as refusal:
        await trader.place(make_request(world))
    assert (refusal.value.code, refusal.value.retryable) == ("DATABASE_AWAY", True)
    await trader.close()


async def test_the_exchange_goes_on_after_its_connections_were_cut(world: PaperWorld, stack: Settings) -> None:
    order_id = await world.trader.place(limit(world, "1500"))
    engine = broker_engine(stack, Broker.PAPER)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = current_user AND pid <> pg_backend_pid()"
            )
        )
    await engine.dispose()
    until = time.monotonic() + 15
    while (await _row(world, order_id)) != "COMPLETE":
        assert time.monotonic() < until
        await world.market("1500", asks=[("1500", 50)])
        await asyncio.sleep(0.1)
    assert sum(t.quantity for t in await trades_of(world, order_id)) == 10
    sell = await world.trader.place(make_request(world, side=Side.SELL))
    await world.settle()
    await world.market("1500", bids=[("1499.5", 50)])
    await wait_status(world, sell, "COMPLETE")


async def _row(world: PaperWorld, order_id: str) -> str:
    try:
        return (await world.trader.orders([order_id]))[order_id].status
    except Transient:  # a connection that was cut: a read may be tried again
        return "AWAY"


async def test_it_stops_within_seconds_when_asked(world: PaperWorld) -> None:
    assert await world.exchange.stop() == 0
    await world.exchange.start()
