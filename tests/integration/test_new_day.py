"""06:00 IST while everything runs: the new day's dump gives a name another token, and runner and feed follow it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from core.brokers import kite_http
from core.clock import trading_day, utc_now
from core.config import Settings
from core.events import topics
from core.events.topics import MARKET_TICKS
from core.messaging.producer import EventProducer
from core.storage.db import config_engine
from core.storage.instruments import has_book, store_book
from core.storage.models import InstrumentRow, table_of
from core.trading.instruments import Instrument
from core.trading.types import Broker
from streams import feed_day, market_feed, strategy_runner
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
from tests.integration.test_strategy_runner import FALL_AND_RISE, NAME, Tape
from tests.strategy_world import INFY, make_instrument, make_row

pytestmark = [pytest.mark.stack]

TOMORROW = trading_day(utc_now()) + timedelta(days=1)
NEW_INFY = 4_080_650


@pytest.fixture
async def world(settings: Settings, stack: Settings) -> AsyncIterator[World]:
    engine = config_engine(settings)
    producer = EventProducer(settings, client_id="test")
    await producer.start()
    await forget_tomorrow(World(settings, engine, producer))
    yield World(settings, engine, producer)
    await forget_tomorrow(World(settings, engine, producer))
    await producer.stop()
    await engine.dispose()


async def forget_tomorrow(world: World) -> None:
    table = table_of(InstrumentRow)
    async with world.engine.begin() as connection:
        await connection.execute(delete(table).where(table.c.trading_day == TOMORROW))


def turn_the_day(patched: pytest.MonkeyPatch, *modules: Any) -> None:
    """From now on these modules see the next trading day."""

    def tomorrow(_: object) -> date:
        return TOMORROW

    for module in modules:
        patched.setattr(module, "trading_day", tomorrow)


async def test_the_runner_waits_for_the_new_dump_and_then_decides_by_the_new_token(
    settings: Settings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy_runner, "DAY_CHECK_S", 0.2)
    await world.reset(make_row())
    async with (
        watching(settings, topics.signals_raw(Broker.PAPER)) as watcher,
        running(NAME, strategy_runner.main, settings, tmp_path) as ctx,
    ):

        def waits() -> bool:
            return any("instruments" in f"{part} {reason}" for part, reason in ctx.health._parts.items() if reason)

        turn_the_day(monkeypatch, strategy_runner)
        await eventually(waits, within_s=15)
        await store_book(world.engine, settings.kite_target, TOMORROW, [make_instrument("NSE:INFY", NEW_INFY)])
        await eventually(waits, lambda waiting: not waiting, within_s=15)
        await world.tick(*Tape().ticks(*FALL_AND_RISE, token=INFY))
        await world.tick(*Tape().ticks(*FALL_AND_RISE, token=NEW_INFY))
        await watcher.until(lambda events: len(events) >= 1)
        await watcher.drain()
    assert [(signal.instrument, signal.instrument_token) for signal in watcher.signals] == [("NSE:INFY", NEW_INFY)]


async def test_the_feed_takes_the_new_dump_and_subscribes_the_new_token(
    settings: Settings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = kite_http.instruments

    async def renumbered(*arguments: Any) -> list[Instrument]:
        """The next day's dump: NSE:WIPRO has the token that NSE:TITAN had."""
        rows = [row for row in await taken(*arguments) if row.key != "NSE:TITAN"]
        return [row.model_copy(update={"instrument_token": TITAN}) if row.key == "NSE:WIPRO" else row for row in rows]

    monkeypatch.setattr(market_feed, "REVIEW_S", 0.3)
    await add_strategy(settings, "new-day", "NSE:WIPRO")
    try:
        with start_sandbox(settings, tmp_path / "sandbox"):
            async with Watch(settings, MARKET_TICKS) as watch, feeding(settings):
                await until(lambda: watch.of("tick", WIPRO), "today's token")
                assert not watch.of("tick", TITAN)
                monkeypatch.setattr(kite_http, "instruments", renumbered)
                turn_the_day(monkeypatch, feed_day)
                await until(lambda: watch.of("tick", TITAN), "ticks of the new token", 15)
        assert await has_book(world.engine, settings.kite_target, TOMORROW)
    finally:
        await forget_strategies(settings, "new-day")
