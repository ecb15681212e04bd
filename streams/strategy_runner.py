"""strategy-runner: ticks, gaps, order events and configuration in; raw signals out, for every active broker in one process.

The lease keeps a second runner as standby; should two ever run, derived signal ids make the second a repetition. One broker's
trouble never delays another: signals leave by a task and a connection per broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from core import failpoints, metrics
from core.alerts import Alerts
from core.clock import trading_day, utc_now
from core.errors import Poison, Transient
from core.events import topics
from core.events.envelope import Envelope, decode
from core.events.payloads import ConfigChanged, LimitsChanged, OrderEvent, SignalRejected
from core.ids import new_id
from core.messaging.dlq import DeadLetter, bury
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.messaging.records import Record
from core.service import ServiceContext
from core.storage import redis as redis_store
from core.storage.db import config_engine
from core.storage.leases import Lease
from core.storage.models import SharedLeaseRow
from core.storage.strategies import StrategyConfig, load_strategies
from core.storage.strategy_changes import publish_changes
from core.trading.ticks import Gap, Tick
from core.waiting import pause, until_well
from streams import runner_checkpoint, runner_status
from streams.runner_engine import Decided, Engine
from streams.runner_fleet import Fleet
from streams.runner_history import History
from streams.runner_input import CatchingUp, first_offsets, input_topics, merged
from streams.runner_market import WindowKey
from streams.runner_outbox import Outbox

NAME = "strategy-runner"
LEASE = NAME
CHECKPOINT_S = 5.0
STATUS_S = 2.0
DAY_CHECK_S = 5.0
ANNOUNCE_S = 5.0
"""How soon a change of a strategy that its maker could not announce is."""

READ_S = 0.2
LAST_WORD_S = 3.0
TURN = 20
"""Records after which lease, outboxes and checkpoint get their turn: a long catch-up must not cost us the lease."""


async def main(ctx: ServiceContext) -> None:
    """Hold the lease and run; as standby, wait for it."""
    engine = config_engine(ctx.settings)
    connection = redis_store.client(ctx.settings)
    lease = Lease(engine, SharedLeaseRow, LEASE, f"{os.getpid()}-{new_id()}")

    async def work(epoch: int) -> None:
        ctx.waiting.over("lease", NAME)
        runner = Runner(ctx, engine, connection, epoch)
        try:
            await runner.run()
        except runner_checkpoint.LeaseLost as error:
            ctx.log.warning("stopped deciding", reason=str(error))
        finally:
            await runner.close()

    try:
        while not ctx.stop.is_set():
            await lease.hold(ctx.stop, work, standby=lambda reason: ctx.waiting.on("lease", reason, NAME))
    finally:
        await connection.aclose()
        await engine.dispose()


class Runner:
    """One term of the lease: restore, catch up, decide, checkpoint."""

    def __init__(self, ctx: ServiceContext, engine: AsyncEngine, connection: Redis, epoch: int) -> None:
        self._ctx = ctx
        self._db = engine
        self._redis = connection
        self._epoch = epoch
        self._core = Engine()
        self._fleet = Fleet(ctx.settings, engine, self._core)
        self._producer = EventProducer(ctx.settings, client_id=NAME)
        self._alerts = Alerts(self._producer, NAME)
        brokers = ctx.settings.active_brokers
        self._outboxes = {broker: Outbox(ctx.settings, broker, ctx.waiting, ctx.stop) for broker in brokers}
        self._reader = LogReader(ctx.settings, client_id=NAME, topics=input_topics(brokers))
        self._history = History(ctx.settings, ctx.stop, self._core.put_history)
        self._positions: dict[tuple[str, int], int] = {}
        self._catching_up = CatchingUp({}, {})
        self._tasks: set[asyncio.Task[None]] = set()
        self._saving = asyncio.Lock()

    async def run(self) -> None:
        """Until stopped.

        Raises:
            StopTheStart: rows that cannot run, or a log that refuses us.
            LeaseLost: another runner took over.
        """
        if not await self._begin():
            return
        background = [self._spawn(outbox.run(), f"signals of {broker}") for broker, outbox in self._outboxes.items()]
        background += [
            self._spawn(self._every(CHECKPOINT_S, self._save), "checkpoint"),
            self._spawn(self._every(STATUS_S, self._publish_status), "status"),
            self._spawn(self._every(DAY_CHECK_S, self._follow_the_day), "day"),
            self._spawn(self._every(ANNOUNCE_S, self._announce), "announce"),
        ]
        with contextlib.suppress(Transient), self._ctx.waiting.mended("redis", self._publish_status.__name__):
            await self._publish_status()
        reading = self._spawn(self._read(), "read")
        self._ctx.health.started()
        await asyncio.wait({reading, *background}, return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, *background):
            if task.done() and not task.cancelled():
                task.result()
        if self._ctx.stop.is_set():
            await self._last_word()

    async def close(self) -> None:
        """Stop every task and connection of this term."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._alerts.drain(1.0)
        for outbox in self._outboxes.values():
            await outbox.close()
        await self._producer.stop()
        await self._reader.stop()

    # Beginning -----------------------------------------------------------------------------------------------------

    async def _begin(self) -> bool:
        """Restore, load and check the rows, pin the offsets. False: stopped before it was done."""
        found: list[runner_checkpoint.Checkpoint | None] = []

        async def load() -> None:
            found[:] = [await runner_checkpoint.load(self._db, NAME)]

        if not await self._well("postgres", load) or not await self._well("kafka", lambda: self._open_log(found[0])):
            return False
        checkpoint = found[0]
        if checkpoint is not None:
            self._core.restore(checkpoint.state["engine"])
            for broker, outbox in self._outboxes.items():
                outbox.restore(checkpoint.state["outbox"].get(broker.value, []))
        rows: list[StrategyConfig] = []

        async def load_rows() -> None:
            rows[:] = await load_strategies(self._db)

        if not await self._well("postgres", load_rows):
            return False
        fresh = await self._fleet.start(self._ctx, rows)
        if fresh is None:
            return False
        self._warm_up(fresh)
        if self._catching_up.over:
            self._core.caught_up()
        self._ctx.log.info(
            "strategies loaded",
            running=sorted(self._core.instances),
            idle={row.name: row.reason for row in self._fleet.idle},
            from_checkpoint=checkpoint is not None,
        )
        return await self._well("postgres", self._save)

    async def _open_log(self, checkpoint: runner_checkpoint.Checkpoint | None) -> None:
        if checkpoint is not None:
            self._positions = dict(checkpoint.offsets)
        else:
            await self._reader.start("latest")
            try:
                self._positions = first_offsets(await self._reader.end_offsets(), self._outboxes)
            finally:
                await self._reader.stop()
        await self._reader.start(self._positions)
        self._catching_up = CatchingUp(await self._reader.end_offsets(), self._positions)

    def _warm_up(self, fresh: list[WindowKey]) -> None:
        wanted = [(key, self._core.market.windows[key].kept) for key in fresh]
        if wanted:
            self._spawn(self._history.warm_up(wanted), "history")

    # The input -----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while not self._ctx.stop.is_set():
            try:
                records = await self._reader.read(READ_S)
                if not records and not self._catching_up.over:
                    await self._catching_up.nothing_came(self._reader)
            except Transient as error:
                self._ctx.waiting.on("kafka", str(error), "input")
                await pause(1.0, self._ctx.stop)
                continue
            self._ctx.waiting.over("kafka", "input")
            for number, record in enumerate(merged(records), 1):
                if not await self._take(record):
                    return
                self._positions[(record.topic, record.partition)] = record.offset + 1
                if number % TURN == 0:
                    await asyncio.sleep(0)
            if records:
                self._catching_up.read(self._positions)
                await self._tell_failures()
                await asyncio.sleep(0)
            if self._catching_up.over:
                self._core.caught_up()

    async def _take(self, record: Record) -> bool:
        """One record into the fold, or to the dead letters. False: stopped before it was done with."""
        if record.topic == topics.MARKET_TICKS and not self._core.watches_key(record.key):
            return True
        try:
            event = decode(record.value)
            if isinstance(event.data, ConfigChanged):
                return await self._reconfigure(event.data)
            if isinstance(event.data, LimitsChanged):
                return True  # risk's business: a strategy decides the same whatever its limits are
            self._fold(event)
        except Poison as error:
            letter = DeadLetter(record, error, error.stage, 1)
            return await self._well("kafka", lambda: bury(self._producer, letter, NAME))
        return True

    def _fold(self, event: Envelope) -> None:
        """Everything but configuration: no await in here, so that a checkpoint never sees half an event."""
        data = event.data
        if isinstance(data, Tick):
            self._put(self._core.on_tick(data, event.id))
        elif isinstance(data, Gap):
            self._core.on_gap(data)
        elif isinstance(data, OrderEvent):
            self._put(self._core.on_order(data, event.id, event.correlation_id))
        elif isinstance(data, SignalRejected):
            self._core.on_refusal(data)
        else:
            raise Poison(f"the strategy runner has no use for {event.type}", stage="validate")

    def _put(self, decided: list[Decided]) -> None:
        for each in decided:
            self._outboxes[each.broker].put(each)

    async def _reconfigure(self, change: ConfigChanged) -> bool:
        """Take a person's change up: from the next tick on, and on record before anything is decided by it."""
        try:
            row = StrategyConfig.from_row({**change.row, "version": change.version})
        except (KeyError, ValueError, ArithmeticError, TypeError) as error:
            raise Poison(
                f"config change of {change.strategy_id}: {type(error).__name__}: {error}", stage="validate"
            ) from error

        async def take_up() -> None:
            fresh = await self._fleet.change(row)
            self._warm_up(fresh)

        if not self._fleet.is_news(row):
            return True
        if not await self._well("postgres", take_up):
            return False
        self._ctx.log.info("strategy changed", strategy_id=row.strategy_id, version=row.version, by=change.changed_by)
        await self._tell_failures()
        return await self._well("postgres", self._save)

    async def _tell_failures(self) -> None:
        failures, self._core.failures = self._core.failures, []
        for failure in failures:
            await self._alerts.raise_(
                "strategy_failed",
                failure.instance,
                f"{failure.instance} raised and was stopped: {failure.error}",
                "mend the strategy or its row; a changed row (a new version) starts it again",
                strategy_id=failure.strategy_id,
                version=str(failure.version),
            )
        for problem in self._fleet.take_problems():
            await self._alerts.raise_(
                "strategy_failed", problem.strategy_id, f"the row of {problem} cannot run", "mend that field of its row"
            )

    # Beside the input ----------------------------------------------------------------------------------------------

    async def _save(self) -> None:
        async with self._saving:
            await failpoints.reached("runner.before_checkpoint")
            state = {
                "engine": self._core.snapshot(),
                "outbox": {broker.value: outbox.snapshot() for broker, outbox in self._outboxes.items()},
            }
            offsets = dict(self._positions)
            await runner_checkpoint.save(self._db, NAME, state, offsets, lease=LEASE, epoch=self._epoch)
            await failpoints.reached("runner.after_checkpoint")

    async def _publish_status(self) -> None:
        rows = self._fleet.status()
        for name, running in self._core.instances.items():
            metrics.strategy_failed.labels(name).set(1 if running.failed else 0)
        await runner_status.publish(self._redis, rows)

    async def _follow_the_day(self) -> None:
        """At 06:00 IST tokens may change: take up the new day's instruments as soon as they are there."""
        if trading_day(utc_now()) != self._fleet.day:
            self._warm_up(await self._fleet.new_day(trading_day(utc_now())))
            await self._tell_failures()

    async def _announce(self) -> None:
        """Publish changes whose maker died or had no log; we read them from there like any other."""
        if count := await publish_changes(self._db, self._producer):
            self._ctx.log.info("changes of strategies announced late", changes=count)

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step again and again; what it needs may be away for a while."""
        part = "redis" if step == self._publish_status else "postgres"
        while not await pause(seconds, self._ctx.stop):
            with contextlib.suppress(Transient), self._ctx.waiting.mended(part, step.__name__):
                await step()

    async def _last_word(self) -> None:
        """Before a clean end: signals out, then one last checkpoint. Neither is needed to lose nothing."""
        await asyncio.gather(*(outbox.flush(LAST_WORD_S) for outbox in self._outboxes.values()))
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await self._save()
        except (Transient, TimeoutError) as error:
            self._ctx.log.warning(
                "no last checkpoint: the next start decides again from the one before", reason=str(error)
            )

    async def _well(self, part: str, step: Callable[[], Awaitable[None]]) -> bool:
        return await until_well(self._ctx.waiting, part, step, self._ctx.stop, NAME)

    def _spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        async def run() -> None:
            await work

        task = asyncio.create_task(run(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
