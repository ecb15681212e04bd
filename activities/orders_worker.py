"""The process of one broker's order workflows: decides what to do next, publishes what was journalled. Never calls a broker."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio.worker import PollerBehaviorAutoscaling, UnsandboxedWorkflowRunner, Worker

from activities.journal_calls import JournalCalls
from activities.kill_calls import KillCalls
from activities.reconcile_keeper import kept
from activities.reconcile_orders import ReconcileOrders
from core.alerts import Alerts
from core.kill_start import kills_kept
from core.messaging.producer import EventProducer
from core.routing import orders_queue, target
from core.service import ServiceContext
from core.storage.db import broker_engine
from core.storage.journal import Journal
from core.storage.outbox import Outbox
from core.temporal import connect, watched
from core.trading.calendar import calendar_for
from core.trading.durations import OrderDurations
from workflows.kill_switch import KillSwitchWorkflow
from workflows.order import OrderWorkflow
from workflows.reconcile import ReconcileWorkflow

CACHED_WORKFLOWS = 2000
"""Above the number of open orders: an evicted workflow is replayed from its whole history."""

STICKY = timedelta(seconds=2)
"""How long work waits for the process that has the workflow in memory before any may take it: that one may be dead."""


async def main(ctx: ServiceContext) -> None:
    """Run until asked to stop. The workflows' determinism is held by the replay tests, so no sandbox at run time."""
    assert ctx.broker is not None
    engine = broker_engine(ctx.settings, ctx.broker)
    producer = EventProducer(ctx.settings, client_id=ctx.name, broker=ctx.broker)
    await producer.start()
    outbox = Outbox(engine, producer)
    publishing = asyncio.create_task(outbox.run())
    alerts = Alerts(producer, ctx.name)
    calls = JournalCalls(outbox, alerts, ctx.broker)
    client = await connect(ctx.settings)
    calendar = calendar_for(simulated=ctx.settings.simulated)
    kills = KillCalls(engine, ctx.broker, client, producer, calendar, target(ctx.settings, ctx.broker))
    durations = OrderDurations().scaled(ctx.settings.duration_factor)
    rounds = ReconcileOrders(Journal(engine, ctx.broker), outbox, producer, alerts, client, durations, calendar)
    worker = Worker(
        client,
        task_queue=orders_queue(ctx.broker),
        workflows=[OrderWorkflow, ReconcileWorkflow, KillSwitchWorkflow],
        activities=[
            calls.publish_events,
            calls.raise_alert,
            rounds.mend_orders,
            rounds.report_round,
            *kills.activities,
        ],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=CACHED_WORKFLOWS,
        sticky_queue_schedule_to_start_timeout=STICKY,
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(initial=2),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(initial=1),
        graceful_shutdown_timeout=timedelta(seconds=3),
    )
    try:
        async with (
            worker,
            watched(client, ctx.waiting),
            kept(client, ctx.settings, ctx.broker),
            kills_kept(client, engine, ctx.broker, durations, ctx.waiting),
        ):
            ctx.health.started()
            await _until_stopped(ctx.stop, publishing)
    finally:
        publishing.cancel()
        await alerts.drain()
        await producer.stop()
        await engine.dispose()


async def _until_stopped(stop: asyncio.Event, publishing: asyncio.Task[None]) -> None:
    """Wait for the stop. Publishing that ended by itself ends the process: else every order would wait for news for ever.

    Raises:
        RuntimeError: publishing ended.
    """
    asked = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({asked, publishing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
    if publishing.done():
        cause = None if publishing.cancelled() else publishing.exception()
        raise RuntimeError("publishing ended by itself") from cause
