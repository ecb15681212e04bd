"""The one leased process that talks to a broker's account: its pacer is the only limiter, its claims name its lease.

A second one waits as standby. Losing the lease stops the workers; a thawed holder's claims fail on the epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker

from activities.broker_calls import LOOKS, BrokerCalls
from activities.command_calls import CommandCalls
from activities.exit_bounds import ExitBounds
from activities.exit_cover import ExitCover
from activities.kill_broker_calls import KillBrokerCalls
from activities.reconcile_book import ReconcileBook
from core.brokers.pacer import Pacer
from core.brokers.paper import PaperTrader
from core.brokers.port import Trader
from core.brokers.reader import BookReader
from core.brokers.zerodha import ZerodhaTrader
from core.config import Settings
from core.errors import BrokerError, Transient
from core.ids import new_id
from core.routing import account, broker_lease, broker_queue, target, urgent_queue
from core.service import ServiceContext
from core.storage.claims import LeaseProof, sends_since, sends_today
from core.storage.command_journal import CommandJournal
from core.storage.db import broker_engine
from core.storage.journal import Journal
from core.storage.leases import Lease
from core.storage.models import LeaseRow
from core.temporal import connect, watched
from core.trading.calendar import calendar_for
from core.trading.types import Broker
from core.waiting import Waiting

SLOTS = 8
"""Entries in flight: fewer than the journal has connections, so that no call waits for one past its heartbeat. The pacer, not
this, holds the broker's limits."""

URGENT_SLOTS = LOOKS + 8
"""Calls in flight of the urgent queue: looks never fill them, so that an exit or a cancel always finds one."""

GRACE = timedelta(seconds=8)
"""After a stop, calls under way go on: just past the 7 s a broker has to answer, within the 10 s a process has to end."""


SESSION_EVERY_S = 1.0
"""How often it is looked whether there is a session."""


def make_trader(settings: Settings, broker: Broker) -> Trader:
    """The implementation of the port for a broker."""
    return PaperTrader(settings) if broker is Broker.PAPER else ZerodhaTrader(settings)


async def main(ctx: ServiceContext) -> None:
    assert ctx.broker is not None
    engine = broker_engine(ctx.settings, ctx.broker, pool_size=10)
    client = await connect(ctx.settings)
    journal = Journal(engine, ctx.broker)
    lease = Lease(engine, LeaseRow, broker_lease(ctx.broker), str(new_id()))

    async def work(epoch: int) -> None:
        owner, where = account(ctx.settings, journal.broker), target(ctx.settings, journal.broker)
        await _serve(ctx, client, journal, LeaseProof(lease.name, lease.holder, epoch, owner, where))

    def standby(reason: str) -> None:
        ctx.health.waiting("lease", reason)

    try:
        await lease.hold(ctx.stop, work, standby=standby)
    finally:
        await engine.dispose()


async def _serve(ctx: ServiceContext, client: Client, journal: Journal, proof: LeaseProof) -> None:
    """Run both queues while the lease is ours. Counts the minute's and the day's sends before the first of its own."""
    trader = make_trader(ctx.settings, journal.broker)
    await trader.start()
    pacer = Pacer(trader.profile)
    pacer.preload(
        ages_s=await sends_since(journal, proof.account, 60.0), today=await sends_today(journal, proof.account)
    )
    calendar = calendar_for(simulated=ctx.settings.simulated)
    reader = BookReader(trader)
    bounds, cover = ExitBounds(journal, trader, reader), ExitCover(journal, trader)

    calls = BrokerCalls(journal, trader, reader, pacer, proof, calendar, trader.waits_for, bounds.why_not, cover.of)
    commands = CommandCalls(
        CommandJournal(journal.engine, journal.broker), trader, reader, Pacer(trader.profile.commands), proof
    )
    kills = KillBrokerCalls(journal, trader, reader, pacer, proof)
    rounds = ReconcileBook(journal, trader, reader, client, commands)
    more = (
        commands.carry_out,
        commands.adopt_late_row,
        kills.see_account,
        kills.close_foreign,
        rounds.compare_with_broker,
    )
    urgent = _worker(client, urgent_queue(journal.broker), URGENT_SLOTS, calls, *more)
    entries = _worker(client, broker_queue(journal.broker), SLOTS, calls)
    try:
        async with urgent, entries, watched(client, ctx.waiting), session_watched(trader, ctx.waiting):
            ctx.health.well("lease")
            ctx.health.started()
            try:
                await ctx.stop.wait()
            finally:  # both at once: one after the other they would have twice the time
                await asyncio.gather(urgent.shutdown(), entries.shutdown())
    finally:
        await trader.close()


@asynccontextmanager
async def session_watched(trader: Trader, waiting: Waiting) -> AsyncIterator[None]:
    """While the body runs, say in health and the log when calls wait for a login; over only when the broker took a call again."""
    task = asyncio.create_task(_watch_session(trader, waiting), name="watch session")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch_session(trader: Trader, waiting: Waiting) -> None:
    dead = False
    while True:
        why = trader.waits_for()
        if why is None and dead:
            why = await _still_refused(trader)
        dead = why is not None
        if why is not None:
            waiting.on("session", why)
        else:
            waiting.over("session")
        await asyncio.sleep(SESSION_EVERY_S)


async def _still_refused(trader: Trader) -> str | None:
    """A session is there again: whether the broker takes it. None: it does."""
    try:
        await trader.funds()
    except (BrokerError, Transient) as error:
        return str(error)
    return None


def _worker(client: Client, queue: str, slots: int, calls: BrokerCalls, *more: Callable[..., Any]) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        activities=[calls.place_order, calls.look_at_book, calls.look_up_by_tag, *more],
        max_concurrent_activities=slots,
        activity_task_poller_behavior=PollerBehaviorAutoscaling(initial=2),
        graceful_shutdown_timeout=GRACE,
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
    )
