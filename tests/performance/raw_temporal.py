"""The yardstick: a workflow of three empty activities on the same Temporal server. `python -m tests.performance.raw_temporal N AT_ONCE`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.worker import PollerBehaviorAutoscaling, UnsandboxedWorkflowRunner, Worker

QUEUE = "bench-raw"


@activity.defn
async def nothing() -> None:
    return


@workflow.defn
class ThreeEmptyActivities:
    @workflow.run
    async def run(self) -> None:
        for _ in range(3):
            await workflow.execute_activity(nothing, start_to_close_timeout=timedelta(seconds=10))


async def main(count: int, at_once: int) -> None:
    from core.config import settings
    from core.temporal import connect

    client = await connect(settings())
    stamp = f"{time.time():.0f}"
    gate = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with gate:
            await client.execute_workflow(ThreeEmptyActivities.run, id=f"raw-{stamp}-{number}", task_queue=QUEUE)

    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[ThreeEmptyActivities],
        activities=[nothing],
        workflow_runner=UnsandboxedWorkflowRunner(),
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(initial=2),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(initial=2),
    ):
        await one(-1)
        began = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(count)))
        print(f"{count / (time.perf_counter() - began):.1f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
    os._exit(0)  # the Temporal SDK's runtime may crash the interpreter's own shutdown
