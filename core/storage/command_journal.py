"""The journal as commands and late rows write it: modified, resolved by a person, adopted after the end.

Every method is one transaction, like the journal's own. Nothing here reopens an order that has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Exists, Text, and_, cast, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.brokers.port import BookRow, Trade
from core.clock import trading_day, utc_now
from core.events.envelope import EventType
from core.storage.claims import LEASES, LeaseProof
from core.storage.commands import (
    COMMANDS,
    CommandOutcome,
    CommandRecord,
    CommandState,
    ended_words,
    finish,
    modifications_sent,
    outcome_by_end,
)
from core.storage.db import transient
from core.storage.evidence import SEEN
from core.storage.journal import FILLS, ORDERS, SENDS, Journal, JournalOrder, NoSuchOrder, _result, _Work
from core.trading.commands import Changes, Modifiable
from core.trading.orders import SeenFill
from core.trading.types import Intent, OrderStatus, OrderType, SendState


@dataclass(frozen=True, slots=True)
class LateRow:
    """What a late row of the book came to. `adopted`: recorded by this call, so a person should be alerted.

    `working`: the book shows it still working, so it must be cancelled. `booked`: fills that this call booked.
    """

    found: JournalOrder
    send_no: int
    adopted: bool
    booked: int
    working: bool
    told: str


class CommandJournal(Journal):
    """One broker's journal on an engine of that broker's role."""

    # modify ------------------------------------------------------------------------------------------------------

    async def modifiable(self, order_id: UUID) -> Modifiable:
        """What decides which changes the order takes. Raises NoSuchOrder or Transient."""
        found = await self.load(order_id)
        async with transient("counting modifications"), self.engine.connect() as connection:
            sent = await modifications_sent(connection, order_id)
        order = found.order
        return Modifiable(
            self.broker,
            OrderType(order["order_type"]),
            order["tick_size"],
            order["lot_size"],
            found.send["quantity"],
            found.send_filled,
            sent,
        )

    async def modified(self, request_id: UUID, order_id: UUID, changes: Changes, evidence: str) -> JournalOrder:
        """The book shows the change: the order carries it from now on, the `modified` event tells, the command is APPLIED."""
        async with self._work(order_id) as work:
            values: dict[str, Any] = {
                name: value
                for name, value in (("price", changes.price), ("trigger_price", changes.trigger_price))
                if value is not None
            }
            if changes.quantity is not None:
                values["quantity"] = changes.quantity
                await work.set_send(work.send["send_no"], quantity=changes.quantity)
            work.order |= values | {"updated_at": utc_now()}
            work.dirty = True
            await work.connection.execute(update(ORDERS).where(ORDERS.c.order_id == order_id).values(**values))
            self._event(work, EventType.ORDER_MODIFIED)
            await finish(work.connection, request_id, CommandOutcome.APPLIED, evidence)
        return _result(work)

    # sending and ending commands -----------------------------------------------------------------------------------

    async def claim_command(self, request_id: UUID, proof: LeaseProof, *, again: bool) -> bool:
        """Mark the command as possibly sent, before a byte leaves. False: the lease is not ours, or it was marked before.

        `again` (a cancel) lets it be marked once more; a modify is marked once.
        """
        states = [CommandState.REQUESTED.value, *([CommandState.SENT.value] if again else [])]
        async with transient("claiming a command"), self.engine.begin() as connection:
            claimed = await connection.execute(
                update(COMMANDS)
                .where(
                    COMMANDS.c.request_id == request_id,
                    COMMANDS.c.state.in_(states),
                    _is_ours(proof),
                )
                .values(state=CommandState.SENT.value, sent_at=func.coalesce(COMMANDS.c.sent_at, utc_now()))
            )
            return claimed.rowcount == 1

    async def holds(self, proof: LeaseProof) -> bool:
        """Whether the lease is ours this moment, by database time."""
        async with transient("looking at the lease"), self.engine.connect() as connection:
            return bool(await connection.scalar(select(_is_ours(proof))))

    async def not_sent(self, request_id: UUID, answer: str) -> None:
        """Nothing left for certain: the command may be sent later, and does not count as sent."""
        await self._note(request_id, answer, state=CommandState.REQUESTED.value, sent_at=None)

    async def noted(self, request_id: UUID, answer: str) -> None:
        """What is known so far, for whoever waits for the outcome."""
        await self._note(request_id, answer)

    async def _note(self, request_id: UUID, answer: str, **values: Any) -> None:
        async with transient("noting a command's answer"), self.engine.begin() as connection:
            await connection.execute(
                update(COMMANDS)
                .where(COMMANDS.c.request_id == request_id, COMMANDS.c.finished_at.is_(None))
                .values(evidence=answer, **values)
            )

    async def finish_command(self, request_id: UUID, outcome: CommandOutcome, evidence: str) -> None:
        async with transient("finishing a command"), self.engine.begin() as connection:
            await finish(connection, request_id, outcome, evidence)

    async def finish_by_end(self, record: CommandRecord, found: JournalOrder, shown: str = "") -> CommandOutcome:
        """The order has ended: a cancel is APPLIED if it ended CANCELLED, everything else met the end. `shown`: what the book adds."""
        outcome = outcome_by_end(record.kind, found.status)
        told = ended_words(found.order)
        await self.finish_command(record.request_id, outcome, f"{told}; {shown}" if shown else told)
        return outcome

    # a person's resolution of UNRESOLVED --------------------------------------------------------------------------

    async def resolved_never_placed(self, request_id: UUID, order_id: UUID, why: str) -> JournalOrder:
        """A person says nothing (more) of it is at the broker: an entry ends EXPIRED, an exit opens its next send."""
        async with self._work(order_id) as work:
            if work.order["status"] != OrderStatus.UNRESOLVED:
                return _result(work)
            send_no = work.send["send_no"]
            await work.set_send(send_no, state=SendState.ABSENT, answer=why)
            if work.order["intent"] == Intent.ENTRY:
                self._advance(work, OrderStatus.EXPIRED, why)
            else:
                self._advance(work, OrderStatus.PENDING, why)
                work.order["broker_order_id"] = None
                await self._open_send(work, send_no + 1)
            await finish(work.connection, request_id, CommandOutcome.APPLIED, why)
        return _result(work)

    async def resolved_by_adoption(
        self, request_id: UUID, order_id: UUID, broker_order_id: str, why: str
    ) -> JournalOrder:
        """A person says this broker order is ours: it is followed from now on."""
        async with self._work(order_id) as work:
            if work.order["status"] != OrderStatus.UNRESOLVED:
                return _result(work)
            await _answered(work, broker_order_id, why)
            self._advance(work, OrderStatus.SUBMITTED, why)
            await finish(work.connection, request_id, CommandOutcome.APPLIED, why)
        return _result(work)

    async def resolved_by_fill(
        self, request_id: UUID, order_id: UUID, fill: SeenFill, broker_order_id: str, *, more: bool, why: str
    ) -> JournalOrder:
        """A person books a fill read elsewhere (a contract note). All filled: FILLED. With `more` it stays UNRESOLVED for
        the next fill; else the rest never filled and the order ends CANCELLED."""
        async with self._work(order_id) as work:
            if work.order["status"] != OrderStatus.UNRESOLVED:
                return _result(work)
            await _answered(work, broker_order_id, why)
            if fill.trade_id not in await _booked(work, broker_order_id):
                filled = work.order["filled_quantity"] - work.filled_before
                full = filled + fill.quantity >= work.send["quantity"]
                self._advance(work, OrderStatus.SUBMITTED)
                self._advance(work, OrderStatus.ACKED)
                record = await self._book(work, fill, broker_order_id)
                self._set_status(work, OrderStatus.FILLED if full else OrderStatus.PARTIALLY_FILLED, None)
                self._event(work, EventType.ORDER_FILLED, record)
            if not OrderStatus(work.order["status"]).is_end:
                self._advance(work, OrderStatus.UNRESOLVED if more else OrderStatus.CANCELLED, why)
            await finish(work.connection, request_id, CommandOutcome.APPLIED, why)
        return _result(work)

    async def owner_of(self, broker_order_id: str, besides: JournalOrder) -> UUID | None:
        """The order of another send that answers to this broker order in the same account: of another order, or an earlier one of
        this. The day counts where the present send has one: some brokers' ids begin anew each day."""
        send = besides.send
        present = and_(SENDS.c.order_id == send["order_id"], SENDS.c.send_no == send["send_no"])
        statement = select(SENDS.c.order_id).where(
            SENDS.c.broker_order_id == broker_order_id, SENDS.c.account == send["account"], ~present
        )
        if send["trading_day"] is not None:
            statement = statement.where(SENDS.c.trading_day == send["trading_day"])
        async with transient("looking up a broker order"), self.engine.connect() as connection:
            found: UUID | None = await connection.scalar(statement.limit(1))
            return found

    # late rows ---------------------------------------------------------------------------------------------------

    async def adopt_late_row(self, row: BookRow, trades: Sequence[Trade], account: str, target: str) -> LateRow | None:
        """Record a row of the book whose send was given up, or whose order has ended, and book its fills.

        The order's state stays and its workflow is not reopened; fills move position and PnL and are told as `filled`
        events. None: the row is none of ours, or the order's own workflow follows it.

        Raises:
            Transient: the database is away.
        """
        order_id = await self._order_of(row, account, target)
        if order_id is None:
            return None
        async with self._work(order_id) as work:
            mine = [each for each in work.sends if each["tag"] in row.tags]
            send = next(iter(mine or [s for s in work.sends if s["broker_order_id"] == row.broker_order_id]))
            if work.is_followed(send):
                return None
            is_new = await self._recognise(work, send, row)
            booked = await self._book_late(work, row, trades)
            working_first = await self._keep_late(work, send["send_no"], row)
            state = OrderStatus(work.order["status"])
            told = (
                f"broker order {row.broker_order_id} is {row.status} in the book, filled "
                f"{row.filled_quantity}/{row.quantity}; our order is {state}"
            )
        return LateRow(_result(work), send["send_no"], is_new or working_first, booked, not row.is_end, told)

    async def end_past_late(self, account: str, day: date) -> list[UUID]:
        """Late sends of days before `day`: no order outlives its day at the broker, and no book lists what it still filled, so exits
        do not wait for it any longer. Returns the orders, for a person to compare with the contract note.

        Raises:
            Transient: the database is away.
        """
        told = f"its day ended with fills of it not listed: nobody waits for them since {day}"
        statement = (
            update(SENDS)
            .where(SENDS.c.state == SendState.LATE.value, SENDS.c.account == account, SENDS.c.trading_day < day)
            .values(state=SendState.LATE_ENDED.value, answer=func.concat_ws("; ", SENDS.c.answer, told))
            .returning(SENDS.c.order_id)
        )
        async with transient("ending late sends of past days"), self.engine.begin() as connection:
            return list((await connection.execute(statement)).scalars())

    async def _order_of(self, row: BookRow, account: str, target: str) -> UUID | None:
        """By our tag; else by the broker's id, which says something within one account and target and, where the row tells its time,
        one day."""
        tagged = SENDS.c.tag.in_(row.tags)
        answered = and_(
            SENDS.c.account == account,
            SENDS.c.broker_order_id == row.broker_order_id,
            SENDS.c.order_id.in_(select(ORDERS.c.order_id).where(ORDERS.c.target == target)),
        )
        if row.order_at is not None:
            answered &= SENDS.c.trading_day == trading_day(row.order_at)
        query = select(SENDS.c.order_id).where(or_(tagged, answered)).order_by(tagged.desc(), SENDS.c.claimed_at.desc())
        async with transient("looking up a late row"), self.engine.connect() as connection:
            found: UUID | None = await connection.scalar(query.limit(1))
            return found

    async def _recognise(self, work: _Work, send: Mapping[str, Any], row: BookRow) -> bool:
        """The send answers to this broker order from now on. True: not known before."""
        if send["broker_order_id"] == row.broker_order_id:
            return False
        before = f"{send['answer']}; " if send["answer"] else ""
        await work.set_send(
            send["send_no"],
            broker_order_id=row.broker_order_id,
            answered_at=utc_now(),
            answer=f"{before}turned up late in the book as {row.status}",
        )
        if work.order["broker_order_id"] is None and OrderStatus(work.order["status"]).is_end:
            work.order["broker_order_id"] = row.broker_order_id
        work.order["updated_at"] = utc_now()
        work.dirty = True
        return True

    async def _keep_late(self, work: _Work, send_no: int, row: BookRow) -> bool:
        """LATE for as long as it may still move the position: until the book ends it and every unit the book counts is booked. Exits
        leave room for it meanwhile. Then LATE_ENDED. True: a send that was done with is shown working."""
        before = next(send["state"] for send in work.sends if send["send_no"] == send_no)
        done = row.is_end and sum((await _booked(work, row.broker_order_id)).values()) >= row.filled_quantity
        after = SendState.LATE_ENDED if done else SendState.LATE
        if before == after or (done and before == SendState.SENT):
            return False
        await work.set_send(send_no, state=after)
        work.order["updated_at"] = utc_now()
        work.dirty = True
        return not row.is_end and before != SendState.LATE

    async def _book_late(self, work: _Work, row: BookRow, trades: Sequence[Trade]) -> int:
        booked = await _booked(work, row.broker_order_id)
        new = sorted(
            (t for t in trades if t.broker_order_id == row.broker_order_id and t.trade_id not in booked),
            key=lambda t: (t.filled_at, t.trade_id),
        )
        for one in new:
            fill = SeenFill(one.trade_id, one.quantity, one.price, one.filled_at)
            record = await self._book(work, fill, row.broker_order_id)
            work.order["updated_at"] = utc_now()
            work.steps.append(OrderStatus(work.order["status"]))
            self._event(work, EventType.ORDER_FILLED, record)
        return len(new)


def _is_ours(proof: LeaseProof) -> Exists:
    """Whether the lease is ours this moment, by database time."""
    return exists().where(
        LEASES.c.name == proof.name,
        LEASES.c.holder == proof.holder,
        LEASES.c.epoch == proof.epoch,
        LEASES.c.expires_at > func.clock_timestamp(),
    )


async def _answered(work: _Work, broker_order_id: str, why: str) -> None:
    """The present send is this broker order, on a person's word."""
    values = {"state": SendState.SENT, "broker_order_id": broker_order_id, "answered_at": utc_now(), "answer": why}
    await work.set_send(work.send["send_no"], **values)
    work.order["broker_order_id"] = broker_order_id


async def _booked(work: _Work, broker_order_id: str) -> dict[str, int]:
    rows = await work.connection.execute(
        select(FILLS.c.trade_id, FILLS.c.quantity).where(
            FILLS.c.order_id == work.order["order_id"], FILLS.c.broker_order_id == broker_order_id
        )
    )
    return {row.trade_id: row.quantity for row in rows}


@dataclass(frozen=True, slots=True)
class Dossier:
    """What a person is shown before deciding: the order, every send with its answer, and the books seen meanwhile, oldest first."""

    order: dict[str, Any]
    sends: tuple[dict[str, Any], ...]
    books: tuple[dict[str, Any], ...]


async def find_orders(engine: AsyncEngine, text: str, limit: int = 2) -> list[UUID]:
    """Orders whose id is, or ends with, `text`; newest first. Raises Transient while the database is away."""
    if not text or set(text.lower()) - set("0123456789abcdef-"):
        return []
    wanted = cast(ORDERS.c.order_id, Text).endswith(text.lower())
    async with transient("looking for an order"), engine.connect() as connection:
        query = select(ORDERS.c.order_id).where(wanted).order_by(ORDERS.c.created_at.desc()).limit(limit)
        return list((await connection.execute(query)).scalars())


async def dossier(engine: AsyncEngine, order_id: UUID) -> Dossier:
    """The evidence about an order. Raises NoSuchOrder, or Transient while the database is away."""
    async with transient("reading an order's evidence"), engine.connect() as connection:

        async def rows(query: Any) -> tuple[dict[str, Any], ...]:
            return tuple(dict(row) for row in (await connection.execute(query)).mappings())

        orders = await rows(select(ORDERS).where(ORDERS.c.order_id == order_id))
        if not orders:
            raise NoSuchOrder(f"this journal has no order {order_id}")
        sends = await rows(select(SENDS).where(SENDS.c.order_id == order_id).order_by(SENDS.c.send_no))
        books = await rows(select(SEEN).where(SEEN.c.order_id == order_id).order_by(SEEN.c.requested_at))
        return Dossier(orders[0], sends, books)
