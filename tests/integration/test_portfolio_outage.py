"""A part goes away under the portfolio and the API: both say so, wait, and go on by themselves without losing anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from api.server import main as api
from core.config import Settings
from core.events import topics
from core.messaging.producer import EventProducer
from core.people.roles import Role
from core.storage import redis
from core.storage.redis import PortfolioStore, ReadModel
from core.trading.signals import instance_name
from core.trading.types import Broker, Product
from docker.native import ready
from docker.native.stack import NativeStack
from streams.portfolio import main as portfolio
from streams.portfolio_rebuild import rebuild
from tests.fixtures.people import make_key
from tests.integration.portfolio_support import eventually, running
from tests.order_events import FakeJournal

pytestmark = [pytest.mark.stack]
PAPER = Broker.PAPER


@contextmanager
def stopped(settings: Settings, part: str) -> Iterator[None]:
    """The part is stopped inside the block and answers again after it."""
    supervisor = NativeStack(settings).supervisor
    supervisor.stop_parts([part])
    try:
        yield
    finally:
        supervisor.start_parts([part])


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[EventProducer]:
    producer = EventProducer(settings, client_id="test")
    await producer.start()
    yield producer
    await producer.stop()


async def read_model(settings: Settings) -> ReadModel | None:
    connection = redis.client(settings)
    try:
        return await PortfolioStore(connection, PAPER).read()
    finally:
        await connection.aclose()


def holds(strategy: str, quantity: int) -> Callable[[ReadModel | None], bool]:
    key = (instance_name(strategy, PAPER), "NSE:INFY", Product.MIS)

    def check(model: ReadModel | None) -> bool:
        return model is not None and key in model.positions and model.positions[key].quantity == quantity

    return check


async def test_redis_goes_and_comes_back_empty(settings: Settings, producer: EventProducer, tmp_path: Path) -> None:
    strategy = f"t{uuid4().hex[:10]}"
    journal = FakeJournal()
    topic = topics.orders_event(PAPER, "filled")
    base = f"http://{settings.api_host}:{settings.api_port}"
    headers = {"Authorization": f"Bearer {await make_key(settings, Role.VIEWER)}"}
    async with (
        running("portfolio", portfolio, settings, tmp_path) as ctx,
        running("api", api, settings, tmp_path),
        httpx.AsyncClient(base_url=base, timeout=15, headers=headers) as client,
    ):
        await producer.send(topic, journal.fill(strategy_id=strategy, name=f"{strategy}1"))
        await eventually(lambda: read_model(settings), holds(strategy, 10))
        with stopped(settings, "redis"):
            await eventually(lambda: not ctx.health.ready)
            answer = await client.get("/api/v1/positions")
            assert answer.status_code == 503
            assert "Redis is away" in answer.json()["detail"]
            parts = {part["name"]: part for part in (await client.get("/health/ready")).json()["parts"]}
            assert parts["redis"]["ready"] is False
            assert parts["kafka"]["ready"] is True
            await producer.send(topic, journal.fill(strategy_id=strategy, name=f"{strategy}2"))
        await ready.wait(settings)
        await eventually(lambda: _quietly(settings), holds(strategy, 20), within_s=30)
        await eventually(lambda: ctx.health.ready)
        assert (await client.get("/api/v1/positions")).status_code == 200
    assert (await rebuild(settings, PAPER)).differences == []


async def test_the_log_goes_and_comes_back(settings: Settings, producer: EventProducer, tmp_path: Path) -> None:
    strategy = f"t{uuid4().hex[:10]}"
    journal = FakeJournal()
    topic = topics.orders_event(PAPER, "filled")
    async with running("portfolio", portfolio, settings, tmp_path) as ctx:
        await producer.send(topic, journal.fill(strategy_id=strategy, name=f"{strategy}1"))
        await eventually(lambda: read_model(settings), holds(strategy, 10))
        with stopped(settings, "kafka"):
            await eventually(lambda: "kafka" in ctx.health._parts and not ctx.health.ready)
            model = await read_model(settings)
            assert model is not None
        await ready.wait(settings)
        late = EventProducer(settings, client_id="test-late")
        await late.start()
        await late.send(topic, journal.fill(strategy_id=strategy, name=f"{strategy}2"))
        await late.stop()
        await eventually(lambda: read_model(settings), holds(strategy, 20), within_s=60)
        await eventually(lambda: ctx.health.ready, within_s=30)


async def _quietly(settings: Settings) -> ReadModel | None:
    try:
        return await read_model(settings)
    except redis.Transient:
        await asyncio.sleep(0.1)
        return None
