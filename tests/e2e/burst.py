"""Many signals at once for one broker, and what came of each: shared by the end-to-end test of limits and its benchmark."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from core import ids
from core.clock import utc_now
from core.events import topics
from core.events.envelope import EventType, make
from core.messaging.producer import EventProducer
from core.storage.db import admin_url
from core.storage.strategies import StrategyConfig
from core.trading.signals import Signal, instance_name
from core.trading.types import Broker, Exchange, Intent, KiteTarget, OrderType, Product, Side, Validity
from tests.e2e.trading import Market
from tests.fixtures.system import System

STRATEGY = "by-signal"


@contextmanager
def ticking(name: str, prices: dict[str, Decimal], **values: str) -> Iterator[System]:
    """A system whose one strategy is silent, with these instruments ticking. Old ticks are good enough for its risk rules:
    on a busy machine, or with the feed away, entries are to reach the broker's queue all the same."""
    system = System.make(name, [silent(*prices)], **values)
    try:
        asyncio.run(_let_ticks_be_old(system))
        system.up()
        with ExitStack() as markets:
            for instrument, price in prices.items():
                markets.enter_context(Market(system, instrument, price))
            for instrument in prices:
                hold(system, instrument, 1)
            yield system
    finally:
        system.end()


async def _let_ticks_be_old(system: System) -> None:
    engine = create_async_engine(admin_url(system.settings))
    statement = "UPDATE config.risk_limits SET limits = limits || '{\"max_tick_age_s\": 600}' WHERE scope = 'strategy'"
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


def hold(system: System, instrument: str, quantity: int) -> None:
    """Buy so much at the market and wait for the fill. Tried again while no tick has come yet: risk denies without a price."""
    for _ in range(60):
        bought = fire(system, signals(system, [instrument], 1, quantity=quantity))
        decided(system, bought)
        if orders_of(system, bought):
            ended(system, bought, {"FILLED"})
            return
    raise AssertionError(f"risk denies every entry in {instrument}")


def decided(system: System, signal_ids: Sequence[UUID], seconds: float = 120) -> list[dict[str, Any]]:
    """Wait until risk has decided on each of these signals; the orders they became. It denies what is too old, or in doubt."""
    query = "SELECT count(*) AS n FROM zerodha.risk_decisions WHERE signal_id = ANY(:ids)"

    def missing() -> int:
        return len(signal_ids) - int(system.sql(query, ids=list(signal_ids))[0]["n"])

    system.wait(lambda: not missing(), f"{len(signal_ids)} decisions", seconds, missing)
    return orders_of(system, signal_ids)


def ended(system: System, signal_ids: Sequence[UUID], wanted: set[str], seconds: float = 240) -> None:
    """Until each of these orders has ended, in one of these states."""

    def rows() -> list[tuple[Any, ...]]:
        return [(row["status"], row["state"], row["reason"]) for row in orders_of(system, signal_ids)]

    def all_there() -> bool:
        found = rows()
        return len(found) == len(signal_ids) and all(row[0] in wanted for row in found)

    system.wait(all_there, f"{len(signal_ids)} orders to be {wanted}", seconds, rows)


def silent(*instruments: str) -> StrategyConfig:
    """A strategy that is never warm: only the test's own signals count."""
    parameters = {"bar_s": 3600, "fast": 199, "slow": 200, "quantity": 1}
    opt_ins = {Broker.ZERODHA.value: KiteTarget.LOCAL.value}
    rich = Decimal(100_000_000)
    return StrategyConfig(STRATEGY, "Momentum", parameters, instruments, True, opt_ins=opt_ins, capital=rich)


def signals(
    system: System,
    instruments: Sequence[str],
    count: int,
    *,
    broker: Broker = Broker.ZERODHA,
    intent: Intent = Intent.ENTRY,
    quantity: int = 1,
    age_limit_s: float = 600.0,
) -> list[Signal]:
    """Market orders over these instruments in turn, begun now: entries buy, exits sell."""
    rows = system.sql("SELECT instrument_key, instrument_token FROM config.instruments")
    tokens = {row["instrument_key"]: row["instrument_token"] for row in rows}
    return [
        _signal(instruments[n % len(instruments)], tokens, broker, intent, quantity, age_limit_s) for n in range(count)
    ]


def _signal(
    instrument: str, tokens: dict[str, int], broker: Broker, intent: Intent, quantity: int, age_limit_s: float
) -> Signal:
    exchange, symbol = instrument.split(":")
    return Signal(
        signal_id=ids.new_id(), strategy_id=STRATEGY, instance=instance_name(STRATEGY, broker), strategy_version=1,
        instrument=instrument, instrument_token=tokens[instrument], exchange=Exchange(exchange), tradingsymbol=symbol,
        side=Side.BUY if intent is Intent.ENTRY else Side.SELL, intent=intent, quantity=quantity,
        order_type=OrderType.MARKET, product=Product.MIS, validity=Validity.DAY, slot=str(ids.new_id()),
        origin_at=utc_now(), age_limit_s=age_limit_s, source="test",
    )  # fmt: skip


def fire(system: System, wanted: Sequence[Signal], broker: Broker = Broker.ZERODHA) -> list[UUID]:
    """Publish all at once, as the strategy runner would; returns their ids."""

    async def send() -> None:
        producer = EventProducer(system.settings, client_id="burst")
        await producer.start()
        try:
            await asyncio.gather(*(producer.send(topics.signals_raw(broker), _raw(one, broker)) for one in wanted))
        finally:
            await producer.stop()

    asyncio.run(send())
    return [signal.signal_id for signal in wanted]


def _raw(signal: Signal, broker: Broker) -> Any:
    return make(
        EventType.SIGNAL_RAW, signal, id=signal.signal_id, key=f"{signal.instance}:{signal.instrument}", source="test",
        correlation_id=signal.signal_id, broker=broker,
    )  # fmt: skip


def orders_of(system: System, signal_ids: Sequence[UUID], broker: Broker = Broker.ZERODHA) -> list[dict[str, Any]]:
    """The orders these signals became, with their send's tag, state and answer; fewer than signals while risk decides."""
    query = (
        f"SELECT o.*, s.tag, s.state, s.answer, s.claimed_at FROM {broker}.orders o "
        f"JOIN {broker}.sends s USING (order_id, send_no) WHERE o.signal_id = ANY(:ids)"
    )
    return system.sql(query, ids=list(signal_ids))


def arrivals(system: System) -> dict[str, datetime]:
    """Tag → when the sandbox took the order."""
    return {row["tag"]: datetime.fromisoformat(row["accepted_at"]) for row in system.admin("ledger")}


def to_broker_s(system: System, signal_ids: Sequence[UUID]) -> list[float]:
    """Seconds from each signal's making to its arrival at the broker, of those that arrived; host clock at both ends."""
    arrived = arrivals(system)
    return [
        (arrived[row["tag"]] - row["origin_at"]).total_seconds()
        for row in orders_of(system, signal_ids)
        if row["tag"] in arrived
    ]
