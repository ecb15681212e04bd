"""New code may start only when every running order goes on under it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from cli import replay
from core.config import Settings
from core.errors import StopTheStart
from core.temporal import connect

pytestmark = pytest.mark.stack


@workflow.defn(name="OrderWorkflow")
class OlderOrderWorkflow:
    """Stands for an order begun under code that waited on a timer this code knows nothing of."""

    @workflow.run
    async def run(self, text: str) -> None:
        await asyncio.sleep(timedelta(hours=1).total_seconds())


async def _until(probe: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(600):
        if await probe():
            return
        await asyncio.sleep(0.1)
    pytest.fail("did not come true within a minute")


async def _waits_on_its_timer(handle: WorkflowHandle[Any, Any]) -> bool:
    history = await handle.fetch_history()
    return any(event.HasField("timer_started_event_attributes") for event in history.events)


async def _is_listed(client: Client, workflow_id: str) -> bool:
    return bool([row async for row in client.list_workflows(f"WorkflowId = '{workflow_id}'")])


async def test_a_running_order_of_incompatible_code_refuses_the_start(settings: Settings) -> None:
    client = await connect(settings)
    queue = f"replay-{uuid4()}"
    async with Worker(
        client, task_queue=queue, workflows=[OlderOrderWorkflow], workflow_runner=UnsandboxedWorkflowRunner()
    ):
        handle = await client.start_workflow(
            OlderOrderWorkflow.run, "not an order", id=f"test-{queue}", task_queue=queue
        )
        try:
            await _until(lambda: _waits_on_its_timer(handle))
            await _until(lambda: _is_listed(client, handle.id))  # the list is a moment behind
            with pytest.raises(StopTheStart, match="do not replay") as caught:
                await replay.running_histories(settings)
            assert handle.id in str(caught.value)
        finally:
            await handle.terminate("test is over")


async def test_a_namespace_that_is_not_there_yet_has_nothing_to_replay(settings: Settings) -> None:
    absent = settings.model_copy(update={"temporal_namespace": f"absent-{uuid4()}"})
    assert await replay.running_histories(absent) == 0
