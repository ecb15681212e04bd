"""The strategy runner on the real log, database and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from core.clock import utc_now
from core.config import Settings
from core.errors import StopTheStart
from core.events import topics
from core.messaging.producer import EventProducer
from core.storage import redis
from core.storage.db import config_engine
from core.trading.ticks import Tick
from core.trading.types import Broker, Side
from streams.runner_status import read
from streams.strategy_runner import main
from tests.integration.portfolio_support import eventually, running
from tests.integration.strategy_support import World, raw, watching
from tests.strategy_world import INFY, PAPER_AND_ZERODHA, TCS, make_row

pytestmark = [pytest.mark.stack]

NAME = "strategy-runner"


class Tape:
    """Ticks of now, one a bar of 5 s, however fast they are written."""

    def __init__(self) -> None:
        self.at = utc_now().replace(microsecond=0)

    def ticks(self, *prices: float, token: int = INFY) -> list[Tick]:
        rows = []
        for price in prices:
            self.at += timedelta(seconds=5)
            rows.append(
                Tick(instrument_token=token, last_price=str(price), exchange_ts=self.at, received_at=utc_now())  # type: ignore[arg-type]
            )
        return rows


FALL_AND_RISE = (100, 99, 98, 97, 96, 103, 104)
"""With EMA 2 and 3 the bar of 103 crosses up; the tick of 104 closes it."""


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    engine = config_engine(settings)
    producer = EventProducer(settings, client_id="test")
    await producer.start()
    yield World(settings, engine, producer)
    await producer.stop()
    await engine.dispose()


async def test_ticks_become_a_signal_of_each_opted_in_broker(settings: Settings, world: World, tmp_path: Path) -> None:
    await world.reset(make_row(opt_ins=PAPER_AND_ZERODHA), make_row(strategy_id="paper-only", instruments=("NSE:TCS",)))
    async with watching(settings, *raw()) as watcher, running(NAME, main, settings, tmp_path):
        tape = Tape()
        ticks = tape.ticks(*FALL_AND_RISE)
        await world.tick(*ticks)
        await world.tick(*tape.ticks(*FALL_AND_RISE, token=TCS))
        await watcher.until(lambda events: len(events) >= 3)
        await watcher.drain()
    by_instance = {signal.instance: signal for signal in watcher.signals}
    assert sorted(by_instance) == ["paper-only@paper", "s@paper", "s@zerodha"]
    assert len(watcher.signals) == 3
    paper, zerodha = by_instance["s@paper"], by_instance["s@zerodha"]
    assert paper.signal_id != zerodha.signal_id
    assert (paper.side, paper.quantity, paper.slot) == (zerodha.side, zerodha.quantity, zerodha.slot)
    assert paper.side is Side.BUY
    assert paper.origin_at == ticks[-1].received_at
    event = next(event for event in watcher.events if event.id == paper.signal_id)
    assert event.key == "s@paper:NSE:INFY"
    assert event.broker is Broker.PAPER
    assert event.correlation_id == event.causation_id


async def test_a_bad_row_stops_the_start_naming_row_and_field(settings: Settings, world: World, tmp_path: Path) -> None:
    await world.reset(make_row(class_name="Nonsense"), make_row(strategy_id="t", instruments=("NSE:NOPE",)))
    with pytest.raises(StopTheStart) as stopped:
        async with running(NAME, main, settings, tmp_path):
            pass
    assert "s: class_name" in str(stopped.value)
    assert "t: instruments: 'NSE:NOPE'" in str(stopped.value)


async def test_a_restart_goes_on_where_it_stood(settings: Settings, world: World, tmp_path: Path) -> None:
    await world.reset(make_row())
    tape = Tape()
    ticks = tape.ticks(*FALL_AND_RISE)
    async with watching(settings, *raw(Broker.PAPER)) as watcher:
        async with running(NAME, main, settings, tmp_path):
            await world.tick(*ticks[:4])
        await world.tick(*ticks[4:])  # written while nobody runs
        async with running(NAME, main, settings, tmp_path):
            await watcher.until(lambda events: len(events) >= 1)
    assert [signal.side for signal in watcher.signals] == [Side.BUY]


async def test_status_shows_what_runs_and_why_not(settings: Settings, world: World, tmp_path: Path) -> None:
    await world.reset(
        make_row(opt_ins={"zerodha": "production"}), make_row(strategy_id="off", active=False, class_name="Whatever")
    )
    connection = redis.client(settings)
    async with running(NAME, main, settings, tmp_path):
        rows = await eventually(lambda: read(connection, Broker.PAPER), within_s=10)
        state = {row["instance"]: (row["state"], row["reason"]) for row in rows}
        assert state["s@paper"] == ("warming", "NSE:INFY has 0 of 4 bars")
        assert state["off@paper"] == ("inactive", "the strategy is switched off")
        (other,) = await read(connection, Broker.ZERODHA)
        assert other["state"] == "inactive"
        assert "production" in other["reason"]
    await connection.aclose()


async def test_a_change_takes_effect_without_a_restart(settings: Settings, world: World, tmp_path: Path) -> None:
    await world.reset(make_row(active=False))
    connection = redis.client(settings)
    async with watching(settings, *raw(Broker.PAPER)) as watcher, running(NAME, main, settings, tmp_path):
        changed = await world.change(make_row())

        async def version() -> int | None:
            rows = [row for row in await read(connection, Broker.PAPER) if row["state"] != "inactive"]
            return rows[0]["version"] if rows else None

        await eventually(version, lambda seen: seen == changed.version, within_s=10)
        await world.tick(*Tape().ticks(*FALL_AND_RISE))
        await watcher.until(lambda events: len(events) >= 1)
        assert watcher.signals[0].strategy_version == changed.version
        await world.change(make_row(parameters={"bar_s": 5, "fast": 9, "slow": 3}))

        async def reason() -> str:
            (row,) = await read(connection, Broker.PAPER)
            return f"{row['state']}: {row['reason']}"

        await eventually(reason, lambda text: text.startswith("failed: parameters"), within_s=10)
    await connection.aclose()


async def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(settings: Settings, world: World, tmp_path: Path) -> None:
    await world.reset(make_row())
    ticks = Tape().ticks(*FALL_AND_RISE)
    dead = topics.dlq(topics.MARKET_TICKS)
    async with watching(settings, *raw(Broker.PAPER)) as watcher, running(NAME, main, settings, tmp_path):
        await world.tick(*ticks[:3])
        await world.producer.send_raw(topics.MARKET_TICKS, key=str(INFY).encode(), value=b"not JSON", headers=[])
        await world.tick(*ticks[3:])
        await watcher.until(lambda events: len(events) >= 1)
    assert dead.endswith("dlq")
