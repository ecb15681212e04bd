"""The one leased process that talks to a broker's account: its pacer is the only limiter, its claims name its lease.

A second one waits as standby. Losing the lease stops the workers; a thawed holder's claims fail on the epoch.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker

from activities.broker_calls import BrokerCalls
from core.brokers.pacer import Pacer
from core.brokers.paper import PaperTrader
from core.brokers.port import Trader
from core.brokers.reader import BookReader
from core.brokers.zerodha import ZerodhaTrader
from core.config import Settings
from core.ids import new_id
from core.routing import account, broker_lease, broker_queue, urgent_queue
from core.service import ServiceContext
from core.storage.claims import LeaseProof, sends_since, sends_today
from core.storage.db import broker_engine
from core.storage.journal import Journal
from core.storage.leases import Lease
from core.storage.models import LeaseRow
from core.temporal import connect, watched
from core.trading.calendar import calendar_for
from core.trading.types import Broker

SLOTS = 8
"""Broker calls in flight a queue: fewer than the journal has connections, so that no call waits for one past its heartbeat.
The pacer, not this, holds the broker's limits."""


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
        await _serve(ctx, client, journal, LeaseProof(lease.name, lease.holder, epoch))

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
    owner = account(ctx.settings, journal.broker)
    pacer.preload(ages_s=await sends_since(journal, owner, 60.0), today=await sends_today(journal, owner))
    calendar = calendar_for(simulated=ctx.settings.simulated)
    calls = BrokerCalls(journal, trader, BookReader(trader), pacer, proof, calendar)
    try:
        async with (
            _worker(client, urgent_queue(journal.broker), calls),
            _worker(client, broker_queue(journal.broker), calls),
            watched(client, ctx.waiting),
        ):
            ctx.health.well("lease")
            ctx.health.started()
            await ctx.stop.wait()
    finally:
        await trader.close()


def _worker(client: Client, queue: str, calls: BrokerCalls) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        activities=[calls.place_order, calls.look_at_book, calls.look_up_by_tag],
        max_concurrent_activities=SLOTS,
        activity_task_poller_behavior=PollerBehaviorAutoscaling(initial=2),
        graceful_shutdown_timeout=timedelta(seconds=3),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
    )
