"""Engaging a kill switch: the flag in the journal first, then the workflow that cancels and closes. Started twice, it is one.

Never calls a broker, and never takes Temporal being away for a switch that is not engaged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from core import kill_work, order_work
from core.errors import Transient
from core.kill_work import KillInput
from core.routing import kill_workflow_id, orders_queue
from core.storage.kill import KillRecord, unfinished_kills
from core.trading.durations import OrderDurations
from core.trading.types import Broker
from core.waiting import Waiting

LOOK_EVERY_S = 10.0
FIRST_PAUSE_S = 2.0


def kill_input(broker: Broker, record: KillRecord, durations: OrderDurations) -> KillInput:
    return KillInput(
        kill_id=record.kill_id,
        broker=broker,
        account=record.account,
        strategy_id=record.strategy_id,
        requested_by=record.requested_by,
        reason=record.reason,
        include_foreign=record.include_foreign,
        durations=durations,
    )


async def start_kill(client: Client, broker: Broker, record: KillRecord, durations: OrderDurations) -> str:
    """Start the switch's workflow, or find it started. Returns its id.

    Raises:
        Transient: Temporal is away; the flag binds entries all the same. Start it again.
    """
    kill = kill_input(broker, record, durations)
    workflow_id = kill_workflow_id(broker, record.kill_id)
    attributes = [SearchAttributePair(order_work.SA_BROKER, broker.value)]
    if record.strategy_id is not None:
        attributes.append(SearchAttributePair(order_work.SA_STRATEGY, record.strategy_id))
    try:
        await client.start_workflow(
            kill_work.KILL_WORKFLOW,
            kill,
            id=workflow_id,
            task_queue=orders_queue(broker),
            # A switch that is engaged and not finished has no right to a closed workflow: one terminated by hand starts again.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            static_summary=f"KILL SWITCH: {kill_work.scope(kill)}"[:180],
            static_details=f"Engaged by {record.requested_by} at {record.engaged_at:%Y-%m-%d %H:%M:%S} UTC: {record.reason}",
            search_attributes=TypedSearchAttributes(attributes),
        )
    except WorkflowAlreadyStartedError:
        return workflow_id
    except RPCError as error:
        raise Transient(f"Temporal does not start the kill switch: {error.message}") from error
    return workflow_id


async def start_unfinished(client: Client, engine: AsyncEngine, broker: Broker, durations: OrderDurations) -> int:
    """Start every engaged switch that has not finished: whoever engaged it may have died before it could. Returns how many there are.

    Raises:
        Transient: the database or Temporal is away.
    """
    found = await unfinished_kills(engine)
    for record in found:
        await start_kill(client, broker, record, durations)
    return len(found)


@asynccontextmanager
async def kills_kept(
    client: Client, engine: AsyncEngine, broker: Broker, durations: OrderDurations, waiting: Waiting
) -> AsyncIterator[None]:
    """While the body runs, every engaged switch that has not finished has its workflow."""
    task = asyncio.create_task(_keep(client, engine, broker, durations, waiting), name="keep kill switches")
    try:
        yield
    finally:
        task.cancel()


async def _keep(
    client: Client, engine: AsyncEngine, broker: Broker, durations: OrderDurations, waiting: Waiting
) -> None:
    while True:
        try:
            with waiting.mended("postgres", "kill switches"):
                await start_unfinished(client, engine, broker, durations)
        except Transient:
            await asyncio.sleep(FIRST_PAUSE_S)  # said by `mended`
        else:
            await asyncio.sleep(LOOK_EVERY_S)


async def look_now(client: Client, broker: Broker, record: KillRecord) -> None:
    """Tell the switch's workflow to look at once, if it runs. Raises Transient while Temporal is away."""
    handle = client.get_workflow_handle(kill_workflow_id(broker, record.kill_id))
    try:
        await handle.signal(kill_work.LOOK)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise Transient(f"Temporal does not answer: {error.message}") from error
