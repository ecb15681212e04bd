"""Strategies changed by command while everything runs: runner, risk manager and feed follow; a bad change changes nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from control import limits
from control.acts import Act
from control.connections import Connections
from core import failpoints
from core.config import PROJECT_ROOT, Settings
from core.events import topics
from core.events.payloads import ConfigChanged
from core.ids import new_id
from core.messaging.dlq_depth import dlq_depth
from core.messaging.producer import EventProducer
from core.storage import redis
from core.storage.db import config_engine
from core.storage.models import StrategyRow, table_of
from core.storage.models_people import StrategyChangeRow
from core.storage.strategies import StrategyConfig, load_strategies
from core.storage.strategy_changes import STRATEGY, change_strategy, publish_changes
from core.trading.risk.limits import Scope
from core.trading.types import Broker
from streams.runner_status import read
from streams.strategy_runner import main
from tests.fixtures.people import TESTER
from tests.integration import risk_world
from tests.integration.feed_world import (
    TITAN,
    WIPRO,
    Watch,
    add_strategy,
    feeding,
    forget_strategies,
    start_sandbox,
    until,
)
from tests.integration.portfolio_support import eventually, running
from tests.integration.strategy_support import World, watching
from tests.integration.test_portfolio_cli import Ran, run
from tests.integration.test_strategy_runner import FALL_AND_RISE, NAME, Tape
from tests.strategy_world import make_row

pytestmark = [pytest.mark.stack]

CHANGES = table_of(StrategyChangeRow)
PAPER = Broker.PAPER


@pytest.fixture
async def engine(settings: Settings, stack: Settings) -> AsyncIterator[AsyncEngine]:
    made = config_engine(settings)
    async with made.begin() as connection:
        await connection.execute(delete(CHANGES))
    yield made
    await made.dispose()


@pytest.fixture
async def producer(settings: Settings, stack: Settings) -> AsyncIterator[EventProducer]:
    made = EventProducer(settings, client_id="test")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def world(settings: Settings, engine: AsyncEngine, producer: EventProducer) -> World:
    return World(settings, engine, producer)


async def row_of(engine: AsyncEngine, strategy_id: str) -> StrategyConfig:
    (found,) = [row for row in await load_strategies(engine) if row.strategy_id == strategy_id]
    return found


async def recorded(engine: AsyncEngine) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        query = select(CHANGES).where(CHANGES.c.what == STRATEGY).order_by(CHANGES.c.version)
        rows = (await connection.execute(query)).mappings().all()
    return [dict(row) for row in rows]


async def well(*arguments: str) -> Ran:
    ran = await run("strategies", *arguments)
    assert ran.exit_code == 0, ran.stderr
    return ran


async def test_a_changed_parameter_decides_from_the_next_tick_and_a_pause_ends_it(
    settings: Settings, world: World, engine: AsyncEngine, tmp_path: Path
) -> None:
    await world.reset(make_row(parameters={"bar_s": 5, "fast": 2, "slow": 20}))
    connection, links = redis.client(settings), Connections(settings, "test")

    async def standing() -> tuple[str, int]:
        (row,) = await read(connection, PAPER)
        return row["state"], row["version"]

    tape, dead, letters = Tape(), await dlq_depth(settings, engine), topics.dlq(topics.CONFIG_CHANGES)
    async with watching(settings, topics.signals_raw(PAPER)) as watcher, running(NAME, main, settings, tmp_path):
        await well("set", "s", "--param", "slow=3", "--by", "ann", "--reason", "faster")
        await eventually(standing, lambda seen: seen[1] == 2, within_s=10)
        await world.tick(*tape.ticks(*FALL_AND_RISE))
        await watcher.until(lambda events: len(events) >= 1)
        assert [signal.strategy_version for signal in watcher.signals] == [2]

        await limits.change(links, Act(TESTER, new_id()), Scope.STRATEGY, "nobodys", {"max_position": 7})
        await well("pause", "s")  # on the same partition, after the change of limits
        await eventually(standing, lambda seen: seen[0] == "inactive", within_s=10)
        assert (await dlq_depth(settings, engine))[letters] == dead[letters]
        await world.tick(*tape.ticks(*FALL_AND_RISE, *FALL_AND_RISE))
        await well("activate", "s")
        await eventually(standing, lambda seen: seen[1] == 4, within_s=10)
        await watcher.drain()
    await connection.aclose()
    await links.close()
    assert len(watcher.signals) == 1, "a paused strategy signals nothing"
    assert [(row["version"], row["published_at"] is not None) for row in await recorded(engine)] == [
        (2, True), (3, True), (4, True)
    ]  # fmt: skip
    first = (await recorded(engine))[0]
    assert (first["changed_by"], first["reason"]) == ("ann", "faster")


async def test_a_change_whose_maker_died_before_it_was_announced_is_announced_by_the_runner(
    settings: Settings, world: World, engine: AsyncEngine, tmp_path: Path
) -> None:
    await world.reset(make_row(active=False))
    async with watching(settings, topics.CONFIG_CHANGES) as watcher, running(NAME, main, settings, tmp_path):
        edit = {"active": True}
        changed = await change_strategy(
            engine, "s", lambda row: make_row(**edit, version=row.version), by="ann", reason="", source="test"
        )
        assert changed is not None
        events = await watcher.until(lambda events: len(events) >= 1)

        async def marked() -> bool:
            return (await recorded(engine))[0]["published_at"] is not None

        await eventually(marked, bool, within_s=10)  # marked after the log has acknowledged
    data = events[0].data
    assert isinstance(data, ConfigChanged)
    assert (data.strategy_id, data.version, data.changed_by, data.row["active"]) == ("s", 2, "ann", True)


async def test_a_maker_that_dies_between_log_and_mark_is_repeated_under_the_same_id(
    settings: Settings, world: World, engine: AsyncEngine, producer: EventProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.reset(make_row())
    async with watching(settings, topics.CONFIG_CHANGES) as watcher:
        await change_strategy(
            engine, "s", lambda row: make_row(active=False, version=row.version), by="ann", reason="", source="test"
        )

        async def die(name: str) -> None:
            if name == "config.after_send":
                raise RuntimeError("killed")

        with monkeypatch.context() as patched:
            patched.setattr(failpoints, "reached", die)
            with pytest.raises(RuntimeError):
                await publish_changes(engine, producer)
        assert await publish_changes(engine, producer) == 1
        assert await publish_changes(engine, producer) == 0
        events = await watcher.until(lambda events: len(events) >= 2)
    assert len({event.id for event in events}) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["set", "s", "--param", "fast=1"],
            ["parameters.fast", "greater than or equal to 2", "you gave 1", "default 9"],
        ),
        (["set", "s", "--param", "fats=3"], ["parameters.fats", "parameters of Momentum", "fast", "slow"]),
        (["set", "s", "--param", "fast=50"], ["fast (50) must be smaller than slow (3)"]),
        (["set", "s", "--param", "fast"], ["NAME=VALUE"]),
        (["set", "s", "--add-instrument", "NSE:NOPE"], ["instruments", "NSE:NOPE"]),
        (["set", "s", "--product", "XYZ", "--age-limit", "-1"], ["product", "MIS", "age_limit_s", "greater than 0"]),
        (["set", "s", "--capital", "lots"], ["--capital", "rupees"]),
        (["set", "s", "--unset", "cooldown_s"], ["has no cooldown_s"]),
        (["set", "nobody", "--param", "fast=3"], ["no strategy 'nobody'", "There are: s"]),
        (["opt-in", "s", "--target", "local", "--yes"], ["--by"]),
    ],
)
async def test_a_bad_change_names_the_field_and_the_fix_and_changes_nothing(
    settings: Settings, world: World, engine: AsyncEngine, arguments: list[str], says: list[str]
) -> None:
    await world.reset(make_row())
    ran = await run("strategies", *arguments)
    assert ran.exit_code == 1
    assert [word for word in says if word not in ran.stderr] == []
    assert await row_of(engine, "s") == make_row()
    assert await recorded(engine) == []


async def test_an_opt_in_is_typed_and_versioned_and_taken_back(
    settings: Settings, world: World, engine: AsyncEngine
) -> None:
    await world.reset(make_row())
    command = ["strategies", "opt-in", "s", "--target", "local"]
    assert (await typed("production\n", *command)).exit_code == 1
    assert await recorded(engine) == []
    assert (await typed("local\n", *command)).exit_code == 0
    assert (await row_of(engine, "s")).opt_ins == {"zerodha": "local"}
    again = json.loads((await well("opt-in", "s", "--target", "local", "--yes", "--by", "robot", "--json")).stdout)
    assert (again["changed"], (await row_of(engine, "s")).version) == (False, 2)
    out = json.loads((await well("opt-out", "s", "--json")).stdout)
    assert (out["changed"], out["announced"], out["version"], out["opt_ins"]) == (True, True, 3, {})


async def typed(text: str, *arguments: str) -> Ran:
    """As `run`, with a person at the keyboard."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", *arguments, cwd=PROJECT_ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(text.encode()), 60)
    return Ran(process.returncode or 0, stdout.decode(), stderr.decode())


async def test_the_feed_subscribes_a_new_instrument_and_leaves_an_old_one(
    settings: Settings, engine: AsyncEngine, tmp_path: Path
) -> None:
    await add_strategy(settings, "feed-test", "NSE:WIPRO")
    async with engine.begin() as connection:  # a class that exists: the command checks it
        await connection.execute(table_of(StrategyRow).update().values(class_name="Momentum"))
    with start_sandbox(settings, tmp_path / "sandbox"):
        async with Watch(settings, topics.MARKET_TICKS) as watch, feeding(settings):
            await until(lambda: watch.of("tick", WIPRO), "the old instrument")
            await well("set", "feed-test", "--add-instrument", "NSE:TITAN", "--remove-instrument", "NSE:WIPRO")
            await until(lambda: watch.of("tick", TITAN), "ticks of the new instrument", 8)
    await forget_strategies(settings, "feed-test")


async def test_risk_denies_the_entries_of_a_paused_strategy_at_once(settings: Settings, engine: AsyncEngine) -> None:
    strategy_id = f"t{uuid4().hex[:10]}"
    async with risk_world.world(settings) as market:
        await market.strategy(strategy_id)
        await _paused_while_running(settings, market, strategy_id)
        await market.forget(strategy_id)


async def _paused_while_running(settings: Settings, market: risk_world.World, strategy_id: str) -> None:
    async with risk_world.running(settings):
        first = risk_world.make_signal(strategy_id, PAPER, quantity=1)
        await market.send(first, PAPER)
        assert await market.codes(first) == []
        await well("pause", strategy_id)

        async def codes() -> list[str]:
            signal = risk_world.make_signal(strategy_id, PAPER, quantity=1)
            await market.send(signal, PAPER)
            return await market.codes(signal)

        await eventually(codes, lambda seen: "STRATEGY_INACTIVE" in seen, within_s=10)
