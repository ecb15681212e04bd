"""Commands on orders, journalled first: what was asked, by whom, why, and what became of it. One row a request id, for ever.

Never talks to a broker or to Temporal; a command is finished once and keeps its first outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import utc_now
from core.errors import CommandConflict
from core.storage.db import transient
from core.storage.journal import ORDERS, NoSuchOrder
from core.storage.models import CommandRow, table_of
from core.trading.commands import CommandKind, CommandOutcome, CommandState
from core.trading.types import OrderStatus

__all__ = [
    "COMMANDS",
    "CommandKind",
    "CommandOutcome",
    "CommandRecord",
    "CommandState",
    "commands_of",
    "finish",
    "modifications_sent",
    "read_command",
    "request_command",
    "unfinished_commands",
]

COMMANDS = table_of(CommandRow)


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """A journalled command. `outcome` and `finished_at` are None until it is finished; `evidence` says what is known so far.

    `workflow_gone`: whoever asked found no running workflow to tell. Then reconciliation starts it again, with this command.
    """

    request_id: UUID
    order_id: UUID
    kind: CommandKind
    parameters: dict[str, Any]
    requested_by: str
    reason: str
    state: CommandState
    outcome: CommandOutcome | None
    evidence: str | None
    created_at: datetime
    sent_at: datetime | None
    finished_at: datetime | None
    workflow_gone: bool = False

    @property
    def is_finished(self) -> bool:
        return self.state is CommandState.FINISHED


async def request_command(
    engine: AsyncEngine,
    *,
    request_id: UUID,
    order_id: UUID,
    kind: CommandKind,
    parameters: dict[str, Any],
    requested_by: str,
    reason: str,
) -> CommandRecord:
    """Journal the command; a cancel latches in the same transaction. The same id again returns the first's record.

    A command on an order that has ended is finished at once: ORDER_ENDED.

    Raises:
        NoSuchOrder: this broker's journal has no such order.
        CommandConflict: the request id was used for something else.
        Transient: the database is away.
    """
    async with transient("journalling a command"), engine.begin() as connection:
        order = (
            (await connection.execute(select(ORDERS).where(ORDERS.c.order_id == order_id).with_for_update()))
            .mappings()
            .one_or_none()
        )
        if order is None:
            raise NoSuchOrder(f"this journal has no order {order_id}")
        before = await _read(connection, request_id)
        if before is not None:
            if (before.order_id, before.kind, before.parameters) != (order_id, kind, parameters):
                raise CommandConflict(
                    f"request id {request_id} was used for {before.kind} of order {before.order_id} {before.parameters}: "
                    "take a new one for another command"
                )
            return before
        await connection.execute(
            insert(COMMANDS).values(
                request_id=request_id,
                order_id=order_id,
                kind=kind.value,
                parameters=parameters,
                requested_by=requested_by,
                reason=reason,
                state=CommandState.REQUESTED.value,
                created_at=utc_now(),
            )
        )
        if order["ended_at"] is not None:
            await finish(connection, request_id, CommandOutcome.ORDER_ENDED, ended_words(dict(order)))
        elif kind is CommandKind.CANCEL:
            await connection.execute(update(ORDERS).where(ORDERS.c.order_id == order_id).values(cancel_requested=True))
        found = await _read(connection, request_id)
        assert found is not None
        return found


async def read_command(engine: AsyncEngine, request_id: UUID) -> CommandRecord | None:
    """The command as it stands. One still unfinished after its order ended is finished by that end.

    Raises:
        Transient: the database is away.
    """
    async with transient("reading a command"), engine.begin() as connection:
        found = await _read(connection, request_id)
        if found is None or found.is_finished:
            return found
        if found.state is CommandState.SENT and found.kind is not CommandKind.CANCEL:
            return found  # the book tells whether it came in time: whoever can read it finishes it
        order = (await connection.execute(select(ORDERS).where(ORDERS.c.order_id == found.order_id))).mappings().one()
        if order["ended_at"] is None:
            return found
        outcome = outcome_by_end(found.kind, OrderStatus(order["status"]))
        await finish(connection, request_id, outcome, ended_words(dict(order)))
        return await _read(connection, request_id)


async def unfinished_commands(
    engine: AsyncEngine, order_id: UUID | None = None, *, ended: bool = False
) -> list[CommandRecord]:
    """Commands without an outcome, oldest first, of one order or of all: whoever starts a lost workflow again hands them over.

    `ended`: only those whose order has ended, so that perhaps nobody goes on with them.

    Raises:
        Transient: the database is away.
    """
    async with transient("reading unfinished commands"), engine.connect() as connection:
        statement = select(COMMANDS).where(COMMANDS.c.finished_at.is_(None)).order_by(COMMANDS.c.created_at)
        if order_id is not None:
            statement = statement.where(COMMANDS.c.order_id == order_id)
        if ended:
            over = exists().where(ORDERS.c.order_id == COMMANDS.c.order_id, ORDERS.c.ended_at.is_not(None))
            statement = statement.where(over)
        return [_record(dict(row)) for row in (await connection.execute(statement)).mappings()]


async def commands_of(engine: AsyncEngine, order_id: UUID) -> list[CommandRecord]:
    """Every command on an order, oldest first, as it stands. Raises Transient."""
    statement = select(COMMANDS).where(COMMANDS.c.order_id == order_id).order_by(COMMANDS.c.created_at)
    async with transient("reading an order's commands"), engine.connect() as connection:
        return [_record(dict(row)) for row in (await connection.execute(statement)).mappings()]


async def finish(connection: AsyncConnection, request_id: UUID, outcome: CommandOutcome, evidence: str) -> None:
    """Give the command its outcome inside the caller's transaction. The first outcome stays."""
    await connection.execute(
        update(COMMANDS)
        .where(COMMANDS.c.request_id == request_id, COMMANDS.c.finished_at.is_(None))
        .values(state=CommandState.FINISHED.value, outcome=outcome.value, evidence=evidence, finished_at=utc_now())
    )


async def modifications_sent(connection: AsyncConnection, order_id: UUID) -> int:
    """Modifies of the order that may have reached the broker, whatever came of them."""
    return (
        await connection.scalar(
            select(func.count())
            .select_from(COMMANDS)
            .where(
                COMMANDS.c.order_id == order_id,
                COMMANDS.c.kind == CommandKind.MODIFY.value,
                COMMANDS.c.sent_at.is_not(None),
            )
        )
        or 0
    )


def outcome_by_end(kind: CommandKind, status: OrderStatus) -> CommandOutcome:
    """What the order's end says of a command that it met: CANCELLED is what a cancel wanted, and only the book ends an order so."""
    applied = kind is CommandKind.CANCEL and status is OrderStatus.CANCELLED
    return CommandOutcome.APPLIED if applied else CommandOutcome.ORDER_ENDED


def ended_words(order: dict[str, Any]) -> str:
    """How the order ended, in words."""
    why = f": {order['reason']}" if order["reason"] else ""
    return f"the order is {order['status']}, filled {order['filled_quantity']}/{order['quantity']}{why}"


async def _read(connection: AsyncConnection, request_id: UUID) -> CommandRecord | None:
    row = (
        (await connection.execute(select(COMMANDS).where(COMMANDS.c.request_id == request_id))).mappings().one_or_none()
    )
    return None if row is None else _record(dict(row))


def _record(row: dict[str, Any]) -> CommandRecord:
    return CommandRecord(
        request_id=row["request_id"],
        order_id=row["order_id"],
        kind=CommandKind(row["kind"]),
        parameters=row["parameters"],
        requested_by=row["requested_by"],
        reason=row["reason"],
        state=CommandState(row["state"]),
        outcome=None if row["outcome"] is None else CommandOutcome(row["outcome"]),
        evidence=row["evidence"],
        created_at=row["created_at"],
        sent_at=row["sent_at"],
        finished_at=row["finished_at"],
    )
