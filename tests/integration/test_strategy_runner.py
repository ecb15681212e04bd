"""The strategy runner on the real log, database and Redis."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from core import health, logging
from core.clock import utc_now
from core.config import PROJECT_ROOT, Settings
from core.errors import StopTheStart, Transient
from core.events import topics
from core.events.envelope import Envelope, EventType
from core.events.payloads import Alert
from core.health import HealthReporter
from core.messaging.producer import EventProducer
from core.service import ServiceContext
from core.storage import redis
from core.storage.db import config_engine
from core.storage.strategies import StrategyConfig
from core.trading.bars import Bar
from core.trading.context import Context
from core.trading.signals import SignalSpec
from core.trading.ticks import Tick
from core.trading.types import Broker, Side
from strategies import registry
from strategies.base import BaseStrategy, Parameters
from streams.runner_engine import Engine
from streams.runner_status import read
from streams.strategy_runner import main
from tests.integration.portfolio_support import eventually, running
from tests.integration.strategy_support import Reading, World, raw, tick_event, watching
from tests.strategy_world import INFY, PAPER_AND_ZERODHA, TCS, make_plans, make_row

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


class Broken(BaseStrategy[Parameters]):
    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[SignalSpec]:
        raise RuntimeError("out of its depth")


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


async def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(
    settings: Settings, world: World, tmp_path: Path
) -> None:
    await world.reset(make_row())
    ticks = Tape().ticks(*FALL_AND_RISE)
    dead = Reading(settings, topics.dlq(topics.MARKET_TICKS))
    async with dead, watching(settings, *raw(Broker.PAPER)) as watcher, running(NAME, main, settings, tmp_path):
        await world.tick(*ticks[:3])
        await world.producer.send_raw(topics.MARKET_TICKS, key=str(INFY).encode(), value=b"not JSON", headers=[])
        await world.tick(*ticks[3:])
        await watcher.until(lambda events: len(events) >= 1)
        (record,) = await dead.until(1)
    assert record.value == b"not JSON"
    assert record.headers["dlq-stage"] == b"decode"


async def test_a_strategy_that_raises_is_alerted_and_shown_and_the_others_go_on(
    settings: Settings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {**registry.known(), "Broken": Broken}
    monkeypatch.setattr(registry, "known", lambda: classes)
    await world.reset(make_row(), make_row(strategy_id="broken", class_name="Broken", parameters={"bar_s": 5}))
    connection = redis.client(settings)
    async with (
        watching(settings, topics.ALERTS, *raw(Broker.PAPER)) as watcher,
        running(NAME, main, settings, tmp_path),
    ):
        await world.tick(*Tape().ticks(*FALL_AND_RISE))
        await watcher.until(lambda events: {event.type for event in events} >= {EventType.ALERT, EventType.SIGNAL_RAW})

        async def state() -> dict[str, str]:
            return {row["instance"]: row["state"] for row in await read(connection, Broker.PAPER)}

        await eventually(state, lambda seen: seen == {"broken@paper": "failed", "s@paper": "running"}, within_s=10)
    (alert,) = [event.data for event in watcher.events if isinstance(event.data, Alert)]
    assert alert.subject == "broken@paper"
    assert "out of its depth" in alert.message
    await connection.aclose()


async def test_one_brokers_stuck_log_does_not_hold_the_other(
    settings: Settings, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_many = EventProducer.send_many
    held = asyncio.Event()

    async def half_dead(self: EventProducer, items: Sequence[tuple[str, Envelope]]) -> None:
        if not held.is_set() and any(topic == topics.signals_raw(Broker.ZERODHA) for topic, _ in items):
            raise Transient("Kafka is away for one topic (test)")
        await send_many(self, items)

    monkeypatch.setattr(EventProducer, "send_many", half_dead)
    await world.reset(make_row(opt_ins=PAPER_AND_ZERODHA))
    async with watching(settings, *raw()) as watcher, running(NAME, main, settings, tmp_path) as ctx:
        await world.tick(*Tape().ticks(*FALL_AND_RISE))
        await watcher.until(lambda events: len(events) >= 1)
        await watcher.drain()
        assert [signal.instance for signal in watcher.signals] == ["s@paper"]
        assert not ctx.health.ready
        held.set()
        await watcher.until(lambda events: len(events) >= 2)
    assert sorted(signal.instance for signal in watcher.signals) == ["s@paper", "s@zerodha"]


async def test_a_second_runner_waits_as_standby_and_takes_over(
    settings: Settings, world: World, tmp_path: Path
) -> None:
    await world.reset(make_row())
    tape = Tape()
    ticks = tape.ticks(*FALL_AND_RISE)
    second = ServiceContext(
        NAME, settings, HealthReporter(NAME, tmp_path / "second"), asyncio.Event(), logging.get(NAME)
    )
    async with watching(settings, *raw(Broker.PAPER)) as watcher:
        async with running(NAME, main, settings, tmp_path):
            standby = asyncio.ensure_future(main(second))
            await eventually(lambda: _waits(second), within_s=10)
            await world.tick(*ticks[:4])
        await eventually(lambda: second.health.ready, within_s=15)
        await world.tick(*ticks[4:])
        await watcher.until(lambda events: len(events) >= 1)
        second.stop.set()
        await asyncio.wait_for(standby, 10)
    assert len(watcher.signals) == 1


def _waits(ctx: ServiceContext) -> bool:
    return bool(ctx.health._parts.get("lease"))


ZIGZAG = (100, 99, 98, 97, 103, 106, 101, 96, 92, 99, 105, 100, 95, 90, 98, 107)


@pytest.mark.parametrize(
    "failpoint", ["runner.before_publish=kill:1", "runner.after_publish=kill:1", "runner.before_checkpoint=kill:3"]
)
async def test_killed_anywhere_it_publishes_what_it_would_have_under_the_same_ids(
    settings: Settings, world: World, failpoint: str
) -> None:
    row = make_row(parameters={"bar_s": 5, "fast": 2, "slow": 3, "allow_short": True})
    await world.reset(row)
    tape = Tape()
    ticks = [tick for price in ZIGZAG for tick in tape.ticks(price)]
    for number, tick in enumerate(ticks):  # each a minute later: no answer comes, so each signal is given up in between
        ticks[number] = tick.model_copy(update={"received_at": tick.received_at + timedelta(minutes=number)})
    expected = expected_signals(row, ticks)
    assert len(expected) >= 3
    async with watching(settings, *raw(Broker.PAPER)) as watcher:
        async with service(failpoint) as dying:
            await eventually(lambda: is_ready(settings, dying.pid), within_s=60)
            for tick in ticks[:10]:
                await world.tick(tick)
            await asyncio.wait_for(dying.wait(), 30)
            assert dying.returncode == -signal.SIGKILL
        for tick in ticks[10:]:
            await world.tick(tick)
        async with service():
            await watcher.until(lambda events: {event.id for event in events} >= expected, within_s=60)
    assert {event.id for event in watcher.events} == expected


def expected_signals(row: StrategyConfig, ticks: Sequence[Tick]) -> set[UUID]:
    """What a runner nobody kills decides."""
    engine = Engine()
    engine.configure(make_plans(row))
    return {each.signal.signal_id for tick in ticks for each in engine.on_tick(tick, tick_event(tick).id)}


def is_ready(settings: Settings, pid: int) -> bool:
    found = health.read_all(settings.run_dir).get(NAME)
    return found is not None and found.ready and found.pid == pid


@asynccontextmanager
async def service(failpoints: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """The real process, stopped at the end."""
    command = PROJECT_ROOT / ".venv" / "bin" / "alpha-panda"
    environment = {**os.environ, "FAILPOINTS": failpoints}
    process = await asyncio.create_subprocess_exec(
        command, "service", NAME, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 15) == 0
