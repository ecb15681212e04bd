"""The portfolio service: folds each broker's fills to positions and PnL, marks them, fills the Redis read model, publishes snapshots.

Reads the log alone and decides nothing. Each broker has its own tasks, so that one never delays the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from uuid import UUID

from core import ids, logging
from core.alerts import Alerts
from core.clock import trading_day, utc_now
from core.errors import Poison, StopTheStart, Transient
from core.events import topics
from core.events.envelope import Envelope, EventType, decode, make
from core.events.payloads import Tick
from core.messaging import security
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.messaging.records import Record
from core.service import ServiceContext
from core.storage import redis
from core.storage.db import config_engine
from core.storage.leases import Lease
from core.storage.models import SharedLeaseRow
from core.storage.redis import PortfolioStore
from core.trading.positions import PositionKey
from core.trading.types import Broker
from core.waiting import pause
from streams.portfolio_drift import DriftWatch
from streams.portfolio_fold import PortfolioFold, Position, key_text
from streams.portfolio_views import Mark, Moment, pnl_views, position_view, snapshot

LEASE = "portfolio"
READ_S = 0.5
WATCH_S = 3.0
BEAT_S = 1.0
"""Marks move the read model and the snapshots of a position at most this often."""

DRIFT_S = 30.0
"""How long fold and journal may differ before it is drift: fills of one position come through several partitions."""

log = logging.get(__name__)


async def main(ctx: ServiceContext) -> None:
    """Fold under the lease; a second process waits as standby."""
    engine = config_engine(ctx.settings, pool_size=1)
    lease = Lease(engine, SharedLeaseRow, LEASE, str(ids.new_id()))

    worked = asyncio.Event()

    async def work(_: int) -> None:
        ctx.waiting.over("lease")
        await _fold_all(ctx, worked)

    try:
        await lease.hold(ctx.stop, work, standby=lambda reason: ctx.waiting.on("lease", reason))
    finally:
        await engine.dispose()


async def _fold_all(ctx: ServiceContext, worked: asyncio.Event) -> None:
    """One guarded task for the marks and one a broker, until the stop. Sets `worked` once every broker's model stands."""
    marks = Marks(ctx)
    ready = {broker: asyncio.Event() for broker in ctx.settings.active_brokers}
    tasks = [
        asyncio.create_task(_guard(ctx, worked, "marks", marks.run), name="marks"),
        asyncio.create_task(_say_started(ctx, list(ready.values()), worked), name="ready"),
        asyncio.create_task(_watch_log(ctx), name="log"),
    ]
    for broker, event in ready.items():
        portfolio = _runner(ctx, broker, marks, event)
        tasks.append(asyncio.create_task(_guard(ctx, worked, f"{broker} portfolio", portfolio), name=f"{broker}"))
    stopping = asyncio.create_task(ctx.stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_EXCEPTION)
        for ended in done:
            ended.result()
        await stopping
    finally:
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)


def _runner(ctx: ServiceContext, broker: Broker, marks: Marks, ready: asyncio.Event) -> Callable[[], Awaitable[None]]:
    return lambda: BrokerPortfolio(ctx, broker, marks, ready).run()


async def _say_started(ctx: ServiceContext, ready: list[asyncio.Event], worked: asyncio.Event) -> None:
    for event in ready:
        await event.wait()
    worked.set()
    ctx.health.started()


async def _watch_log(ctx: ServiceContext) -> None:
    """Reading finds nothing while the log is away: ask it now and then, so that health can say so."""
    while not await pause(WATCH_S, ctx.stop):
        with contextlib.suppress(Transient), ctx.waiting.mended(security.PART, "probe"):
            await security.probe(ctx.settings)


async def _guard(ctx: ServiceContext, worked: asyncio.Event, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Keep a task going: begin again after a fault, saying so, without touching the other tasks.

    Raises:
        StopTheStart: the log is away or not as it must be, and this process has never worked yet.
    """
    while not ctx.stop.is_set():
        try:
            await work()
        except StopTheStart as error:
            if not worked.is_set():
                raise
            ctx.waiting.on(name, str(error))
        except Transient as error:
            ctx.waiting.on(name, str(error))
        except Exception as error:
            log.exception("begins again", task=name)
            ctx.waiting.on(name, f"{type(error).__name__}: {error}")
        await pause(BEAT_S, ctx.stop)


class Marks:
    """The last tick of every instrument, shared by all brokers; decoded only when a position asks."""

    def __init__(self, ctx: ServiceContext) -> None:
        self._ctx = ctx
        self._latest: dict[str, Record] = {}
        self._decoded: dict[str, tuple[Record, Mark | None]] = {}

    async def run(self) -> None:
        reader = LogReader(self._ctx.settings, client_id="portfolio-marks", topics=[topics.MARKET_TICKS], patient=True)
        try:
            await reader.start("latest")
            self._ctx.waiting.over("marks")
            while not self._ctx.stop.is_set():
                for record in await reader.read(READ_S):
                    if record.headers.get("type") != EventType.GAP.value.encode():
                        self._latest[record.key.decode()] = record
        finally:
            await reader.stop()

    def of(self, instrument_token: int) -> Mark | None:
        """The instrument's last price since this process started; None where no tick came."""
        key = str(instrument_token)
        record = self._latest.get(key)
        if record is None:
            return None
        known = self._decoded.get(key)
        if known is None or known[0] is not record:
            known = (record, _mark(record))
            self._decoded[key] = known
        return known[1]


def _mark(record: Record) -> Mark | None:
    """The price in a tick; None for a tick that cannot be read (its other consumers bring it to the DLQ)."""
    try:
        tick = decode(record.value).data
    except Poison as error:
        log.warning("unreadable tick", offset=record.offset, partition=record.partition, error=str(error))
        return None
    return Mark(tick.last_price, tick.exchange_ts) if isinstance(tick, Tick) else None


class BrokerPortfolio:
    """One broker's fold with its three tasks: read fills, keep the read model, publish snapshots."""

    def __init__(self, ctx: ServiceContext, broker: Broker, marks: Marks, ready: asyncio.Event) -> None:
        self._ctx = ctx
        self._broker = broker
        self._marks = marks
        self._ready = ready
        self._fold = PortfolioFold()
        self._run_id = str(ids.new_id())
        self._caught_up = asyncio.Event()
        self._wake = asyncio.Event()
        self._queued = asyncio.Event()
        self._dirty: set[PositionKey] = set()
        self._carried: dict[int, Mark] = {}
        self._marked: dict[PositionKey, Mark | None] = {}
        self._untold: dict[PositionKey, tuple[UUID, UUID]] = {}
        """The last fill of each position folded before the log was caught up with, and its correlation id: nobody knows whether the
        process that was there before told of it."""
        self._outbox: dict[object, Envelope] = {}
        self._drift = DriftWatch(broker, DRIFT_S)

    async def run(self) -> None:
        """Until the stop, or until one of the three tasks fails."""
        producer = EventProducer(self._ctx.settings, client_id=f"portfolio-{self._broker}")
        connection = redis.client(self._ctx.settings)
        store = PortfolioStore(connection, self._broker)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_fills(), name=f"{self._broker} fills")
                group.create_task(self._keep_model(store), name=f"{self._broker} read model")
                group.create_task(self._publish(producer), name=f"{self._broker} snapshots")
        except* Transient as errors:
            raise errors.exceptions[0] from None
        finally:
            await producer.stop()
            await connection.aclose()

    # fills ---------------------------------------------------------------------------------------------------

    async def _read_fills(self) -> None:
        topic = topics.orders_event(self._broker, "filled")
        reader = LogReader(self._ctx.settings, client_id=f"portfolio-{self._broker}", topics=[topic], patient=True)
        try:
            await reader.start("earliest")
            self._ctx.waiting.over(f"{self._broker} portfolio")
            goal = await reader.end_offsets()
            while not self._ctx.stop.is_set():
                if not self._caught_up.is_set() and _reached(self._fold.offsets, goal):
                    log.info("portfolio folded", broker=str(self._broker), positions=len(self._fold.positions))
                    self._caught_up.set()
                    self._wake.set()
                records = await reader.read(READ_S)
                for record in records:
                    self._take(record)
                if records:
                    self._wake.set()
        finally:
            await reader.stop()

    def _take(self, record: Record) -> None:
        """Fold one record. What cannot be folded is skipped loudly; the order views bring it to the DLQ."""
        try:
            envelope = decode(record.value)
            position = self._fold.apply(envelope)
        except Poison as error:
            log.error("not a fill: skipped", topic=record.topic, offset=record.offset, error=str(error))
            position = None
        self._fold.advance(record.topic, record.partition, record.offset)
        if position is None:
            return
        self._dirty.add(position.key)
        self._drift.look(position)
        if self._caught_up.is_set():
            self._untold.pop(position.key, None)
            self._post(position, envelope.id, envelope.correlation_id)
        else:
            self._untold[position.key] = (envelope.id, envelope.correlation_id)

    # marks and views -----------------------------------------------------------------------------------------

    def _moment(self) -> Moment:
        now = utc_now()
        today = trading_day(now)
        return Moment(max(today, self._fold.latest_day or today), now, self._ctx.settings.simulated)

    def _mark_of(self, position: Position) -> Mark | None:
        token = position.order.instrument_token
        return self._marks.of(token) or self._carried.get(token)

    def _post(self, position: Position, cause: UUID, correlation_id: UUID) -> None:
        """Queue the snapshot that a fill causes."""
        mark = self._mark_of(position)
        self._marked[position.key] = mark
        self._queue(position, mark, ids.derive(cause, EventType.PNL_SNAPSHOT), correlation_id, cause)

    def _post_untold(self) -> None:
        """Queue the snapshots of fills that came while no portfolio ran. Where one was published already, this is it again, by its id."""
        for key, (cause, correlation_id) in self._untold.items():
            self._post(self._fold.positions[key], cause, correlation_id)
        self._untold.clear()

    def _post_moved(self) -> list[PositionKey]:
        """Queue a snapshot of every open position whose mark moved since its last one; their keys."""
        moved = []
        for key, position in self._fold.positions.items():
            mark = self._mark_of(position)
            if position.state.quantity == 0 or mark is None or mark == self._marked.get(key):
                continue
            self._marked[key] = mark
            moved.append(key)
            identity = ids.derive_at(utc_now(), EventType.PNL_SNAPSHOT, key_text(key), mark.price, mark.at)
            self._queue(position, mark, identity, identity, None)
        return moved

    def _queue(self, position: Position, mark: Mark | None, identity: UUID, root: UUID, cause: UUID | None) -> None:
        key = key_text(position.key)
        envelope = make(
            EventType.PNL_SNAPSHOT,
            snapshot(position, mark, self._moment()),
            id=identity,
            key=key,
            source="portfolio",
            correlation_id=root,
            causation_id=cause,
            broker=self._broker,
        )
        # One snapshot a fill; of the marks only the newest while the log is away.
        self._outbox.pop(key if cause is None else identity, None)
        self._outbox[key if cause is None else identity] = envelope
        self._queued.set()

    # read model ----------------------------------------------------------------------------------------------

    async def _keep_model(self, store: PortfolioStore) -> None:
        """Write at each fill and once a second where marks moved; everything when Redis was emptied or the day rolled."""
        await self._caught_up.wait()
        await self._carry_marks(store)
        self._post_untold()
        whole = True
        day = self._moment().trading_day
        next_beat = 0.0
        loop = asyncio.get_running_loop()
        while not self._ctx.stop.is_set():
            if loop.time() >= next_beat:
                next_beat = loop.time() + BEAT_S
                self._dirty.update(self._post_moved())
                self._drift.judge(self._fold)
                day, before = self._moment().trading_day, day
                whole = whole or day != before or await self._emptied(store)
            if whole or self._dirty:
                whole = not await self._write(store, whole)
                if not whole:
                    self._ready.set()
            self._wake.clear()
            await pause(max(0.05, next_beat - loop.time()), self._wake, self._ctx.stop)

    async def _carry_marks(self, store: PortfolioStore) -> None:
        """Prices of the last run, for a market that is still: a position keeps its mark over a restart."""
        with contextlib.suppress(Transient), self._ctx.waiting.mended("redis", str(self._broker)):
            model = await store.read()
            for view in model.positions.values() if model else ():
                if view.last_price is not None and view.marked_at is not None:
                    self._carried[view.instrument_token] = Mark(view.last_price, view.marked_at)

    async def _emptied(self, store: PortfolioStore) -> bool:
        """Whether the model in Redis is not the one this process wrote. While Redis is away: not known, so no."""
        with contextlib.suppress(Transient), self._ctx.waiting.mended("redis", str(self._broker)):
            return await store.marker() != self._run_id
        return False

    async def _write(self, store: PortfolioStore, whole: bool) -> bool:
        """One MULTI; False while Redis is away, and then everything is written when it is back."""
        moment = self._moment()
        positions = self._fold.positions
        keys = list(positions) if whole else [key for key in self._dirty if key in positions]
        views = [position_view(positions[key], self._mark_of(positions[key]), moment) for key in keys]
        totals = pnl_views([(row, self._mark_of(row)) for row in positions.values()], moment)
        offsets = dict(self._fold.offsets)
        self._dirty.clear()
        try:
            with self._ctx.waiting.mended("redis", str(self._broker)):
                if whole:
                    await store.replace(self._run_id, views, totals, offsets)
                    log.info("read model filled", broker=str(self._broker), positions=len(views))
                else:
                    await store.update(views, totals, offsets)
        except Transient:
            return False
        return True

    # the log -------------------------------------------------------------------------------------------------

    async def _publish(self, producer: EventProducer) -> None:
        """Send queued snapshots; while the log is away they wait, of the marks only the newest."""
        alerts: Alerts | None = None
        topic = topics.pnl_snapshots(self._broker)
        while not self._ctx.stop.is_set():
            try:
                with self._ctx.waiting.mended("kafka", f"{self._broker} snapshots"):
                    if alerts is None:
                        await producer.start()
                        alerts = Alerts(producer, "portfolio")
                    batch = list(self._outbox.items())
                    if batch:
                        await producer.send_many([(topic, envelope) for _, envelope in batch])
                        for name, envelope in batch:
                            if self._outbox.get(name) is envelope:
                                del self._outbox[name]
                    for drift in self._drift.take():
                        await alerts.raise_("portfolio_drift", drift.subject, drift.message, drift.action)
            except Transient:
                await pause(BEAT_S, self._ctx.stop)
            else:
                await pause(BEAT_S, self._queued, self._ctx.stop)
            self._queued.clear()


def _reached(offsets: dict[tuple[str, int], int], goal: dict[tuple[str, int], int]) -> bool:
    return all(offsets.get(name, 0) >= end for name, end in goal.items())
