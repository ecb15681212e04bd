"""Builders for tests of the risk manager: instruments, ticks, strategies, limits, signals, and what came of them.

Each test takes a strategy id of its own, so that what one test holds or has working is not another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from core import ids, logging, routing
from core.clock import trading_day, utc_now
from core.config import Settings
from core.events import topics
from core.events.envelope import Envelope, EventType, decode, make
from core.health import HealthReporter
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.messaging.records import Record
from core.service import ServiceContext
from core.storage.db import broker_engine, config_engine
from core.storage.instruments import store_book
from core.storage.models import OrderRow, RiskDecisionRow, RiskLimitsRow, SendRow, StrategyRow, table_of
from core.trading.instruments import Instrument
from core.trading.signals import Signal, instance_name
from core.trading.ticks import Tick
from core.trading.types import Broker, Exchange, Intent, OrderType, Product, Side, Validity
from streams import risk_manager

ORDERS, DECISIONS, SENDS = table_of(OrderRow), table_of(RiskDecisionRow), table_of(SendRow)
STRATEGIES, LIMITS = table_of(StrategyRow), table_of(RiskLimitsRow)

INFY = Instrument(
    instrument_token=408065,
    exchange_token=1594,
    tradingsymbol="INFY",
    name="INFOSYS",
    exchange=Exchange.NSE,
    segment="NSE",
    instrument_type="EQ",
    tick_size=Decimal("0.05"),
    lot_size=1,
)
PRICE = Decimal("1500.00")
WAIT_S = 30.0


def make_signal(strategy_id: str, broker: Broker, **changes: Any) -> Signal:
    fields: dict[str, Any] = {
        "signal_id": ids.new_id(),
        "strategy_id": strategy_id,
        "instance": instance_name(strategy_id, broker),
        "strategy_version": 1,
        "instrument": INFY.key,
        "instrument_token": INFY.instrument_token,
        "exchange": INFY.exchange,
        "tradingsymbol": INFY.tradingsymbol,
        "side": Side.BUY,
        "intent": Intent.ENTRY,
        "quantity": 10,
        "order_type": OrderType.MARKET,
        "product": Product.MIS,
        "validity": Validity.DAY,
        "slot": str(ids.new_id()),
        "origin_at": utc_now(),
        "age_limit_s": 5.0,
    }
    return Signal(**(fields | changes))


def wrap(signal: Signal, broker: Broker | None) -> Envelope:
    return make(
        EventType.SIGNAL_RAW,
        signal,
        id=signal.signal_id,
        key=f"{signal.instance}:{signal.instrument_token}",
        source="test",
        correlation_id=ids.derive(signal.signal_id, "tick"),
        broker=broker,
    )


async def until(condition: Callable[[], bool], what: str, seconds: float = WAIT_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:.0f} s"
        await asyncio.sleep(0.02)


@dataclass
class World:
    """What a test does to the risk manager and sees of it."""

    settings: Settings
    producer: EventProducer
    config: AsyncEngine
    journals: dict[Broker, AsyncEngine]
    seen: dict[UUID, list[Record]] = field(default_factory=dict)

    # giving -------------------------------------------------------------------------------------------------

    async def tick(self, price: Decimal = PRICE) -> None:
        now = utc_now()
        tick = Tick(instrument_token=INFY.instrument_token, last_price=price, exchange_ts=now, received_at=now)
        identity = ids.new_id()
        event = make(
            EventType.TICK, tick, id=identity, key=str(INFY.instrument_token), source="test", correlation_id=identity
        )
        await self.producer.send(topics.MARKET_TICKS, event)

    async def strategy(self, strategy_id: str, *, opted_in: bool = True, active: bool = True, **limits: Any) -> None:
        """A strategy row and its limits; the cooldown is off unless the test sets one."""
        opt_ins = {
            broker.value: routing.target(self.settings, broker)
            for broker in self.settings.active_brokers
            if opted_in and broker is not Broker.PAPER
        }
        row = {
            "strategy_id": strategy_id,
            "class_name": "Test",
            "parameters": {},
            "instruments": [INFY.key],
            "active": active,
            "opt_ins": opt_ins,
        }
        async with self.config.begin() as connection:
            await connection.execute(insert(STRATEGIES).values(**row))
        await self.limits("strategy", strategy_id, {"cooldown_s": 0, "max_tick_age_s": 600} | limits)

    async def limits(self, scope: str, name: str, limits: dict[str, Any]) -> None:
        async with self.config.begin() as connection:
            statement = upsert(LIMITS).values(scope=scope, name=name, limits=limits)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["scope", "name"], set_={"limits": limits})
            )

    async def forget(self, *strategy_ids: str) -> None:
        """Remove what a test configured."""
        async with self.config.begin() as connection:
            await connection.execute(delete(STRATEGIES).where(STRATEGIES.c.strategy_id.in_(strategy_ids)))
            await connection.execute(delete(LIMITS).where(LIMITS.c.name.in_(strategy_ids)))

    async def send(self, signal: Signal, broker: Broker, envelope: Envelope | None = None) -> None:
        await self.producer.send(topics.signals_raw(broker), envelope or wrap(signal, broker))

    # seeing -------------------------------------------------------------------------------------------------

    async def follow(self, ready: asyncio.Event) -> None:
        """Collect decisions by signal until cancelled."""
        names = [
            name(broker)
            for broker in self.settings.active_brokers
            for name in (topics.signals_validated, topics.signals_rejected)
        ]
        reader = LogReader(self.settings, client_id="test-decisions", topics=names)
        await reader.start("latest")
        ready.set()
        try:
            while True:
                for record in await reader.read(0.2):
                    signal_id = decode(record.value).data.signal.signal_id
                    self.seen.setdefault(signal_id, []).append(record)
        finally:
            await reader.stop()

    async def decided(self, signal: Signal, times: int = 1) -> list[Record]:
        await until(
            lambda: len(self.seen.get(signal.signal_id, ())) >= times, f"decision {times} on {signal.signal_id}"
        )
        return self.seen[signal.signal_id]

    async def codes(self, signal: Signal) -> list[str]:
        """Empty when it was accepted, else the deny codes."""
        record = (await self.decided(signal))[0]
        data = decode(record.value).data
        return [denial.code for denial in getattr(data, "denials", ())]

    async def rows(self, broker: Broker, signal: Signal) -> tuple[int, int, int]:
        """How many decisions, orders and sends the journal holds for a signal."""
        of_signal = select(ORDERS.c.order_id).where(ORDERS.c.signal_id == signal.signal_id)
        counts = (
            select(func.count()).select_from(DECISIONS).where(DECISIONS.c.signal_id == signal.signal_id),
            select(func.count()).select_from(ORDERS).where(ORDERS.c.signal_id == signal.signal_id),
            select(func.count()).select_from(SENDS).where(SENDS.c.order_id.in_(of_signal)),
        )
        async with self.journals[broker].connect() as connection:
            first, second, third = [await connection.scalar(count) or 0 for count in counts]
        return first, second, third

    async def order(self, broker: Broker, signal: Signal) -> dict[str, Any]:
        async with self.journals[broker].connect() as connection:
            found = await connection.execute(select(ORDERS).where(ORDERS.c.signal_id == signal.signal_id))
            return dict(found.mappings().one())


@contextlib.asynccontextmanager
async def world(settings: Settings) -> AsyncIterator[World]:
    """Today's instruments, wide account limits, one tick, and somebody who reads the decisions."""
    producer = EventProducer(settings, client_id="test-risk")
    await producer.start()
    config = config_engine(settings)
    journals = {broker: broker_engine(settings, broker) for broker in settings.active_brokers}
    made = World(settings, producer, config, journals)
    ready = asyncio.Event()
    follower = asyncio.create_task(made.follow(ready))
    try:
        await store_book(config, settings.kite_target, trading_day(utc_now()), [INFY])
        for broker in settings.active_brokers:
            wide = {
                "max_order_value": 10**9,
                "max_open_orders": 10**6,
                "max_trades_a_day": 10**6,
                "max_day_loss": 10**9,
            }
            await made.limits("account", broker.value, wide)
        await made.tick()
        await asyncio.wait({asyncio.ensure_future(ready.wait()), follower}, return_when=asyncio.FIRST_COMPLETED)
        yield made
    finally:
        await made.forget(*(broker.value for broker in settings.active_brokers))
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower
        await producer.stop()
        for engine in (config, *journals.values()):
            await engine.dispose()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[ServiceContext]:
    """The risk manager in this process, ready; stopped at the end."""
    context = ServiceContext(
        name="risk-manager",
        settings=settings,
        health=HealthReporter("risk-manager", settings.run_dir),
        stop=asyncio.Event(),
        log=logging.get("risk-manager"),
    )
    service = asyncio.create_task(risk_manager.main(context))
    try:
        await until(lambda: context.health.ready or service.done(), "the risk manager's start")
        if service.done():
            service.result()
        yield context
    finally:
        context.stop.set()
        await asyncio.wait_for(asyncio.shield(service), timeout=10)


def later(signal: Signal, seconds: float) -> Signal:
    """Another signal, begun this much later."""
    return signal.model_copy(
        update={
            "signal_id": ids.new_id(),
            "slot": str(ids.new_id()),
            "origin_at": signal.origin_at + timedelta(seconds=seconds),
        }
    )
