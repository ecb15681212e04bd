"""What an exit may still close, read inside the caller's transaction: held, less what others take, never what was entered after it.

Locks the position's row and writes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, and_, bindparam, func, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.storage.fills import FILLS, ORDERS, lock_position
from core.storage.models import SendRow, table_of
from core.storage.statements import Statement
from core.trading.exits import Moved, Share, share
from core.trading.orders import Step
from core.trading.types import Intent, OrderStatus, SendState, Side

SENDS = table_of(SendRow)

WORKING = (SendState.SENDING, SendState.SENT, SendState.UNKNOWN)

_LATE: ColumnElement[str] = literal_column(f"'{SendState.LATE}'")
"""Spelled out, not bound: the few rows are found by the partial index of that state."""

_POSITION = ("instance", "instrument_token", "product")

_CLOCKS = timedelta(days=1)
"""How far an exchange's time of a fill may lie before the moment it was booked; what is older was booked before any exit asked."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """An order of the position whose fills nobody can know now. `soon`: only because it is being sent this moment."""

    intent: str
    told: str
    soon: bool


@dataclass(frozen=True, slots=True)
class Left:
    """`quantity`: units the exit may take now, 0 or less when there are none. `share` tells apart whose the position is."""

    quantity: int
    share: Share
    doubt: Doubt | None


async def left_to_exit(connection: AsyncConnection, order: dict[str, Any]) -> Left:
    """What is held in the exit's direction and was not entered after it, minus what other sends that may be at the broker will
    still take; and whether another order of the position is in doubt.

    Locks the position's row first: two exits claiming at once take turns, and the second sees the first.
    """
    position = await lock_position(connection, order)
    held = -position.quantity * Side(order["side"]).sign
    here = and_(*_same_position(order))
    others = and_(here, ORDERS.c.order_id != order["order_id"], ORDERS.c.ended_at.is_(None))
    booked = (
        select(func.coalesce(func.sum(FILLS.c.quantity), 0))
        .where(FILLS.c.order_id == SENDS.c.order_id, FILLS.c.broker_order_id == SENDS.c.broker_order_id)
        .scalar_subquery()
    )
    rest = select(func.coalesce(func.sum(SENDS.c.quantity - booked), 0)).select_from(
        ORDERS.join(SENDS, SENDS.c.order_id == ORDERS.c.order_id)
    )
    exits = ORDERS.c.intent == Intent.EXIT.value
    working = rest.where(others, exits, SENDS.c.state.in_(WORKING)).scalar_subquery()
    late = rest.where(here, exits, SENDS.c.state == _LATE).scalar_subquery()
    taken = (await connection.execute(select(working.label("working"), late.label("late")))).one()
    doubt = await _in_doubt(connection, others)
    if doubt is None and taken.late:
        told = f"waits: an earlier send of {taken.late} turned up late in the book and is being cancelled"
        doubt = Doubt(Intent.EXIT, told, False)
    whose = share(held, await _since_decided(connection, order))
    return Left(min(held - int(taken.working) - int(taken.late), whose.mine), whose, doubt)


async def _since_decided(connection: AsyncConnection, order: dict[str, Any]) -> list[Moved]:
    """The position's fills booked since the exit was decided, in their order."""
    decided = order["created_at"]
    rows = await connection.execute(
        select(FILLS.c.side, FILLS.c.quantity, (ORDERS.c.created_at > decided).label("younger"))
        .join(ORDERS, ORDERS.c.order_id == FILLS.c.order_id)
        .where(
            *(FILLS.c[name] == order[name] for name in _POSITION),
            FILLS.c.filled_at > decided - _CLOCKS,
            FILLS.c.recorded_at > decided,
        )
        .order_by(FILLS.c.filled_at, FILLS.c.recorded_at, FILLS.c.trade_id)
    )
    towards = -Side(order["side"]).sign
    return [Moved(row.quantity * Side(row.side).sign * towards, row.younger) for row in rows]


async def still_working(connection: AsyncConnection, order: dict[str, Any]) -> str | None:
    """In words, an order of the position that may still fill or fail to: another exit at the broker, or an entry that was decided
    before this exit. Until none is left nobody can say that the position is flat."""
    working = and_(ORDERS.c.intent == Intent.EXIT.value, SENDS.c.state.in_(WORKING))
    found = await _one_open(connection, order, or_(working, _entry_before(order)))
    return None if found is None else f"nothing is left to exit now, but {found}"


def _entry_before(order: dict[str, Any]) -> ColumnElement[bool]:
    """One on the exit's own side opens nothing that the exit could close."""
    return and_(
        ORDERS.c.intent == Intent.ENTRY.value,
        ORDERS.c.side != order["side"],
        ORDERS.c.created_at <= order["created_at"],
    )


async def _one_open(connection: AsyncConnection, order: dict[str, Any], like: ColumnElement[bool]) -> str | None:
    query = (
        select(ORDERS.c.intent, ORDERS.c.order_id, ORDERS.c.status)
        .join(SENDS, and_(SENDS.c.order_id == ORDERS.c.order_id, SENDS.c.send_no == ORDERS.c.send_no))
        .where(*_same_position(order), ORDERS.c.order_id != order["order_id"], ORDERS.c.ended_at.is_(None), like)
        .limit(1)
    )
    found = (await connection.execute(query)).first()
    return None if found is None else f"{found.intent} {found.order_id} of the same position is {found.status}"


# an exit's end -------------------------------------------------------------------------------------------------------


async def more_to_exit(
    connection: AsyncConnection, order: dict[str, Any], steps: Sequence[Step], full: int
) -> str | None:
    """Why an exit that is about to end FILLED goes on with another send, in words: it was cut to what was held when it was sent, and
    more of what it is to close is there, or may come from an entry decided before it. None: it ends.

    `steps` are not taken yet. `full` is what it has filled when all its sends are full, in units.
    """
    new = sum(step.fill.quantity for step in steps if step.fill is not None)
    filled: int = order["filled_quantity"] + new
    cut = order["intent"] == Intent.EXIT and filled < order["quantity"] and not order["cancel_requested"]
    if not cut or not steps or steps[-1].status is not OrderStatus.FILLED:
        return None
    if filled < full:
        return None  # somebody reduced it in the broker's own app: that stays
    left = (await left_to_exit(connection, order)).quantity - new
    if left > 0:
        return f"goes on: {left} of what it is to close are left"
    entry = await _one_open(connection, order, _entry_before(order))
    return None if entry is None else f"goes on: {entry}"


async def unexited(connection: AsyncConnection, order: dict[str, Any]) -> str | None:
    """In words, what of the position no exit is about to close though one was to: for a person, who may close it."""
    if order["filled_quantity"] == 0:
        return None
    if order["intent"] == Intent.ENTRY:
        key = {name: order[name] for name in (*_POSITION, "created_at", "order_id")}
        ended = await _EXIT_ENDED.rows(connection, **key, sign=Side(order["side"]).sign)
        if not ended:
            return None
        return f"exit {ended[0]['order_id']}, decided later, had closed the position before this filled on"
    if order["status"] != OrderStatus.FILLED or order["filled_quantity"] < order["quantity"]:
        return None
    left = await left_to_exit(connection, order)
    if left.quantity <= 0 or order["quantity"] < left.share.at_decision:
        return None  # nothing is left, or it was to close a part
    return (
        f"it closed the {order['quantity']} that were held, while an entry from before it filled {left.quantity} more"
    )


def _exit_ended_statement() -> Select[Any]:
    """An exit of the position decided after an entry, that had ended, with the position flat, when the entry filled on."""
    later = ORDERS.alias("later")
    return (
        select(later.c.order_id)
        .join(FILLS, FILLS.c.recorded_at > later.c.ended_at)
        .where(
            *(later.c[name] == bindparam(name, type_=ORDERS.c[name].type) for name in _POSITION),
            later.c.created_at > bindparam("created_at", type_=ORDERS.c.created_at.type),
            later.c.intent == literal_column(f"'{Intent.EXIT}'"),
            later.c.filled_quantity > 0,
            FILLS.c.order_id == bindparam("order_id", type_=FILLS.c.order_id.type),
            FILLS.c.position_quantity == FILLS.c.quantity * bindparam("sign", type_=Integer),
        )
        .limit(1)
    )


_EXIT_ENDED = Statement(_exit_ended_statement())
"""Asked at each fold of an entry that has filled."""


# how -----------------------------------------------------------------------------------------------------------------


def _same_position(order: dict[str, Any]) -> list[ColumnElement[bool]]:
    return [ORDERS.c[name] == order[name] for name in _POSITION]


async def _in_doubt(connection: AsyncConnection, others: ColumnElement[bool]) -> Doubt | None:
    """Of the position's other orders one whose fills nobody can know now; an entry first, one being sent last."""
    doubtful = (
        await connection.execute(
            select(ORDERS.c.intent, ORDERS.c.status, ORDERS.c.order_id)
            .join(SENDS, and_(SENDS.c.order_id == ORDERS.c.order_id, SENDS.c.send_no == ORDERS.c.send_no))
            .where(
                others,
                or_(
                    ORDERS.c.status.in_((OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED)),
                    and_(ORDERS.c.intent == Intent.ENTRY.value, SENDS.c.state == SendState.SENDING),
                ),
            )
            .order_by(ORDERS.c.intent, ORDERS.c.status.desc())
            .limit(1)
        )
    ).first()
    if doubtful is None:
        return None
    sending = doubtful.status == OrderStatus.PENDING
    status = "being sent" if sending else doubtful.status
    return Doubt(
        doubtful.intent, f"waits: {doubtful.intent} {doubtful.order_id} of the same position is {status}", sending
    )
