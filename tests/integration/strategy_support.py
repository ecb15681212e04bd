"""A strategy runner on the real stack: its own rows and instruments, ticks by hand, and what it published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import trading_day, utc_now
from core.config import Settings
from core.events import topics
from core.events.envelope import Envelope, EventType, decode, make
from core.events.payloads import ConfigChanged
from core.ids import derive_at, new_id
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.messaging.records import Record
from core.storage.instruments import store_book
from core.storage.models import CheckpointRow, SharedLeaseRow, StrategyRow, table_of
from core.storage.strategies import StrategyConfig, save_strategy
from core.trading.signals import Signal
from core.trading.ticks import Tick
from core.trading.types import Broker
from tests.strategy_world import BOOK


class World:
    """What a test drives: rows, ticks and changes in; signals out."""

    def __init__(self, settings: Settings, engine: AsyncEngine, producer: EventProducer) -> None:
        self.settings = settings
        self.engine = engine
        self.producer = producer

    async def reset(self, *rows: StrategyConfig) -> None:
        """Only these rows, today's instruments, no checkpoint and no lease."""
        async with self.engine.begin() as connection:
            await connection.execute(delete(table_of(StrategyRow)))
            await connection.execute(delete(table_of(CheckpointRow)).where(CheckpointRow.name == "strategy-runner"))
            await connection.execute(delete(table_of(SharedLeaseRow)).where(SharedLeaseRow.name == "strategy-runner"))
        await store_book(self.engine, self.settings.kite_target, trading_day(utc_now()), BOOK.all())
        for row in rows:
            await save_strategy(self.engine, row)

    async def tick(self, *ticks: Tick) -> None:
        await self.producer.send_many([(topics.MARKET_TICKS, tick_event(tick)) for tick in ticks])

    async def change(self, row: StrategyConfig) -> StrategyConfig:
        """Save a row under its next version and announce it, as the API does."""
        stored = await save_strategy(self.engine, row)
        changed = ConfigChanged(
            strategy_id=stored.strategy_id, version=stored.version, changed_by="test", row=stored.as_row()
        )
        identity = new_id()
        event = make(
            EventType.CONFIG_CHANGED,
            changed,
            id=identity,
            key=stored.strategy_id,
            source="test",
            correlation_id=identity,
        )
        await self.producer.send(topics.CONFIG_CHANGES, event)
        return stored


def tick_event(tick: Tick) -> Envelope:
    identity = derive_at(tick.exchange_ts, "tick", tick.instrument_token, tick.received_at, tick.last_price)
    key = str(tick.instrument_token)
    return make(EventType.TICK, tick, id=identity, key=key, source="test", correlation_id=identity)


class Watcher:
    """Everything published to some topics since it began to watch."""

    def __init__(self, settings: Settings, names: Iterable[str]) -> None:
        self._reader = LogReader(settings, client_id="watcher", topics=list(names))
        self.events: list[Envelope] = []

    async def start(self) -> None:
        await self._reader.start("latest")

    async def stop(self) -> None:
        await self._reader.stop()

    async def until(self, holds: Callable[[list[Envelope]], Any], within_s: float = 20.0) -> list[Envelope]:
        """Read until it holds; fails with what was seen."""
        deadline = asyncio.get_running_loop().time() + within_s
        while not holds(self.events):
            assert asyncio.get_running_loop().time() < deadline, f"not within {within_s} s; seen: {self.events!r}"
            self.events += [decode(record.value) for record in await self._reader.read(0.2)]
        return self.events

    async def drain(self) -> list[Envelope]:
        """What has arrived by now."""
        while records := await self._reader.read(0.5):
            self.events += [decode(record.value) for record in records]
        return self.events

    @property
    def signals(self) -> list[Signal]:
        return [event.data for event in self.events if isinstance(event.data, Signal)]


@asynccontextmanager
async def watching(settings: Settings, *names: str) -> AsyncIterator[Watcher]:
    watcher = Watcher(settings, names)
    await watcher.start()
    try:
        yield watcher
    finally:
        await watcher.stop()


class Reading:
    """Raw records that arrive on one topic while the block lasts."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._reader = LogReader(settings, client_id="reading", topics=[name])
        self._records: list[Record] = []

    async def __aenter__(self) -> Reading:
        await self._reader.start("latest")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.stop()

    async def until(self, count: int, within_s: float = 20.0) -> list[Record]:
        deadline = asyncio.get_running_loop().time() + within_s
        while len(self._records) < count:
            assert asyncio.get_running_loop().time() < deadline, f"{len(self._records)} of {count} records came"
            self._records += await self._reader.read(0.2)
        return self._records


def raw(*brokers: Broker) -> list[str]:
    return [topics.signals_raw(broker) for broker in brokers or tuple(Broker)]
