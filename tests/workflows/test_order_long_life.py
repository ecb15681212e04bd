"""Orders that outlive a history or a worker: nothing is sent again, every event is published, the story goes on."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from core import order_work
from core.order_work import BrokerHint
from core.trading.types import OrderStatus
from tests.workflows.conftest import FakeWorld, desk, make_input, view
from tests.workflows.test_order_workflow import replayer

HINT = BrokerHint(status="OPEN", source="test")
LOOKS = 12


@pytest.fixture
def short_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server suggests a new run after some 4,000 events: here after 40."""
    monkeypatch.setattr(
        workflow.Info, "is_continue_as_new_suggested", lambda self: self.get_current_history_length() > 40
    )


async def runs_of(temporal: WorkflowEnvironment, workflow_id: str, last: str | None) -> list[WorkflowHandle[Any, Any]]:
    """Handles of every run, the newest first, each replayed against the code."""
    found = []
    while last:
        handle = temporal.client.get_workflow_handle(workflow_id, run_id=last)
        history = await handle.fetch_history()
        await replayer().replay_workflow(history)
        kinds = [event.event_type for event in history.events]
        begun = kinds.count(EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
        assert kinds.count(EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED) == begun, (
            "a run left news or a call on its way"
        )
        found.append(handle)
        started = history.events[0].workflow_execution_started_event_attributes
        last = started.continued_execution_run_id
    return found


async def story(handle: WorkflowHandle[Any, Any]) -> str:
    found = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return str(found.current_details)


@pytest.mark.usefixtures("short_histories")
@pytest.mark.parametrize("log_is_away", [0, 20])
async def test_a_long_order_goes_on_in_new_runs_and_forgets_nothing(
    temporal: WorkflowEnvironment, log_is_away: int
) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[
            *(view(OrderStatus.ACKED) for _ in range(LOOKS)),
            view(OrderStatus.PARTIALLY_FILLED, filled_quantity=20),
            *(view(OrderStatus.PARTIALLY_FILLED, filled_quantity=20) for _ in range(LOOKS)),
            view(OrderStatus.FILLED),
        ],
        publish_fails=log_is_away,
    )
    order = make_input()
    async with desk(temporal, world) as at:
        handle = await at.start(order)
        result = await handle.result()
        newest = (await temporal.client.get_workflow_handle(handle.id).describe()).run_id
        runs = await runs_of(temporal, handle.id, newest)
        told = await story(runs[0])
    assert len(runs) >= 3
    assert (result.status, result.filled_quantity) == (OrderStatus.FILLED, 50)
    assert world.count("place") == 1, "a new run must not send again"
    assert world.count("look") == 2 * LOOKS + 2
    transitions = ["decided", "SUBMITTED", "ACKED", "PARTIALLY_FILLED", "FILLED"]
    assert [word for word in transitions if f"**{word}**" not in told] == []
    assert world.count("publish") == log_is_away + 4, (
        "each change is published, none of them left behind by a run's end"
    )


@pytest.mark.usefixtures("short_histories")
async def test_a_new_run_shows_the_order_before_anything_happens(temporal: WorkflowEnvironment) -> None:
    order = make_input(resumed=view(OrderStatus.ACKED), story=("- earlier",))
    world = FakeWorld(look=[view(OrderStatus.FILLED)])
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(order)
            told = await story(handle)
            await handle.signal(order_work.HINT, HINT)
            await handle.result()
    assert "**ACKED**" in told
    assert "- earlier" in told


async def test_an_order_goes_on_under_a_worker_started_in_the_middle(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(place=[view(OrderStatus.SUBMITTED)], look=[view(OrderStatus.ACKED), view(OrderStatus.FILLED)])
    order = make_input()
    with temporal.auto_time_skipping_disabled():
        async with desk(temporal, world, cached=0) as at:
            handle = await at.start(order)
            await handle.signal(order_work.HINT, HINT)
            while "**ACKED**" not in await story(handle):
                pass  # bounded by the test's timeout; each query waits for the worker
        await handle.signal(order_work.HINT, HINT)  # nobody works just now
    async with desk(temporal, world):
        result = await handle.result()
    assert result.status is OrderStatus.FILLED
    assert (world.count("place"), world.count("look")) == (1, 2)
    await replayer().replay_workflow(await handle.fetch_history())
