"""What overtakes what in a broker's urgent queue: exits and cancels first, then other commands, looks and look-ups last."""

from __future__ import annotations

import asyncio

from temporalio.testing import WorkflowEnvironment

from core import order_work
from core.ids import new_id
from core.order_work import CommandInput
from core.trading.commands import CommandKind
from core.trading.types import Intent, OrderStatus
from tests.workflows.conftest import FakeWorld, after, desk, make_input, view

CANCEL, MODIFY, RESOLVE = CommandKind


async def test_exits_and_cancels_overtake_commands_and_these_overtake_looks(temporal: WorkflowEnvironment) -> None:
    asked = tuple(CommandInput(request_id=new_id(), kind=kind) for kind in (MODIFY, CANCEL))
    world = FakeWorld(
        place=[view(OrderStatus.UNKNOWN)],
        look_up=[view(OrderStatus.ACKED)],
        look=[view(OrderStatus.FILLED)],
        command=[after(OrderStatus.PENDING, broker_order_id=None)],
    )
    async with desk(temporal, world) as at:
        handle = await at.start(make_input(intent=Intent.EXIT, commands=asked))
        await asyncio.wait_for(handle.result(), 30)
        history = await handle.fetch_history()
    given: dict[str, list[int]] = {}
    for event in history.events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled = event.activity_task_scheduled_event_attributes
            given.setdefault(scheduled.activity_type.name, []).append(scheduled.priority.priority_key)
    assert given[order_work.PLACE_ORDER] == [order_work.URGENT]
    assert given[order_work.CARRY_OUT] == [order_work.COMMANDED, order_work.URGENT]
    assert given[order_work.LOOK_UP_BY_TAG] == given[order_work.LOOK_AT_BOOK] == [order_work.NORMAL]
    assert order_work.URGENT < order_work.COMMANDED < order_work.NORMAL
