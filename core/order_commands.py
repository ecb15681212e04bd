"""Asking something of an order: journalled first, then told to its workflow. The outcome is read from the journal.

Never calls a broker, and never takes a workflow that is gone for a command that is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from core import order_work
from core.clock import utc_now
from core.errors import Transient
from core.order_work import CommandInput
from core.routing import order_workflow_id
from core.storage.commands import CommandRecord, read_command, request_command, unfinished_commands
from core.trading.commands import CommandKind
from core.trading.types import Broker

ASK_EVERY_S = 0.2


async def ask(
    client: Client,
    engine: AsyncEngine,
    broker: Broker,
    *,
    request_id: UUID,
    order_id: UUID,
    kind: CommandKind,
    parameters: dict[str, Any],
    requested_by: str,
    reason: str,
) -> CommandRecord:
    """Journal the command and tell the order's workflow. Safe to repeat with the same request id: one command.

    Raises:
        NoSuchOrder, CommandConflict: as request_command.
        Transient: the database or Temporal is away. The command may be journalled; ask again with the same request id.
    """
    record = await request_command(
        engine,
        request_id=request_id,
        order_id=order_id,
        kind=kind,
        parameters=parameters,
        requested_by=requested_by,
        reason=reason,
    )
    return await tell(client, broker, record)


async def tell(client: Client, broker: Broker, record: CommandRecord) -> CommandRecord:
    """Send a journalled command to its workflow; telling it twice does no harm. Raises Transient while Temporal is away."""
    if record.is_finished:
        return record
    handle = client.get_workflow_handle(order_workflow_id(broker, record.order_id))
    try:
        await handle.signal(order_work.COMMAND, CommandInput(request_id=record.request_id, kind=record.kind))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return replace(record, workflow_gone=True)
        raise Transient(f"Temporal does not answer: {error.message}") from error
    return record


async def tell_again(client: Client, engine: AsyncEngine, broker: Broker, older_than_s: float) -> list[CommandRecord]:
    """Tell every unfinished command that old to its workflow: its asker may have died before it did. Returns them as told."""
    now = utc_now()
    found = await unfinished_commands(engine)
    waiting = [one for one in found if (now - one.created_at).total_seconds() > older_than_s]
    return [await tell(client, broker, one) for one in waiting]


async def outcome(
    engine: AsyncEngine, request_id: UUID, *, within_s: float, told: Callable[[CommandRecord], None] = lambda _: None
) -> CommandRecord | None:
    """The command once it is finished, or as it stands after `within_s`; `told` hears each reading. None: no such command.

    Raises:
        Transient: the database is away.
    """
    until = time.monotonic() + within_s
    while True:
        record = await read_command(engine, request_id)
        if record is None or record.is_finished or time.monotonic() >= until:
            return record
        told(record)
        await asyncio.sleep(ASK_EVERY_S)
