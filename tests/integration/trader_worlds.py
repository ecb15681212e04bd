"""Both brokers behind their traders, with a market the test sets: the paper exchange process, and the sandbox process."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Protocol

from core.brokers.kite_http import exchange_token
from core.brokers.paper import PaperTrader
from core.brokers.port import BookRow, PlaceRequest, Trade, Trader
from core.brokers.zerodha import ZerodhaTrader
from core.brokers.zerodha_session import write_session
from core.clock import utc_now
from core.config import Settings, load_settings
from core.events.envelope import EventType, make
from core.events.topics import MARKET_TICKS
from core.health import read_all
from core.ids import new_id, order_tag
from core.messaging.producer import EventProducer
from core.trading.ticks import Depth, Tick
from core.trading.types import Exchange, OrderType, Product, Side, Validity
from tests.integration.sandbox_support import API_KEY, API_SECRET, USER_ID, SandboxProcess

BOUND_S = 10.0
ROOT = Path(__file__).resolve().parents[2]

Levels = Sequence[tuple[str, int]]


class World(Protocol):
    """A trader and the market it trades in."""

    trader: Trader
    instrument_token: int

    async def market(self, last: str, *, bids: Levels = (), asks: Levels = ()) -> None: ...


def make_request(world: World, **changes: object) -> PlaceRequest:
    """BUY 10 INFY at market, intraday, changed as the test needs."""
    request = PlaceRequest(
        tag=order_tag(new_id(), 1),
        exchange=Exchange.NSE,
        tradingsymbol="INFY",
        instrument_token=world.instrument_token,
        instrument_type="EQ",
        tick_size=Decimal("0.10"),
        side=Side.BUY,
        quantity=10,
        order_type=OrderType.MARKET,
        product=Product.MIS,
        validity=Validity.DAY,
        price=None,
        trigger_price=None,
        deadline=time.monotonic() + BOUND_S,
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def limit(world: World, price: str, **changes: object) -> PlaceRequest:
    return make_request(world, order_type=OrderType.LIMIT, price=Decimal(price), **changes)


async def wait_row(world: World, order_id: str, what: Callable[[BookRow], bool], bound_s: float = BOUND_S) -> BookRow:
    """The order's row once it is as wanted; fails with what it was instead."""
    row: BookRow | None = None
    until = time.monotonic() + bound_s
    while time.monotonic() < until:
        row = (await world.trader.orders([order_id])).get(order_id)
        if row is not None and what(row):
            return row
        await asyncio.sleep(0.02)
    raise AssertionError(f"order {order_id} was not as wanted within {bound_s} s: {row}")


async def wait_status(world: World, order_id: str, status: str) -> BookRow:
    return await wait_row(world, order_id, lambda row: row.status == status)


async def trades_of(world: World, order_id: str) -> tuple[Trade, ...]:
    return (await world.trader.trades([order_id])).get(order_id, ())


# paper -------------------------------------------------------------------------------------------------------------

_RUN = """
from core import service
service.prepare("paper-exchange")
import streams.paper_exchange as module
service.run("paper-exchange", module.main)
"""


class ExchangeProcess:
    """The paper exchange as the process it is in real life."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = settings.var / "log" / "paper-exchange.test.log"

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "ALPHA_PANDA_HOME": str(self._settings.home), "PYTHONPATH": str(ROOT)}
        with self._log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", _RUN], env=environment, stdout=log, stderr=log)

    async def start(self) -> None:
        self.process = self._spawn()
        until = time.monotonic() + 30
        while not self._ready():
            assert self.process.poll() is None, f"the paper exchange ended: see {self._log}"
            assert time.monotonic() < until, f"the paper exchange is not ready: see {self._log}"
            await asyncio.sleep(0.05)

    def _ready(self) -> bool:
        health = read_all(self._settings.run_dir).get("paper-exchange")
        return health is not None and health.ready and health.pid == self.process.pid

    async def kill(self) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 12)


class PaperWorld:
    """Every world has an instrument of its own, so that tests share one exchange without meeting."""

    def __init__(
        self, settings: Settings, trader: PaperTrader, producer: EventProducer, exchange: ExchangeProcess
    ) -> None:
        self.settings = settings
        self.trader: Trader = trader
        self.producer = producer
        self.exchange = exchange
        self.instrument_token = random.randrange(1 << 24, 1 << 31)

    async def market(self, last: str, *, bids: Levels = (), asks: Levels = ()) -> None:
        await self.publish(self.tick(last, bids=bids, asks=asks))

    def tick(self, last: str, *, bids: Levels = (), asks: Levels = ()) -> Tick:
        now = utc_now()
        return Tick(
            instrument_token=self.instrument_token,
            last_price=Decimal(last),
            exchange_ts=now.replace(microsecond=0),
            received_at=now,
            bids=_depth(bids),
            asks=_depth(asks),
        )

    async def publish(self, tick: Tick, times: int = 1) -> None:
        tick_id = new_id()
        event = make(
            EventType.TICK, tick, id=tick_id, key=str(tick.instrument_token), source="test", correlation_id=tick_id
        )
        for _ in range(times):
            await self.producer.send_raw(
                MARKET_TICKS, key=event.key.encode(), value=event.encode(), headers=[*event.headers(), _nonce()]
            )

    async def settle(self) -> None:
        """An order placed before is in effect for ticks received from now on."""
        await asyncio.sleep(0.03)


def _nonce() -> tuple[str, bytes]:
    return ("nonce", new_id().bytes)


def _depth(levels: Levels) -> tuple[Depth, ...]:
    return tuple(Depth(price=Decimal(price), quantity=quantity) for price, quantity in levels)


@asynccontextmanager
async def paper_exchange(settings: Settings) -> AsyncIterator[ExchangeProcess]:
    exchange = ExchangeProcess(settings)
    await exchange.start()
    try:
        yield exchange
    finally:
        if exchange.process.poll() is None:
            await exchange.stop()


@asynccontextmanager
async def paper_world(settings: Settings, exchange: ExchangeProcess) -> AsyncIterator[PaperWorld]:
    trader, producer = PaperTrader(settings), EventProducer(settings, client_id="test")
    await trader.start()
    await producer.start()
    try:
        yield PaperWorld(settings, trader, producer, exchange)
    finally:
        await producer.stop()
        await trader.close()


# zerodha -----------------------------------------------------------------------------------------------------------


def zerodha_settings(env_file: Path, port: int) -> Settings:
    """The test's settings with Zerodha at this port; ALPHA_PANDA_HOME says where its session file is."""
    return load_settings(
        env_file, sandbox_port=port, kite_api_key=API_KEY, kite_api_secret=API_SECRET, kite_user_id=USER_ID
    )


class ZerodhaWorld:
    instrument_token = 408065

    def __init__(self, settings: Settings, trader: ZerodhaTrader, sandbox: SandboxProcess) -> None:
        self.settings = settings
        self.trader: Trader = trader
        self.sandbox = sandbox

    async def login(self) -> None:
        token = self.sandbox.admin("POST", "request-token")["request_token"]
        write_session(self.settings, await exchange_token(self.settings, token))

    async def market(self, last: str, *, bids: Levels = (), asks: Levels = ()) -> None:
        book = {
            name: [[float(price), quantity] for price, quantity in levels]
            for name, levels in (("bids", bids), ("asks", asks))
        }
        await asyncio.to_thread(self.sandbox.set_price, "NSE:INFY", float(last), **book)

    async def clean_up(self) -> None:
        for row in (await self.trader.book()).rows:
            if not row.is_end:
                await self.trader.cancel(row.broker_order_id)
                await wait_row(self, row.broker_order_id, lambda one: one.is_end)
