"""Replays every running workflow's history against the code about to start: a mismatch would leave it stuck.

Reads only. Ended orders are the saved histories' business, in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import StopTheStart

if TYPE_CHECKING:
    from core.config import Settings

SHOWN = 5


async def running_histories(settings: Settings) -> int:
    """How many running workflows replay well; 0 where the namespace does not exist yet.

    Raises:
        StopTheStart: at least one does not; names them, and what to do.
    """
    from temporalio.service import RPCError, RPCStatusCode
    from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

    from core.temporal import connect
    from workflows.kill_switch import KillSwitchWorkflow
    from workflows.order import OrderWorkflow
    from workflows.reconcile import ReconcileWorkflow

    client = await connect(settings)
    replayer = Replayer(
        workflows=[OrderWorkflow, ReconcileWorkflow, KillSwitchWorkflow],
        workflow_runner=UnsandboxedWorkflowRunner(),
        data_converter=client.data_converter,
    )
    types = "'OrderWorkflow', 'ReconcileWorkflow', 'KillSwitchWorkflow'"
    running = client.list_workflows(f"ExecutionStatus = 'Running' AND WorkflowType IN ({types})")
    count, failed = 0, []
    try:
        async with replayer.workflow_replay_iterator(running.map_histories()) as results:
            async for result in results:
                count += 1
                if result.replay_failure is not None:
                    failed.append(f"  {result.history.workflow_id}: {_first_line(result.replay_failure)}")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return 0
    if failed:
        raise StopTheStart(_explain(failed, count))
    return count


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]


def _explain(failed: list[str], count: int) -> str:
    more = [f"  and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
    return "\n".join(
        [
            f"{len(failed)} of {count} running workflows do not replay on this code, so it cannot take them over:",
            *failed[:SHOWN],
            *more,
            "Nothing was changed. Go back to the code they began under until they have ended (or cancel those orders),",
            "or make the change with `workflow.patched` so that both begin and end.",
        ]
    )
