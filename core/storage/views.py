"""The view tables of one broker: orders and timelines as the log tells them. Written by order-views, read by people's tools.

Never reads the journal: what is here can be dropped and folded from the log again with the same result.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, ColumnElement, Table, and_, bindparam, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import AlphaPandaError
from core.events.envelope import Envelope
from core.events.payloads import OrderEvent, OrderState, Signal, SignalRejected, SignalValidated
from core.storage.db import transient
from core.storage.models import ViewEventRow, ViewOrderRow, table_of
from core.storage.statements import Statement
from core.trading.types import OrderStatus

ORDERS = table_of(ViewOrderRow)
EVENTS = table_of(ViewEventRow)

DECIDED = 0
"""`order_seq` of an order that only its validated signal has told of."""


class BadCursor(AlphaPandaError):
    """The caller's page cursor is none of ours: begin again without it."""


# writing ---------------------------------------------------------------------------------------------------------


async def store(engine: AsyncEngine, envelope: Envelope) -> None:
    """Store an event once by its id, and move its order's row if its `order_seq` is higher: one statement, safe to repeat.

    Raises:
        Transient: the database is away.
    """
    data = envelope.data
    values = _named("event", _event_row(envelope))
    statement = _STORE_EVENT
    if isinstance(data, OrderEvent):
        statement = _STORE_BOTH
        values |= _named("order", _order_row(data.order, data.order_seq))
    elif isinstance(data, SignalValidated):
        statement = _STORE_BOTH
        values |= _named("order", _order_row(_pending(data), DECIDED))
    async with transient("writing order views"), engine.connect() as connection:
        await statement.read(connection, **values)


def _named(prefix: str, row: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in row.items()}


def _columns(prefix: str, table: Table) -> dict[str, BindParameter[Any]]:
    return {column.name: bindparam(f"{prefix}_{column.name}", type_=column.type) for column in table.columns}


def _store_event() -> Insert:
    return insert(EVENTS).values(**_columns("event", EVENTS)).on_conflict_do_nothing()


def _store_both() -> Insert:
    """The order's row, only forward, with the event's row alongside. Built once: building costs more than running."""
    statement = insert(ORDERS).values(**_columns("order", ORDERS))
    kept = {"order_id", "created_at"}
    newer = {column.name: statement.excluded[column.name] for column in ORDERS.columns if column.name not in kept}
    statement = statement.on_conflict_do_update(
        index_elements=["order_id"], set_=newer, where=ORDERS.c.order_seq < statement.excluded.order_seq
    )
    return statement.add_cte(_store_event().cte("event"))


_STORE_EVENT = Statement(_store_event())
_STORE_BOTH = Statement(_store_both())


def _event_row(envelope: Envelope) -> dict[str, Any]:
    data = envelope.data
    signal_id: UUID | None = None
    order_id: UUID | None = None
    order_seq: int | None = None
    if isinstance(data, OrderEvent):
        signal_id, order_id, order_seq = data.order.signal_id, data.order.order_id, data.order_seq
    elif isinstance(data, Signal):
        signal_id = data.signal_id
    elif isinstance(data, SignalValidated):
        signal_id, order_id, order_seq = data.signal.signal_id, data.order_id, DECIDED
    elif isinstance(data, SignalRejected):
        signal_id = data.signal.signal_id
    return {
        "event_id": envelope.id,
        "type": envelope.type.value,
        "ts": envelope.ts,
        "signal_id": signal_id,
        "order_id": order_id,
        "order_seq": order_seq,
        "correlation_id": envelope.correlation_id,
        "data": data.model_dump_json(),
    }


def _pending(decision: SignalValidated) -> OrderState:
    """The order a validated signal becomes, before any step of its own is on the log."""
    signal = decision.signal
    return OrderState(
        **signal.model_dump(include=set(OrderState.model_fields) & set(Signal.model_fields)),
        order_id=decision.order_id,
        account=decision.account,
        target=decision.target,
        status=OrderStatus.PENDING,
        filled_quantity=0,
        average_price=None,
        broker_order_id=None,
        send_no=1,
        created_at=decision.decided_at,
        updated_at=decision.decided_at,
        realized_pnl=0,
        charges=0,
    )


def _order_row(order: OrderState, order_seq: int) -> dict[str, Any]:
    return {
        "order_id": order.order_id,
        "signal_id": order.signal_id,
        "strategy_id": order.strategy_id,
        "instance": order.instance,
        "instrument": order.instrument,
        "side": order.side.value,
        "status": order.status.value,
        "order_seq": order_seq,
        "state": order.model_dump_json(),
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }


# reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """None = any. `since` is the earliest creation time (UTC)."""

    statuses: Sequence[OrderStatus] = ()
    strategy_id: str | None = None
    instrument: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the next page begins: after this order, newest first."""

    created_at: datetime
    order_id: UUID

    def encode(self) -> str:
        return base64.urlsafe_b64encode(f"{self.created_at.isoformat()}|{self.order_id}".encode()).decode().rstrip("=")

    @staticmethod
    def decode(text: str) -> Cursor:
        """Raises BadCursor."""
        try:
            moment, _, order_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition("|")
            created_at = datetime.fromisoformat(moment)
            if created_at.tzinfo is None:
                raise ValueError("a cursor's time has a zone")
            return Cursor(created_at, UUID(order_id))
        except ValueError as error:
            raise BadCursor(f"not a cursor of this list: {text!r}; begin again without one") from error


async def list_orders(
    engine: AsyncEngine, wanted: OrderFilter, *, after: Cursor | None = None, limit: int = 50
) -> list[OrderState]:
    """Orders newest first. Raises Transient while the database is away."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.statuses:
        conditions.append(ORDERS.c.status.in_([status.value for status in wanted.statuses]))
    if wanted.strategy_id:
        conditions.append(ORDERS.c.strategy_id == wanted.strategy_id)
    if wanted.instrument:
        conditions.append(ORDERS.c.instrument == wanted.instrument)
    if wanted.since:
        conditions.append(ORDERS.c.created_at >= wanted.since)
    if after:
        conditions.append(tuple_(ORDERS.c.created_at, ORDERS.c.order_id) < tuple_(after.created_at, after.order_id))
    query = (
        select(ORDERS.c.state)
        .where(and_(True, *conditions))
        .order_by(ORDERS.c.created_at.desc(), ORDERS.c.order_id.desc())
        .limit(limit)
    )
    async with transient("reading orders"), engine.connect() as connection:
        return [OrderState.model_validate(state) for state in (await connection.execute(query)).scalars()]


async def count_by_status(engine: AsyncEngine) -> dict[str, int]:
    """How many orders stand at each status. Raises Transient."""
    query = select(ORDERS.c.status, func.count().label("orders")).group_by(ORDERS.c.status)
    async with transient("counting orders"), engine.connect() as connection:
        return {row.status: row.orders for row in await connection.execute(query)}


async def find_order(engine: AsyncEngine, order_id: UUID) -> OrderState | None:
    """Raises Transient while the database is away."""
    async with transient("reading an order"), engine.connect() as connection:
        state = await connection.scalar(select(ORDERS.c.state).where(ORDERS.c.order_id == order_id))
    return OrderState.model_validate(state) if state is not None else None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event of a timeline; `data` is its payload as JSON."""

    event_id: UUID
    type: str
    ts: datetime
    order_seq: int | None
    correlation_id: UUID
    data: dict[str, Any]


_DECISIONS = ("signal.validated", "signal.rejected")


async def decision_of(engine: AsyncEngine, signal_id: UUID) -> StoredEvent | None:
    """Risk's decision on a signal; None before the log tells of it. Raises Transient."""
    query = select(EVENTS).where(EVENTS.c.signal_id == signal_id, EVENTS.c.type.in_(_DECISIONS))
    async with transient("reading a decision"), engine.connect() as connection:
        row = (await connection.execute(query)).mappings().first()
    return None if row is None else _stored(row)


@dataclass(frozen=True, slots=True)
class DecisionFilter:
    """None = any."""

    accepted: bool | None = None
    strategy_id: str | None = None
    instrument: str | None = None
    since: datetime | None = None


async def list_decisions(
    engine: AsyncEngine, wanted: DecisionFilter, *, after: Cursor | None = None, limit: int = 50
) -> list[StoredEvent]:
    """Risk's decisions with their signals, newest first. Raises Transient."""
    types = {None: _DECISIONS, True: _DECISIONS[:1], False: _DECISIONS[1:]}[wanted.accepted]
    query = select(EVENTS).where(EVENTS.c.type.in_(types))
    signal = EVENTS.c.data["signal"]
    if wanted.strategy_id:
        query = query.where(signal["strategy_id"].astext == wanted.strategy_id)
    if wanted.instrument:
        query = query.where(signal["instrument"].astext == wanted.instrument)
    if wanted.since:
        query = query.where(EVENTS.c.ts >= wanted.since)
    if after:
        query = query.where(tuple_(EVENTS.c.ts, EVENTS.c.event_id) < tuple_(after.created_at, after.order_id))
    query = query.order_by(EVENTS.c.ts.desc(), EVENTS.c.event_id.desc()).limit(limit)
    async with transient("reading decisions"), engine.connect() as connection:
        return [_stored(row) for row in (await connection.execute(query)).mappings()]


async def fills_of_day(engine: AsyncEngine, day: date) -> list[StoredEvent]:
    """Fills of one trading day, in the order the log told of them. A fill is told of on its day or later. Raises Transient."""
    mine = EVENTS.c.data["fill"]["trading_day"].astext == day.isoformat()
    since = datetime(day.year, day.month, day.day, tzinfo=UTC)  # 05:30 IST: before the day rolls
    span = (EVENTS.c.type == "order.filled", EVENTS.c.ts >= since, mine)
    query = select(EVENTS).where(*span).order_by(EVENTS.c.ts, EVENTS.c.event_id)
    async with transient("reading fills"), engine.connect() as connection:
        return [_stored(row) for row in (await connection.execute(query)).mappings()]


def _stored(row: Any) -> StoredEvent:
    return StoredEvent(**{name: row[name] for name in StoredEvent.__dataclass_fields__})


async def timeline(engine: AsyncEngine, order: OrderState) -> list[StoredEvent]:
    """Signal, decision, then the order's own steps by `order_seq`. Raises Transient."""
    query = (
        select(EVENTS)
        .where(or_(EVENTS.c.order_id == order.order_id, EVENTS.c.signal_id == order.signal_id))
        .order_by(EVENTS.c.order_seq.asc().nulls_first(), EVENTS.c.ts, EVENTS.c.event_id)
    )
    async with transient("reading a timeline"), engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return [_stored(row) for row in rows]
