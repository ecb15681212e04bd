"""The journal of one broker: what we did and meant. Every method is one transaction: the transition and its events, or neither.

Callers get a JournalOrder back; nothing here talks to a broker, the log or Temporal.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core import ids
from core.clock import trading_day, utc_now
from core.errors import AlphaPandaError
from core.events.envelope import EventType
from core.events.payloads import FillRecord
from core.storage.db import transient
from core.storage.exits import more_to_exit, unexited
from core.storage.fills import book_fill
from core.storage.journal_events import EVENT_OF, outgoing
from core.storage.models import FillRow, OrderRow, OutgoingEventRow, SendRow, table_of
from core.storage.statements import Statement, equal, given
from core.trading.orders import SeenFill, SeenOrder, Step, check, fold_book, held_open, path
from core.trading.types import Broker, Exchange, Intent, OrderStatus, SendState

ORDERS = table_of(OrderRow)
SENDS = table_of(SendRow)
FILLS = table_of(FillRow)
EVENTS = table_of(OutgoingEventRow)


class NoSuchOrder(AlphaPandaError):
    """The journal has no such order: it was never decided here, or the database was restored from before it."""


@dataclass(frozen=True, slots=True)
class JournalOrder:
    """An order with its present send. `steps` are the statuses this call went through, one event each.

    `filled_before` is what its other sends filled: with it, `order["filled_quantity"]` and `send["quantity"]` can be compared.
    `unexited`, told by a fold alone: in words, what of the position no exit is about to close though one was to.
    """

    order: dict[str, Any]
    send: dict[str, Any]
    steps: tuple[OrderStatus, ...] = ()
    filled_before: int = 0
    unexited: str | None = None

    @property
    def status(self) -> OrderStatus:
        return OrderStatus(self.order["status"])

    @property
    def intent(self) -> Intent:
        return Intent(self.order["intent"])

    @property
    def send_filled(self) -> int:
        """What the present send filled, in units."""
        filled: int = self.order["filled_quantity"] - self.filled_before
        return filled


@dataclass(frozen=True, slots=True)
class HintedOrder:
    """The order behind a broker's update. `late`: the update is of a send that nobody follows, given up or of an ended order."""

    order_id: UUID
    correlation_id: UUID
    late: bool


@dataclass(slots=True)
class _Work:
    """A transaction in hand: the locked order, its sends, and the event rows to write at its end.

    `filled_before` is what sends other than the present one filled.
    """

    connection: AsyncConnection
    order: dict[str, Any]
    sends: list[Mapping[str, Any]]
    filled_before: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    steps: list[OrderStatus] = field(default_factory=list)
    dirty: bool = False

    @property
    def send(self) -> Mapping[str, Any]:
        return next(row for row in self.sends if row["send_no"] == self.order["send_no"])

    def is_followed(self, send: Mapping[str, Any]) -> bool:
        """The present send of an order that has not ended is its workflow's business; any other is a late row's."""
        ended = OrderStatus(self.order["status"]).is_end
        return not ended and bool(send["send_no"] == self.order["send_no"])

    async def set_send(self, send_no: int, **values: Any) -> None:
        """Change one send; `sends` then holds it as the database does."""
        key = {"key_order_id": self.order["order_id"], "key_send_no": send_no}
        changed = await _change_send(tuple(sorted(values))).rows(self.connection, **key, **values)
        self.sends = [changed[0] if row["send_no"] == send_no else row for row in self.sends]

    async def add_send(self, **values: Any) -> None:
        self.sends = [*self.sends, *await _ADD_SEND.rows(self.connection, **values)]


class Journal:
    """One broker's journal on an engine of that broker's role."""

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self.engine = engine
        self.broker = broker

    # reading -------------------------------------------------------------------------------------------------

    async def load(self, order_id: UUID) -> JournalOrder:
        """Raises NoSuchOrder, or Transient when the database is away."""
        async with transient("reading an order"), self.engine.connect() as connection:
            orders = await _ORDER.read(connection, order_id=order_id)
            work = self._held(connection, orders, order_id, await _SENDS_OF.read(connection, order_id=order_id))
            await _count_before(work)
            return _result(work)

    async def find_by_hint(self, broker_order_id: str, tag: str | None) -> HintedOrder | None:
        """Our order behind a broker's id or our tag, which goes before the id; None for orders that are not ours."""
        named = [SENDS.c.tag == tag] if tag else []  # its index is unique, and hardly an update comes without it
        async with transient("looking up a broker order"), self.engine.connect() as connection:
            for condition in (*named, SENDS.c.broker_order_id == broker_order_id):
                found = await connection.execute(
                    select(ORDERS.c.order_id, ORDERS.c.correlation_id, _NOBODY_FOLLOWS.label("late"))
                    .join(SENDS, SENDS.c.order_id == ORDERS.c.order_id)
                    .where(condition)
                    .order_by(SENDS.c.claimed_at.desc())
                    .limit(1)
                )
                row = found.one_or_none()
                if row is not None:
                    return HintedOrder(row.order_id, row.correlation_id, bool(row.late))
        return None

    async def broker_order_ids(self, account: str, target: str, day: date) -> set[str]:
        """Every broker order the journal knows for a trading day of one target: a healthy book holds all of them."""
        async with transient("reading the day's broker orders"), self.engine.connect() as connection:
            rows = await connection.execute(
                select(SENDS.c.broker_order_id)
                .join(ORDERS, ORDERS.c.order_id == SENDS.c.order_id)
                .where(
                    SENDS.c.account == account,
                    SENDS.c.trading_day == day,
                    SENDS.c.broker_order_id.is_not(None),
                    ORDERS.c.target == target,
                )
            )
            return set(rows.scalars())

    # transitions -----------------------------------------------------------------------------------------------

    async def submitted(self, order_id: UUID, send_no: int, broker_order_id: str, answer: str) -> JournalOrder:
        """The broker answered with its id, or look-up found it.

        An answer that comes after the send was given up, or its order ended, moves the order nowhere: the send is LATE, exits leave
        room for it, and the row is adopted, told and cancelled as every late row.
        """
        async with self._work(order_id) as work:
            send = next(row for row in work.sends if row["send_no"] == send_no)
            if not work.is_followed(send):
                if send["state"] in {SendState.ABSENT, SendState.UNKNOWN} and send["broker_order_id"] is None:
                    told = f"{send['answer']}; answered only then: {answer} as {broker_order_id}"
                    await work.set_send(send_no, state=SendState.LATE, answered_at=utc_now(), answer=told)
                return _result(work)
            if send["broker_order_id"] is None:
                await work.set_send(
                    send_no,
                    state=SendState.SENT,
                    broker_order_id=broker_order_id,
                    answered_at=utc_now(),
                    answer=answer,
                )
                work.order["broker_order_id"] = broker_order_id
                work.dirty = True
            self._advance(work, OrderStatus.SUBMITTED)
        return _result(work)

    async def release(self, order_id: UUID, send_no: int, answer: str) -> JournalOrder:
        """A certain "not placed": the send may be claimed again. Only the claimer of a SENDING send calls this."""
        async with self._work(order_id) as work:
            if work.send["send_no"] == send_no and work.send["state"] == SendState.SENDING:
                await work.set_send(send_no, state=SendState.INTENT, answered_at=utc_now(), answer=answer)
        return _result(work)

    async def refused(self, order_id: UUID, send_no: int, answer: str) -> JournalOrder:
        """A certain and final "not placed": the order is rejected with the broker's words, also where it was UNKNOWN meanwhile."""
        async with self._work(order_id) as work:
            claimed = {SendState.SENDING, SendState.INTENT, SendState.UNKNOWN}
            undecided = work.order["status"] in {OrderStatus.PENDING, OrderStatus.UNKNOWN}
            if work.send["send_no"] == send_no and work.send["state"] in claimed and undecided:
                await work.set_send(send_no, state=SendState.REFUSED, answered_at=utc_now(), answer=answer)
                self._advance(work, OrderStatus.REJECTED, answer)
        return _result(work)

    async def unknown(self, order_id: UUID, send_no: int, answer: str) -> JournalOrder:
        """Sent, no answer. Nothing but the book (or a late answer of the same send) leads out of here."""
        async with self._work(order_id) as work:
            if work.send["send_no"] == send_no and work.send["state"] == SendState.SENDING:
                await work.set_send(send_no, state=SendState.UNKNOWN, answered_at=utc_now(), answer=answer)
                self._advance(work, OrderStatus.UNKNOWN, answer)
        return _result(work)

    async def end_unsent(self, order_id: UUID, status: OrderStatus, reason: str) -> JournalOrder:
        """End an order whose present send was never claimed (too old, stopped, nothing left to exit). No-op once claimed."""
        async with self._work(order_id) as work:
            if work.send["state"] == SendState.INTENT and not OrderStatus(work.order["status"]).is_end:
                await work.set_send(work.send["send_no"], state=SendState.ABSENT, answer=reason)
                self._advance(work, status, reason)
        return _result(work)

    async def absent(self, order_id: UUID, send_no: int, evidence: str) -> JournalOrder:
        """Absence is proven: an entry ends EXPIRED, an exit opens its next send."""
        async with self._work(order_id) as work:
            if work.send["send_no"] != send_no or work.send["state"] != SendState.UNKNOWN:
                return _result(work)
            await work.set_send(send_no, state=SendState.ABSENT, answer=evidence)
            if work.order["intent"] == Intent.ENTRY:
                self._advance(work, OrderStatus.EXPIRED, evidence)
            else:
                self._advance(work, OrderStatus.PENDING, evidence)
                await self._open_send(work, send_no + 1)
        return _result(work)

    async def unresolved(self, order_id: UUID, send_no: int, why: str) -> JournalOrder:
        """Evidence ran out, of whether the send arrived or of how it ended: a person must decide."""
        async with self._work(order_id) as work:
            if work.send["send_no"] == send_no and work.send["state"] in {SendState.UNKNOWN, SendState.SENT}:
                self._advance(work, OrderStatus.UNRESOLVED, why)
        return _result(work)

    async def fold(
        self, order_id: UUID, broker_order_id: str, seen: SeenOrder, trades: Sequence[SeenFill]
    ) -> JournalOrder:
        """Bring an order to what the broker's book shows of it: transitions, fills, positions and events in one transaction.

        A row that is not the present send's says nothing about where the order stands: nothing happens, late rows are adopted.
        """
        async with self._work(order_id) as work:
            send = work.send
            if send["broker_order_id"] != broker_order_id:
                return _result(work)
            key = {"order_id": order_id, "broker_order_id": broker_order_id}
            booked = {row["trade_id"]: row["quantity"] for row in await _BOOKED.rows(work.connection, **key)}
            steps = fold_book(
                status=OrderStatus(work.order["status"]),
                quantity=send["quantity"],
                filled_quantity=sum(booked.values()),
                booked_trades=booked,
                seen=seen,
                trades=trades,
            )
            full = work.filled_before + send["quantity"]
            more = await more_to_exit(work.connection, work.order, steps, full)
            for step in held_open(steps) if more else steps:
                await self._take(work, step, broker_order_id, seen)
            if more is not None:
                self._advance(work, OrderStatus.PENDING, more)
                work.order["broker_order_id"] = None
                await self._open_send(work, send["send_no"] + 1)
            return replace(_result(work), unexited=await unexited(work.connection, work.order))

    # internals -------------------------------------------------------------------------------------------------

    async def _take(self, work: _Work, step: Step, broker_order_id: str, seen: SeenOrder) -> None:
        if step.fill is None:
            reason = seen.message if step.status in {OrderStatus.REJECTED, OrderStatus.CANCELLED} else None
            self._set_status(work, step.status, reason)
            self._event(work, EVENT_OF[step.status])
            return
        fill = await self._book(work, step.fill, broker_order_id)
        self._set_status(work, step.status, None)
        self._event(work, EventType.ORDER_FILLED, fill)

    async def _book(self, work: _Work, seen: SeenFill, broker_order_id: str) -> FillRecord:
        order = work.order
        day = next((s["trading_day"] for s in work.sends if s["broker_order_id"] == broker_order_id), None)
        fill = await book_fill(
            work.connection,
            order,
            seen,
            broker_order_id,
            day or trading_day(seen.filled_at),
            Exchange(order["exchange"]),
        )
        before = order["filled_quantity"]
        total = (order["average_price"] or Decimal(0)) * before + seen.price * seen.quantity
        order["filled_quantity"] = before + seen.quantity
        order["average_price"] = total / order["filled_quantity"]
        order["realized_pnl"] += fill.realized_pnl
        order["charges"] += fill.charges
        if _answers_another(work, broker_order_id):
            work.filled_before += seen.quantity
        work.dirty = True
        return fill

    def _advance(self, work: _Work, to: OrderStatus, reason: str | None = None) -> None:
        """Walk to `to`, one event a step. At an end, or already there, nothing happens."""
        for status in path(OrderStatus(work.order["status"]), to):
            self._set_status(work, status, reason if status is to else None)
            kind = EVENT_OF.get(status)
            if kind is not None:
                self._event(work, kind)

    def _set_status(self, work: _Work, to: OrderStatus, reason: str | None) -> None:
        before = OrderStatus(work.order["status"])
        if before is not to:
            check(before, to)
        now = utc_now()
        work.order["status"] = to.value
        work.order["updated_at"] = now
        if reason is not None:
            work.order["reason"] = reason
        if to.is_end and work.order["ended_at"] is None:
            work.order["ended_at"] = now
        work.steps.append(to)
        work.dirty = True

    def _event(self, work: _Work, kind: EventType, fill: FillRecord | None = None) -> None:
        work.order["order_seq"] += 1
        work.events.append(outgoing(self.broker, work.order, work.sends, kind, fill))

    async def _open_send(self, work: _Work, send_no: int) -> None:
        order = work.order
        order["send_no"] = send_no
        work.filled_before = order["filled_quantity"]
        await work.add_send(
            order_id=order["order_id"],
            send_no=send_no,
            tag=ids.order_tag(order["order_id"], send_no),
            state=SendState.INTENT,
            account=order["account"],
            quantity=order["quantity"] - order["filled_quantity"],
        )
        work.dirty = True

    @asynccontextmanager
    async def _work(self, order_id: UUID) -> AsyncIterator[_Work]:
        async with transient("writing the journal"), self.engine.begin() as connection:
            found = (await connection.execute(LOCKED_ORDER, {"order_id": order_id})).mappings().all()
            work = self._held(connection, found, order_id, await _SENDS_OF.rows(connection, order_id=order_id))
            await _count_before(work)
            yield work
            if work.dirty:
                values = {f"new_{name}": work.order[name] for name in _MUTABLE}
                await _CHANGE_ORDER.rows(connection, **values, order_id=order_id)
            for event in work.events:
                await _ADD_EVENT.rows(connection, **event | {"headers": json.dumps(event["headers"])})

    def _held(
        self,
        connection: AsyncConnection,
        orders: Sequence[Any],
        order_id: UUID,
        sends: Sequence[Mapping[str, Any]],
    ) -> _Work:
        if not orders:
            raise NoSuchOrder(f"{self.broker} journal has no order {order_id}")
        return _Work(connection, dict(orders[0]), list(sends))


# statements ------------------------------------------------------------------------------------------------------

_MUTABLE = (
    "status",
    "filled_quantity",
    "average_price",
    "broker_order_id",
    "send_no",
    "order_seq",
    "reason",
    "realized_pnl",
    "charges",
    "updated_at",
    "ended_at",
)


LOCKED_ORDER = select(ORDERS).where(*equal(ORDERS, "order_id")).with_for_update()
"""Run through SQLAlchemy, which begins the transaction with it."""

_ORDER = Statement(select(ORDERS).where(*equal(ORDERS, "order_id")))
_SENDS_OF = Statement(select(SENDS).where(*equal(SENDS, "order_id")).order_by(SENDS.c.send_no))
_BOOKED = Statement(select(FILLS.c.trade_id, FILLS.c.quantity).where(*equal(FILLS, "order_id", "broker_order_id")))
_BEFORE = Statement(
    select(func.coalesce(func.sum(FILLS.c.quantity), 0).label("filled")).where(
        *equal(FILLS, "order_id"),
        FILLS.c.broker_order_id.in_(
            select(SENDS.c.broker_order_id).where(
                SENDS.c.order_id == FILLS.c.order_id,
                SENDS.c.send_no != bindparam("send_no", type_=SENDS.c.send_no.type),
            )
        ),
    )
)
_NOBODY_FOLLOWS = and_(
    or_(ORDERS.c.ended_at.is_not(None), ORDERS.c.send_no != SENDS.c.send_no),
    SENDS.c.state.not_in([SendState.SENT.value, SendState.LATE_ENDED.value]),
)
"""What a send stands at whose row is late: an answered one, and one that is done with, are known."""

_CHANGE_ORDER = Statement(
    update(ORDERS).where(*equal(ORDERS, "order_id")).values(given(ORDERS, _MUTABLE, prefix="new_"))
)
_ADD_EVENT = Statement(insert(EVENTS).values(given(EVENTS, EVENTS.c.keys())))
_ADD_SEND = Statement(
    insert(SENDS)
    .values(given(SENDS, ("order_id", "send_no", "tag", "state", "account", "quantity")))
    .returning(*SENDS.columns)
)


@lru_cache(maxsize=64)
def _change_send(names: tuple[str, ...]) -> Statement:
    """Change these columns of one send. A handful of combinations exist."""
    key = (
        SENDS.c.order_id == bindparam("key_order_id", type_=SENDS.c.order_id.type),
        SENDS.c.send_no == bindparam("key_send_no", type_=SENDS.c.send_no.type),
    )
    return Statement(update(SENDS).where(*key).values(given(SENDS, names)).returning(*SENDS.columns))


def _answers_another(work: _Work, broker_order_id: str) -> bool:
    """This broker order is that of a send which is not the present one."""
    return any(
        row["broker_order_id"] == broker_order_id and row["send_no"] != work.order["send_no"] for row in work.sends
    )


async def _count_before(work: _Work) -> None:
    """What other sends filled. Asked only where there are any: hardly an order is sent twice."""
    if len(work.sends) > 1:
        key = {"order_id": work.order["order_id"], "send_no": work.order["send_no"]}
        work.filled_before = int((await _BEFORE.read(work.connection, **key))[0]["filled"])


def _result(work: _Work) -> JournalOrder:
    return JournalOrder(work.order, dict(work.send), tuple(work.steps), work.filled_before)


def exit_is_short(found: JournalOrder) -> bool:
    """An exit that ended without filling what it was asked for: a person should know.

    One that was never sent because nothing was left to exit is not short; one that was cancelled before it was sent is.
    """
    order = found.order
    nothing_left = found.send["state"] == SendState.ABSENT and not order["cancel_requested"]
    short = found.send_filled < found.send["quantity"]
    return found.intent is Intent.EXIT and found.status.is_end and short and not nothing_left


def seconds_since(moment: datetime) -> float:
    """Age by the host clock."""
    return (utc_now() - moment).total_seconds()
