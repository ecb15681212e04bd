"""After the last intent: everything is thawed and well, faults are off, and every order comes to its end within a bound.

Orders that rest away from the price are met by moving the price, as a market would; nothing is cancelled or forgotten.
"""

from __future__ import annotations

import asyncio
import json
import time
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from core.temporal import connect
from core.trading.types import Broker
from sandbox.instruments import Instrument
from tests.chaos.plan import universe
from tests.chaos.world import AWAY, World, until

READY_S = 120.0
SETTLE_S = 300.0
NUDGE_S = 10.0
SWING = Decimal("0.05")


async def settle(world: World) -> dict[str, Any]:
    """Returns what is still open when the bound is over; empty lists when all has ended."""
    await until(_ready(world), READY_S)
    end, nudge = time.monotonic() + SETTLE_S, time.monotonic() + NUDGE_S
    up, reconciled = True, False
    while time.monotonic() < end:
        left = await unsettled(world)
        if left is not None and not any(left.values()):
            if reconciled:
                return left
            reconciled = await _reconciled(world)  # late fills of ended orders are found by it; then all is asked again
            await asyncio.sleep(1)
            continue
        if left is not None and time.monotonic() > nudge:
            await _move_prices(world, {row["instrument"] for row in left["orders"]}, up)
            up, nudge = not up, time.monotonic() + NUDGE_S
        await asyncio.sleep(1)
    return await unsettled(world) or {"orders": [{"reason": "PostgreSQL does not answer"}]}


async def unsettled(world: World) -> dict[str, list[Any]] | None:
    """Open orders, unpublished events, running order workflows. None while something needed for the question is away."""
    orders: list[Any] = []
    events: list[Any] = []
    for broker in Broker:
        rows = await world.try_sql(
            f"""SELECT o.order_id, o.instrument, o.status, o.reason, o.broker_order_id, s.state, s.answer
                FROM {broker}.orders o JOIN {broker}.sends s USING (order_id, send_no) WHERE o.ended_at IS NULL"""
        )
        unpublished = await world.try_sql(
            f"SELECT DISTINCT order_id FROM {broker}.outgoing_events WHERE published_at IS NULL"
        )
        decided = await world.try_sql(
            f"""SELECT d.signal_id, 'undecided by the gateway' AS reason FROM {broker}.risk_decisions d
                LEFT JOIN {broker}.orders o USING (signal_id) WHERE d.accepted AND o.order_id IS NULL"""
        )
        if rows is None or unpublished is None or decided is None:
            return None
        orders += [{"broker": broker.value} | row for row in rows + decided]
        events += [row["order_id"] for row in unpublished]
    try:
        return {"orders": orders, "unpublished": events, "workflows": await running_workflows(world)}
    except Exception as error:  # whatever a Temporal that comes back answers; asked again by the caller
        world.log.write("temporal does not answer", error=repr(error))
        return None


async def running_workflows(world: World) -> list[str]:
    client = await connect(world.settings)
    query = "ExecutionStatus = 'Running' AND WorkflowType = 'OrderWorkflow'"
    return [row.id async for row in client.list_workflows(query)]


async def _reconciled(world: World) -> bool:
    """Whether a round of each broker, asked for by the public command, judged every line. The rounds are kept for the verdict."""
    done = await asyncio.to_thread(world.system.command, "reconcile", "--json", check=False)
    world.log.write("reconciled", code=done.returncode, said=(done.stdout + done.stderr)[-2000:])
    try:
        rounds = {Broker(row["broker"]): row for row in json.loads(done.stdout)}
    except ValueError:
        rounds = {}
    world.rounds = rounds
    return all(
        broker in rounds
        and rounds[broker]["judged"]
        and all(line["drift"] is not None for line in rounds[broker]["lines"])
        for broker in Broker
    )


def _ready(world: World) -> Any:
    async def ready() -> bool:
        return not world.not_ready()

    return ready


async def _move_prices(world: World, instruments: set[str], up: bool) -> None:
    listed = {row.key: row for row in universe()}
    for name in instruments & set(listed):
        try:
            await world.admin("price", {"instrument": name, "last_price": float(swung(listed[name], up))})
        except AWAY as error:
            world.log.write("price not moved", instrument=name, error=repr(error))


def swung(row: Instrument, up: bool) -> Decimal:
    """5 % above or below where the walk began: inside the circuit limits, beyond every limit of the plan."""
    wanted = Decimal(row.base_paise) / 100 * (1 + (SWING if up else -SWING))
    return (wanted / row.tick_size).to_integral_value(rounding=ROUND_FLOOR) * row.tick_size
