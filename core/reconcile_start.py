"""Starting a broker's reconcile workflow, or asking the running one for a round. There is never a second one: the id is the broker's."""

from __future__ import annotations

from uuid import UUID

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from core import reconcile_work
from core.config import Settings
from core.errors import Transient
from core.reconcile_work import ReconcileAsk, ReconcileDurations, ReconcileInput
from core.routing import account, orders_queue, reconcile_workflow_id, target
from core.trading.types import Broker


async def ensure(client: Client, settings: Settings, broker: Broker, ask: ReconcileAsk | None) -> None:
    """The workflow runs when this returns, with `ask` as its next round's reason. Raises RPCError while Temporal is away."""
    durations = ReconcileDurations().scaled(settings.duration_factor)
    start = ReconcileInput(
        broker=broker, account=account(settings, broker), target=target(settings, broker), durations=durations
    )
    await client.start_workflow(
        reconcile_work.RECONCILE_WORKFLOW,
        start,
        id=reconcile_workflow_id(broker),
        task_queue=orders_queue(broker),
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"{broker} {start.account}: journal against broker, every {durations.every:g} s",
        start_signal=reconcile_work.NOW if ask is not None else None,
        start_signal_args=[ask.model_copy(update={"durations": durations})] if ask is not None else [],
    )


async def ask_now(
    client: Client, settings: Settings, broker: Broker, reason: str, request_id: UUID | None = None
) -> None:
    """A round as soon as possible; the workflow is started if it is gone. Raises Transient while Temporal is away."""
    try:
        await ensure(client, settings, broker, ReconcileAsk(reason=reason, request_id=request_id))
    except RPCError as error:
        raise Transient(f"Temporal does not take the request: {error.message}", part="temporal") from error
