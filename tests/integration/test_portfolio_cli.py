"""The reading commands as a person runs them, against the real stores."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from core.config import PROJECT_ROOT, Settings
from core.events import topics
from core.messaging.producer import EventProducer
from core.storage import redis, views
from core.storage.db import view_engine
from core.storage.redis import PortfolioStore
from core.trading.signals import instance_name
from core.trading.types import Broker, Product
from streams.portfolio import main as portfolio
from tests.integration.portfolio_support import eventually, running
from tests.order_events import FakeJournal, make_signal, order_id_of

pytestmark = [pytest.mark.stack]
PAPER = Broker.PAPER


@pytest.fixture
def strategy() -> str:
    return f"t{uuid4().hex[:10]}"


@dataclass(frozen=True, slots=True)
class Ran:
    exit_code: int
    stdout: str
    stderr: str


async def run(*arguments: str) -> Ran:
    """The command as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", *arguments, cwd=PROJECT_ROOT, stdout=PIPE, stderr=PIPE
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), 60)
    return Ran(process.returncode or 0, stdout.decode(), stderr.decode())


async def test_orders_and_one_order_are_listed_as_json_and_as_tables(settings: Settings, strategy: str) -> None:
    engine = view_engine(settings, PAPER)
    await views.store(engine, FakeJournal().fill(strategy_id=strategy, name=strategy, charges=Decimal("1.5")))
    await engine.dispose()
    (row,) = json.loads((await run("orders", "--json", "--strategy", strategy)).stdout)
    assert (row["state"], row["broker"], row["filled_quantity"]) == ("FILLED", "paper", 10)
    assert (Decimal(row["average_price"]), Decimal(row["charges"])) == (100, Decimal("1.5"))
    order_id = str(order_id_of(make_signal(strategy_id=strategy, name=strategy)))
    assert row["order_id"] == order_id
    shown = await run("order", order_id)
    assert "filled 10 @ 100.00" in shown.stdout
    assert f"paper-order-{order_id}" in shown.stdout
    assert "SIMULATED" in shown.stdout
    missing = await run("order", str(uuid4()))
    assert missing.exit_code == 1


async def test_a_rebuild_prints_no_difference_or_each_one(settings: Settings, strategy: str, tmp_path: Path) -> None:
    producer = EventProducer(settings, client_id="test")
    await producer.start()
    connection = await redis.connect(settings)
    store = PortfolioStore(connection, PAPER)
    key = (instance_name(strategy, PAPER), "NSE:INFY", Product.MIS)
    try:
        async with running("portfolio", portfolio, settings, tmp_path):
            fill = FakeJournal().fill(strategy_id=strategy, name=strategy)
            await producer.send(topics.orders_event(PAPER, "filled"), fill)

            model = await eventually(store.read, lambda model: model is not None and key in model.positions)
        assert model is not None
        clean = await run("rebuild-portfolio")
        assert clean.exit_code == 0, clean.stdout
        assert clean.stdout.count("no difference") == 2

        planted = model.positions[key].model_copy(update={"charges": Decimal("9.99")})
        await store.update([planted], [], {})
        wrong = await run("rebuild-portfolio", "--broker", "paper", "--json")
        assert wrong.exit_code == 1
        (found,) = json.loads(wrong.stdout)["brokers"][0]["differences"]
        assert (found["instance"], found["field"]) == (key[0], "charges")
        assert (Decimal(found["live"]), Decimal(found["rebuilt"])) == (Decimal("9.99"), 1)

        held = json.loads((await run("positions", "--json", "--broker", "paper")).stdout)
        assert key[0] in {row["instance"] for row in held}
    finally:
        await connection.aclose()
        await producer.stop()


async def test_topics_and_strategies_answer() -> None:
    rows = {row["topic"]: row for row in json.loads((await run("topics", "--json")).stdout)}
    assert rows[topics.orders_event(PAPER, "filled")]["partitions"] >= 1
    assert rows[topics.orders_event(PAPER, "filled")]["dlq"] >= 0
    assert isinstance(json.loads((await run("strategies", "--json")).stdout), list)
