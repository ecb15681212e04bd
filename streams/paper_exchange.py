"""The paper exchange: matches working paper orders against the live ticks and books their fills.

Never fills from a tick older than the order, never twice from one tick, and keeps nothing that PostgreSQL does not have.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

import asyncpg

from core import failpoints, logging, metrics
from core.brokers.paper_database import PaperDatabase, connect_options, transient
from core.brokers.paper_statements import CHANNEL
from core.clock import trading_day, utc_now
from core.errors import Poison, Transient
from core.events.envelope import Envelope, EventType, decode, make
from core.events.payloads import OrderUpdate, Tick
from core.events.topics import MARKET_TICKS, orders_updates
from core.ids import derive_at
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.messaging.records import Record
from core.service import ServiceContext
from core.trading.types import Broker
from core.waiting import Waiting, pause, until_well
from streams.paper_exchange_book import LATENCY, ExchangeOrder, ExchangeStore, Market, match_all

POLL_S = 1.0
"""A NOTIFY may be lost with its connection: so often all working orders changed of late are read anyway."""

QUIET_S = 3.0
"""After so long without a tick we ask whether the log is there at all."""

OVERLAP = timedelta(seconds=10)
"""A change is visible only when it commits: each poll looks back this far."""

HINT_AGAIN = timedelta(minutes=10)
"""On start, orders that changed this recently are hinted again: hints of the time before may be lost."""

HINTS_KEPT = 50_000
"""Hints waiting for the log; past it the oldest are dropped and counted (order workflows also look by themselves)."""

LAST_HINTS_S = 3.0
"""How long a stopping exchange tries to publish what it has left to say."""

UPDATE = "UPDATE"
"""Kite's word for a partial fill or a modification (kite.trade/docs/connect/v3/postbacks)."""

log = logging.get(__name__)


class Hints:
    """Tells the log, after the fact, that something happened to an order. May lose, repeat and delay; never blocks."""

    def __init__(self, producer: EventProducer, waiting: Waiting) -> None:
        self._producer = producer
        self._waiting = waiting
        self._events: deque[Envelope] = deque()
        self._some = asyncio.Event()

    def tell(self, order: ExchangeOrder) -> None:
        self._events.append(_hint(order))
        if len(self._events) > HINTS_KEPT:
            self._events.popleft()
            metrics.paper_hints_dropped.inc()
        self._some.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until asked to stop, then what is left, if the log takes it at once."""
        while not stop.is_set():
            await pause(POLL_S, self._some, stop)
            self._some.clear()
            await until_well(self._waiting, "kafka", self._flush, stop, "hints")
        with contextlib.suppress(Transient, TimeoutError):
            async with asyncio.timeout(LAST_HINTS_S):
                await self._flush()

    async def _flush(self) -> None:
        while self._events:
            batch = [self._events[number] for number in range(min(len(self._events), 500))]
            await self._producer.send_many([(orders_updates(Broker.PAPER), event) for event in batch])
            for event in batch:
                if self._events and self._events[0] is event:
                    self._events.popleft()


def _hint(order: ExchangeOrder) -> Envelope:
    status = order.status if order.done else UPDATE
    event_id = derive_at(order.updated_at, "paper-hint", order.broker_order_id, status, order.filled_quantity)
    update = OrderUpdate(
        broker_order_id=order.broker_order_id,
        tag=order.tag,
        status=status,
        source="paper-exchange",
        received_at=order.updated_at,
        raw={
            "filled_quantity": order.filled_quantity,
            "quantity": order.quantity,
            "average_price": None if order.average_price is None else str(order.average_price),
            "status_message": order.status_message,
        },
    )
    return make(
        EventType.ORDER_UPDATE,
        update,
        id=event_id,
        key=order.broker_order_id,
        source="paper-exchange",
        correlation_id=event_id,
        broker=Broker.PAPER,
    )


class PaperExchange:
    """Working orders and each instrument's latest tick, in memory; what happens to an order happens in the store."""

    def __init__(self, store: ExchangeStore, tell: Callable[[ExchangeOrder], None]) -> None:
        self._store = store
        self._tell = tell
        self._working: dict[int, dict[str, ExchangeOrder]] = {}
        self._latest: dict[int, Record] = {}
        self._markets: dict[int, Market] = {}
        self._turn = asyncio.Lock()

    @property
    def working(self) -> int:
        return sum(len(orders) for orders in self._working.values())

    async def on_tick(self, record: Record, *, match: bool = True) -> None:
        """Remember the tick; match where orders wait for its instrument. Undecodable ticks are skipped and counted.

        Raises:
            Transient: the database is away. The tick may have done nothing; the next one will.
        """
        if record.headers.get("type") != b"tick" or not record.key.isdigit():
            return
        token = int(record.key)
        self._latest[token] = record
        if match and token in self._working:
            async with self._turn:
                await self._match(token)

    async def on_orders(self, orders: Iterable[ExchangeOrder]) -> list[str]:
        """Take in new and changed orders, and match those that came after a tick they may fill from.

        Returns the orders whose cancel is asked for.
        """
        cancels = []
        orders = list(orders)
        for order in orders:
            before = self._working.get(order.instrument_token, {}).get(order.broker_order_id)
            self._keep(order)
            if before is not None and order.modifications > before.modifications:
                self._tell(order)
            if order.cancel_requested and not order.done:
                cancels.append(order.broker_order_id)
        for token in {order.instrument_token for order in orders if not order.done}:
            async with self._turn:
                await self._match(token)
        return cancels

    async def cancel(self, broker_order_ids: Sequence[str]) -> None:
        async with self._turn:
            self._ended(await self._store.cancel(broker_order_ids))

    async def roll(self) -> None:
        """End the DAY orders of earlier trading days."""
        today = trading_day(utc_now())
        if any(order.trading_day < today for orders in self._working.values() for order in orders.values()):
            async with self._turn:
                self._ended(await self._store.end_day(today))

    def forget_orders(self) -> None:
        self._working.clear()

    async def _match(self, token: int) -> None:
        market = self._market(token)
        orders = self._working.get(token)
        if market is None or not orders:
            return
        moved, _ = match_all(orders.values(), market)
        if not moved:
            return
        asked = [look.order.broker_order_id for look in moved]
        await failpoints.reached("exchange.before_book")
        looks, snapshot = await self._store.apply(asked, market)
        await failpoints.reached("exchange.after_book")
        self._markets[token] = replace(market, snapshot=snapshot)
        for look in looks:
            metrics.paper_fills.inc(len(look.executions))
            self._keep(look.order)
            if look.executions or look.order.done:
                self._tell(look.order)
        unmoved = set(asked) - {look.order.broker_order_id for look in looks}
        if unmoved:  # the row says otherwise than our memory: a modification we have not heard of yet
            for order in await self._store.load(sorted(unmoved)):
                self._keep(order)

    def _market(self, token: int) -> Market | None:
        """The latest tick as a market, with what earlier looks left of its depth; None before the first."""
        record = self._latest.pop(token, None)
        known = self._markets.get(token)
        if record is None:
            return known
        try:
            event = decode(record.value)
        except Poison as error:
            metrics.paper_ticks_unreadable.inc()
            log.warning("tick skipped", reason=str(error), partition=record.partition, offset=record.offset)
            return known
        if not isinstance(event.data, Tick) or (known is not None and known.tick_id == event.id):
            return known
        self._markets[token] = Market.of(event.id, event.data)
        return self._markets[token]

    def _keep(self, order: ExchangeOrder) -> None:
        orders = self._working.setdefault(order.instrument_token, {})
        if not order.done:
            orders[order.broker_order_id] = order
            return
        orders.pop(order.broker_order_id, None)
        if not orders:
            del self._working[order.instrument_token]

    def _ended(self, orders: Iterable[ExchangeOrder]) -> None:
        for order in orders:
            self._keep(order)
            self._tell(order)


class Service:
    """The process: ticks from the log, orders from the database, and going on by itself when either was away."""

    def __init__(self, ctx: ServiceContext, store: ExchangeStore, hints: Hints) -> None:
        self._ctx = ctx
        self._store = store
        self._hints = hints
        self._exchange = PaperExchange(store, hints.tell)
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._cancels: set[asyncio.Task[None]] = set()
        self._well = False
        self._doubt_since = utc_now() - HINT_AGAIN

    async def ticks(self, reader: LogReader) -> None:
        """Match every tick from now on."""
        ctx = self._ctx
        quiet_s = 0.0
        while not ctx.stop.is_set():
            try:
                records = await reader.read(POLL_S / 2)
                quiet_s = 0.0 if records else quiet_s + POLL_S / 2
                if records:
                    ctx.waiting.over("kafka", "ticks")
                elif quiet_s >= QUIET_S:  # a log that is away reads as one without ticks
                    with ctx.waiting.mended("kafka", "ticks"):
                        await reader.alive()
                    quiet_s = 0.0
            except Transient as error:
                ctx.waiting.on("kafka", str(error), "ticks")
                await pause(POLL_S, ctx.stop)
                continue
            for record in records:
                try:
                    await self._exchange.on_tick(record, match=self._well)
                except Transient as error:
                    self._lost(error)

    async def orders(self) -> None:
        """Follow what traders place, modify and cancel, and end the day."""
        ctx = self._ctx
        while not ctx.stop.is_set():
            try:
                async with listening(ctx, self._notified) as closed:
                    await self._recover()
                    await self._follow(closed)
            except Transient as error:
                self._lost(error)
                await pause(POLL_S, ctx.stop)
        for task in self._cancels:
            task.cancel()

    async def _recover(self) -> None:
        """Read every working order, and hint again what may have been booked or told in vain while in doubt."""
        since = self._doubt_since - OVERLAP
        self._exchange.forget_orders()
        await self._take_in(await self._store.working())
        for order in await self._store.told_since(since):
            self._hints.tell(order)
        self._well = True
        self._ctx.waiting.over("postgres")
        self._ctx.health.started()

    async def _follow(self, closed: asyncio.Event) -> None:
        """Take in what changes, until asked to stop, the connection closes, or a step raises Transient."""
        polled_at = utc_now()
        while not (self._ctx.stop.is_set() or closed.is_set()) and self._well:
            await pause(POLL_S, self._wake, closed, self._ctx.stop)
            self._wake.clear()
            changed, self._changed = self._changed, set()
            if changed:
                await self._take_in(await self._store.load(sorted(changed)))
            if (utc_now() - polled_at).total_seconds() >= POLL_S:
                since, polled_at = polled_at - OVERLAP, utc_now()
                await self._take_in(await self._store.working(since))
                await self._exchange.roll()
                metrics.paper_orders_working.set(self._exchange.working)
        if closed.is_set():
            raise Transient("PostgreSQL closed the connection that listens for orders", part="postgres")

    async def _take_in(self, orders: Sequence[ExchangeOrder]) -> None:
        cancels = await self._exchange.on_orders(orders)
        if cancels:
            task = asyncio.create_task(self._cancel(cancels), name="cancel")
            self._cancels.add(task)
            task.add_done_callback(self._cancels.discard)

    async def _cancel(self, broker_order_ids: Sequence[str]) -> None:
        """A cancel reaches the exchange after the modelled latency; a fill may be there first."""
        await asyncio.sleep(LATENCY.total_seconds())
        try:
            await self._exchange.cancel(broker_order_ids)
        except Transient as error:
            self._lost(error)

    def _notified(self, broker_order_id: str) -> None:
        self._changed.add(broker_order_id)
        self._wake.set()

    def _lost(self, error: Transient) -> None:
        """The database is away: match nothing until every working order was read again."""
        if self._well:
            self._doubt_since = utc_now()
        self._well = False
        self._ctx.waiting.on("postgres", str(error))
        self._wake.set()


@contextlib.asynccontextmanager
async def listening(ctx: ServiceContext, notified: Callable[[str], None]) -> AsyncIterator[asyncio.Event]:
    """A connection that hears of new and changed orders; the event is set when it closes.

    Raises:
        Transient: no connection to be had.
    """
    closed = asyncio.Event()
    async with transient("listening for orders"):
        connection = await asyncpg.connect(**connect_options(ctx.settings))
    try:
        connection.add_termination_listener(lambda _: closed.set())
        async with transient("listening for orders"):
            await connection.add_listener(CHANNEL, lambda *message: notified(str(message[3])))
        yield closed
    finally:
        with contextlib.suppress(Exception):
            await connection.close(timeout=2)


async def main(ctx: ServiceContext) -> None:
    """Run the paper exchange until asked to stop."""
    database = PaperDatabase(ctx.settings, connections=4)
    producer = EventProducer(ctx.settings, client_id=ctx.name, broker=Broker.PAPER)
    reader = LogReader(ctx.settings, client_id=ctx.name, topics=[MARKET_TICKS])
    hints = Hints(producer, ctx.waiting)
    service = Service(ctx, ExchangeStore(database), hints)
    try:
        if not await until_well(ctx.waiting, "kafka", lambda: reader.start("latest"), ctx.stop, "ticks"):
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(service.orders(), name="orders")
            group.create_task(service.ticks(reader), name="ticks")
            group.create_task(hints.run(ctx.stop), name="hints")
    finally:
        await reader.stop()
        await producer.stop()
        await database.close()
