"""Starting an order's workflow: by its validated signal, or again from the journal when its workflow was lost.

One id an order, and never two running at once; what is sent is the claim's business, not this one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy

from core import order_work
from core.order_work import OrderInput
from core.routing import order_workflow_id, orders_queue
from core.trading.durations import OrderDurations
from core.trading.types import Broker, Intent

TASK_TIMEOUT = timedelta(seconds=5)
"""A decision that its worker died over is given to the next one after this long; Temporal's own default is 10 s."""


def from_journal(broker: Broker, order: Mapping[str, Any], durations: OrderDurations) -> OrderInput:
    """The input an order of the journal began with, at its present send."""
    copied = {name: order[name] for name in OrderInput.model_fields if name in order}
    given = {
        "broker": broker,
        "symbol": order["tradingsymbol"],
        "requested_by": f"{order['source']} {order['strategy_id']}",
        "durations": durations,
    }
    return OrderInput.model_validate(copied | given)


async def start_order(client: Client, order: OrderInput, *, again: bool = False) -> None:
    """Start the order's workflow. `again`: also after an earlier run of it was closed, for orders the journal holds as open.

    The first start refuses any earlier run, so that a redelivered signal starts nothing. A second one is for a run that was terminated
    or lost: it finds in the journal where the order stands, and a send that was claimed is never claimed again. An exit's decisions go
    before those of entries that wait.

    Raises:
        WorkflowAlreadyStartedError: it runs (or, without `again`, ran) already.
        RPCError: Temporal does not start it.
    """
    policy = WorkflowIDReusePolicy.ALLOW_DUPLICATE if again else WorkflowIDReusePolicy.REJECT_DUPLICATE
    await client.start_workflow(
        order_work.ORDER_WORKFLOW,
        order.model_copy(update={"files_late": True}),
        id=order_workflow_id(order.broker, order.order_id),
        task_queue=orders_queue(order.broker),
        id_reuse_policy=policy,
        task_timeout=TASK_TIMEOUT,
        priority=Priority(priority_key=order_work.URGENT if order.intent is Intent.EXIT else order_work.NORMAL),
        static_summary=order_work.headline(order),
        static_details=_details(order, again=again),
        search_attributes=TypedSearchAttributes(
            [
                SearchAttributePair(order_work.SA_BROKER, order.broker.value),
                SearchAttributePair(order_work.SA_STRATEGY, order.strategy_id),
                SearchAttributePair(order_work.SA_SYMBOL, order.symbol),
                SearchAttributePair(order_work.SA_SIDE, order.side.value),
                SearchAttributePair(order_work.SA_STATUS, "PENDING"),
            ]
        ),
    )


def _details(order: OrderInput, *, again: bool) -> str:
    text = (
        f"**{order.intent}** of {order.strategy_id} on {order.broker} ({order.target}, account {order.account}).\n\n"
        f"Order `{order.order_id}`, begun by `{order.correlation_id}` at {order.origin_at:%Y-%m-%d %H:%M:%S.%f} UTC, "
        f"asked by {order.requested_by}."
    )
    return text + "\n\nStarted again by reconciliation: its earlier workflow was gone." if again else text
