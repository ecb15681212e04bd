"""market-feed against the real sandbox, log and database: what it publishes, subscribes, survives and refuses."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import delete, insert

from core import ids
from core.brokers import kite_http
from core.brokers.zerodha_session import load_session
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import StopTheStart
from core.events.envelope import Envelope, EventType, make
from core.events.payloads import RECONNECTED, ConfigChanged, OrderUpdate
from core.events.topics import CONFIG_CHANGES, MARKET_TICKS, orders_updates
from core.messaging.producer import EventProducer
from core.routing import account
from core.storage.db import broker_engine, config_engine
from core.storage.instruments import load_book
from core.storage.models import PositionRow, table_of
from core.trading.ticks import Gap, Tick
from core.trading.types import Broker, OrderStatus
from streams import market_feed
from streams.feed_needs import Need, read_needs
from tests.integration.feed_world import (
    INFY,
    LT,
    NIFTY,
    TITAN,
    WIPRO,
    FeedProcess,
    Watch,
    Wire,
    add_strategy,
    context,
    feeding,
    forget_strategies,
    start_sandbox,
    until,
)
from tests.integration.sandbox_support import SandboxProcess
from tests.journal_world import JournalWorld

pytestmark = pytest.mark.stack

STRATEGY = "feed-test"


@pytest.fixture
def sandbox(settings: Settings, stack: Settings, tmp_path: Path) -> AsyncIterator[SandboxProcess]:
    with start_sandbox(settings, tmp_path / "sandbox") as process:
        yield process  # type: ignore[misc]


@pytest.fixture
async def strategy(stack: Settings, settings: Settings) -> AsyncIterator[str]:
    """An active strategy on two shares and the NIFTY 50 index."""
    await add_strategy(settings, STRATEGY, "NSE:INFY", "NSE:WIPRO", "NSE:NIFTY 50")
    yield STRATEGY
    await forget_strategies(settings, STRATEGY)


async def test_ticks_of_a_strategys_instruments_reach_the_log(
    settings: Settings, sandbox: SandboxProcess, strategy: str
) -> None:
    async with Watch(settings, MARKET_TICKS) as watch, feeding(settings):
        await until(lambda: min(len(watch.of("tick", token)) for token in (INFY, NIFTY)) >= 5, "ticks of both")
    shares, indices = watch.of("tick", INFY), watch.of("tick", NIFTY)
    for event in (*shares, *indices):
        assert isinstance(event.data, Tick)
        assert event.key == str(event.data.instrument_token)
        assert event.correlation_id == event.id
        assert ids.timestamp_ms(event.id) == int(event.data.exchange_ts.timestamp() * 1000)
        assert event.ts == event.data.received_at
    share, index = shares[-1].data, indices[-1].data
    assert isinstance(share, Tick)
    assert isinstance(index, Tick)
    assert len(share.bids) == len(share.asks) == 5
    assert share.bids[0].price < share.asks[0].price
    assert index.bids == ()


async def test_the_days_instruments_are_stored_for_everyone(
    settings: Settings, sandbox: SandboxProcess, strategy: str
) -> None:
    async with feeding(settings):
        engine = config_engine(settings)
        book = await load_book(engine, settings.kite_target, trading_day(utc_now()))
        named = await load_book(engine, settings.kite_target, trading_day(utc_now()), keys=["NSE:INFY"])
        await engine.dispose()
    found = book.by_key("NSE:INFY")
    assert found is not None
    assert found.instrument_token == INFY
    assert len(book) > 50
    assert [row.key for row in named.all()] == ["NSE:INFY"]


async def test_a_change_of_strategies_is_followed_at_once(
    settings: Settings, sandbox: SandboxProcess, strategy: str
) -> None:
    producer = EventProducer(settings, client_id="test")
    await producer.start()
    try:
        async with Watch(settings, MARKET_TICKS) as watch, feeding(settings):
            assert not watch.of("tick", TITAN)
            row = await add_strategy(settings, STRATEGY, "NSE:TITAN")
            change = ConfigChanged(strategy_id=STRATEGY, version=row.version, changed_by="test", row=row.as_row())
            identity = ids.new_id()
            event = make(
                EventType.CONFIG_CHANGED, change, id=identity, key=STRATEGY, source="test", correlation_id=identity
            )
            await until(lambda: watch.of("tick", WIPRO), "the old instrument")
            await producer.send(CONFIG_CHANGES, event)
            await until(lambda: watch.of("tick", TITAN), "ticks of the new instrument", 8)
            await _no_more(watch, WIPRO)
    finally:
        await producer.stop()


async def _no_more(watch: Watch, token: int) -> None:
    """Ticks of the others go on, this one's have ended."""
    for _ in range(3):
        before, others = len(watch.of("tick", token)), len(watch.events)
        await until(lambda others=others: len(watch.events) > others + 20, "ticks to go on")  # type: ignore[misc]
        if len(watch.of("tick", token)) == before:
            return
    raise AssertionError(f"{token} still ticks")


@pytest.mark.parametrize("broker", list(Broker))
async def test_an_instrument_we_hold_is_fed_whatever_strategies_say(
    settings: Settings, sandbox: SandboxProcess, strategy: str, broker: Broker
) -> None:
    table = table_of(PositionRow)
    engine = broker_engine(settings, broker)
    row = {
        "instance": f"gone@{broker}", "instrument_token": LT, "product": "MIS", "account": account(settings, broker),
        "instrument": "NSE:LT", "quantity": -5, "average_price": 800, "realized_pnl": 0, "charges": 0,
        "updated_at": utc_now(),
    }  # fmt: skip
    async with engine.begin() as connection:
        await connection.execute(insert(table).values(**row))
    try:
        async with Watch(settings, MARKET_TICKS) as watch, feeding(settings):
            await until(lambda: watch.of("tick", LT), "ticks of the held instrument")
    finally:
        async with engine.begin() as connection:
            await connection.execute(delete(table).where(table.c.instance == row["instance"]))
        await engine.dispose()


@pytest.mark.parametrize("broker", list(Broker))
async def test_the_instrument_of_an_open_order_is_needed_until_it_ends(
    settings: Settings, stack: Settings, broker: Broker
) -> None:
    config, engine = config_engine(settings), broker_engine(settings, broker)
    world = await JournalWorld.make(engine, broker)
    order_id = await world.order(instrument="NSE:OF-AN-ORDER")
    need = Need("NSE:OF-AN-ORDER", f"open orders of {broker}", False)
    try:
        assert need in await read_needs(config, {broker: engine})
        await world.journal.end_unsent(order_id, OrderStatus.CANCELLED, "a test")
        assert need not in await read_needs(config, {broker: engine})
    finally:
        await config.dispose()
        await engine.dispose()


async def test_order_frames_become_hints_keyed_by_the_brokers_order_id(
    settings: Settings, sandbox: SandboxProcess, strategy: str
) -> None:
    topic = orders_updates(Broker.ZERODHA)
    async with Watch(settings, topic) as watch, feeding(settings):
        session = load_session(settings)
        assert session is not None
        kite = kite_http.kite_client(settings, session)
        order_id = await asyncio.to_thread(
            kite.place_order, variety="regular", exchange="NSE", tradingsymbol="INFY", transaction_type="BUY",
            quantity=1, product="MIS", order_type="MARKET", market_protection=-1, tag="feedtest",
        )  # fmt: skip
        await until(lambda: [event for event in watch.events if event.key == order_id], "the update of our order")
    update = next(event for event in watch.events if event.key == order_id)
    assert isinstance(update.data, OrderUpdate)
    assert update.data.broker_order_id == update.key == order_id
    assert update.data.tag == "feedtest"
    assert update.data.source == "websocket"
    assert "checksum" not in update.data.raw
    assert update.broker is Broker.ZERODHA


def _ids_by_content(events: list[Envelope]) -> dict[str, set[UUID]]:
    """Everything a tick says but when we received it → the ids it was published under."""
    found: dict[str, set[UUID]] = defaultdict(set)
    for event in events:
        assert isinstance(event.data, Tick)
        found[event.data.model_copy(update={"received_at": event.data.exchange_ts}).model_dump_json()].add(event.id)
    return found


async def test_a_feed_killed_and_started_again_publishes_no_tick_under_two_ids(
    settings: Settings, sandbox: SandboxProcess, strategy: str, tmp_path: Path
) -> None:
    async with Watch(settings, MARKET_TICKS) as watch:
        with FeedProcess(tmp_path / "first.log") as first:
            await until(lambda: watch.of("tick", INFY), "the first feed's ticks", 30)
            sandbox.admin("POST", "pause")  # both feeds now get the same snapshots
            first.kill()
            killed = utc_now()
        with FeedProcess(tmp_path / "second.log") as second:
            await until(lambda: _after(watch.of("tick", INFY), killed), "the second feed's ticks", 40)
            await until(lambda: _after(watch.of("gap", INFY), killed), "the gap of the restart")
            assert second.stop() == 0
    ticks = watch.of("tick")
    assert all(len(found) == 1 for found in _ids_by_content(ticks).values())
    first_ids = {event.id for event in ticks if event.ts <= killed}
    assert first_ids & {event.id for event in _after(ticks, killed)}, "the paused market's snapshots were sent again"
    gap = _after(watch.of("gap", INFY), killed)[0].data
    assert isinstance(gap, Gap)
    assert gap.since <= killed <= gap.until


def _after(events: list[Envelope], moment: datetime) -> list[Envelope]:
    return [event for event in events if event.ts > moment]


def _interrupted(events: list[Envelope]) -> list[Envelope]:
    return [event for event in events if isinstance(event.data, OrderUpdate) and event.data.status == RECONNECTED]


async def test_a_silent_connection_is_dead_and_its_gap_is_announced(
    settings: Settings, sandbox: SandboxProcess, strategy: str
) -> None:
    async with Wire(settings.sandbox_port) as wire:
        through = settings.model_copy(update={"sandbox_port": wire.port})
        async with (
            Watch(settings, MARKET_TICKS) as watch,
            Watch(settings, orders_updates(Broker.ZERODHA)) as hints,
            feeding(through) as ctx,
        ):
            await until(lambda: watch.of("tick", INFY), "ticks")
            announced, said = len(watch.of("gap", INFY)), len(_interrupted(hints.events))
            wire.mute()
            await until(lambda: not ctx.health.ready, "the feed to notice")
            last = watch.of("tick", INFY)[-1].ts
            wire.unmute()
            await until(lambda: len(watch.of("gap", INFY)) > announced, "the gap")
            await until(lambda: len(_interrupted(hints.events)) > said, "the word that order updates may be lost")
            count = len(watch.of("tick", INFY))
            await until(lambda: len(watch.of("tick", INFY)) > count, "ticks after the gap")
            await until(lambda: ctx.health.ready, "the feed to be well")
    gap = watch.of("gap", INFY)[-1]
    assert isinstance(gap.data, Gap)
    assert gap.data.since >= last - timedelta(seconds=1)
    assert gap.data.until - gap.data.since > timedelta(seconds=4)
    assert gap.data.reason == "no frame for 5 s"
    assert watch.of("gap", NIFTY)


async def test_a_standby_takes_over_from_a_killed_feed(
    settings: Settings, sandbox: SandboxProcess, strategy: str, tmp_path: Path
) -> None:
    async with Watch(settings, MARKET_TICKS) as watch:
        with FeedProcess(tmp_path / "holder.log") as holder:
            await until(lambda: watch.of("tick", INFY), "the holder's ticks", 30)
            with FeedProcess(tmp_path / "standby.log") as standby:
                await until(lambda: standby.said("standing by"), "the standby", 30)
                assert not standby.said("lease taken")
                holder.kill()
                killed = utc_now()
                await until(lambda: [e for e in watch.of("tick", INFY) if e.ts > killed], "the standby's ticks", 30)
                assert standby.stop() == 0


async def test_a_session_that_dies_is_replaced_on_local(
    settings: Settings, sandbox: SandboxProcess, strategy: str
) -> None:
    async with Watch(settings, MARKET_TICKS) as watch, feeding(settings):
        await until(lambda: watch.of("tick", INFY), "ticks")
        session = load_session(settings)
        sandbox.admin("POST", "expire-token")
        expired = utc_now()
        await until(lambda: [e for e in watch.of("tick", INFY) if e.ts > expired + timedelta(seconds=1)], "ticks again")
        again = load_session(settings)
    assert session is not None
    assert again is not None
    assert session.access_token != again.access_token


async def test_an_instrument_that_does_not_exist_stops_the_start_and_names_the_strategy(
    settings: Settings, sandbox: SandboxProcess
) -> None:
    await add_strategy(settings, "feed-typo", "NSE:INFY", "NSE:INFOSYS")
    await add_strategy(settings, "feed-idle", "NSE:NOWHERE", active=False)
    try:
        with pytest.raises(StopTheStart) as stopped:
            await asyncio.wait_for(market_feed.main(context(settings)), 20)
    finally:
        await forget_strategies(settings, "feed-typo", "feed-idle")
    assert "strategy feed-typo: NSE:INFOSYS" in str(stopped.value)
    assert "NSE:INFY" not in str(stopped.value).splitlines()
    assert "feed-idle" not in str(stopped.value)


async def test_historical_candles_are_decimal_and_utc(
    settings: Settings, sandbox: SandboxProcess, strategy: str
) -> None:
    async with feeding(settings):
        session = load_session(settings)
        assert session is not None
        end = utc_now()
        found = await kite_http.candles(settings, session, INFY, "minute", end - timedelta(days=3), end)
        days = await kite_http.candles(settings, session, WIPRO, "day", end - timedelta(days=30), end)
    assert found
    assert days
    assert [candle.start for candle in found] == sorted({candle.start for candle in found})
    assert all(candle.start.utcoffset() == timedelta(0) for candle in found)
    assert all(candle.low <= candle.open <= candle.high for candle in found)
