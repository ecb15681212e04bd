"""Exits of what is not ours, sent because a person typed --include-foreign: each claimed here before a byte leaves, and never again.

They are no orders of a strategy: reconciliation counts their trades as FOREIGN, as it counts the positions they close.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core import ids
from core.brokers.port import Book
from core.clock import day_began, trading_day, utc_now
from core.storage.claims import LEASES, LeaseProof
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_kill import ForeignSendRow, KillRow

SENDS = table_of(ForeignSendRow)
KILLS = table_of(KillRow)

SENDING, SENT, REFUSED, DONE, DAY_OVER = "SENDING", "SENT", "REFUSED", "DONE", "DAY_OVER"
"""SENDING: claimed, and whether it reached the broker only the book can tell. DONE: the book shows its end. DAY_OVER: its trading day
ended before any book did; it works no more, and what it did is in the account's positions."""


@dataclass(frozen=True, slots=True)
class ForeignExit:
    """One exit to claim. `number` counts the exits of this position under this switch."""

    kill_id: UUID
    account: str
    instrument: str
    product: str
    side: str
    quantity: int
    number: int

    @property
    def tag(self) -> str:
        """Derived: the same exit asked for twice has one tag, and a tag is claimed once."""
        return ids.order_tag(ids.derive(self.kill_id, "foreign", self.instrument, self.product), self.number)


async def claim_foreign(engine: AsyncEngine, wanted: ForeignExit, proof: LeaseProof, deadline_s: float) -> bool:
    """Take the right to send, for good; False where it was taken before, another exit of the position is at work (also an earlier
    switch's), the lease is another's, or the switch was released.

    Raises:
        Transient: the database is away. Whether the claim was committed is then unknown, and nothing may be sent.
    """
    now = utc_now()
    values = {
        "tag": wanted.tag,
        "kill_id": wanted.kill_id,
        "account": wanted.account,
        "instrument": wanted.instrument,
        "product": wanted.product,
        "side": wanted.side,
        "quantity": wanted.quantity,
        "state": SENDING,
        "claimed_at": now,
        "deadline_at": now + timedelta(seconds=deadline_s),
    }
    allowed = (
        select(*(literal(value, SENDS.c[name].type) for name, value in values.items()))
        .select_from(LEASES.join(KILLS, KILLS.c.kill_id == wanted.kill_id))
        .where(
            LEASES.c.name == proof.name,
            LEASES.c.holder == proof.holder,
            LEASES.c.epoch == proof.epoch,
            LEASES.c.expires_at > func.clock_timestamp(),
            KILLS.c.released_at.is_(None),
            ~exists().where(
                _at_work(wanted.account),
                SENDS.c.instrument == wanted.instrument,
                SENDS.c.product == wanted.product,
            ),
        )
    )
    statement = insert(SENDS).from_select(list(values), allowed).on_conflict_do_nothing().returning(SENDS.c.tag)
    async with transient("claiming an exit of what is not ours"), engine.begin() as connection:
        return (await connection.execute(statement)).one_or_none() is not None


async def note_foreign(
    engine: AsyncEngine, tag: str, state: str, *, broker_order_id: str | None = None, answer: str | None = None
) -> None:
    """What became of a send."""
    given = {"broker_order_id": broker_order_id, "answer": answer}
    values = {"state": state} | {name: value for name, value in given.items() if value is not None}
    async with transient("noting an exit of what is not ours"), engine.begin() as connection:
        await connection.execute(update(SENDS).where(SENDS.c.tag == tag).values(**values))


async def foreign_sends(engine: AsyncEngine, kill_id: UUID) -> list[dict[str, Any]]:
    """All of a switch's, oldest first."""
    query = select(SENDS).where(SENDS.c.kill_id == kill_id).order_by(SENDS.c.claimed_at)
    async with transient("reading exits of what is not ours"), engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]


async def sends_that_count(engine: AsyncEngine, account: str, kill_id: UUID) -> list[dict[str, Any]]:
    """All of this switch's, and those of the account's earlier ones that may still be at work today, oldest first.

    An order of an earlier trading day works no more; what it did is in the positions.
    """
    query = select(SENDS).where(or_(SENDS.c.kill_id == kill_id, _at_work(account))).order_by(SENDS.c.claimed_at)
    async with transient("reading exits of what is not ours"), engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]


def _at_work(account: str) -> ColumnElement[bool]:
    """Sent on the present trading day, and the book has not shown its end."""
    today = day_began(trading_day(utc_now()))
    return and_(SENDS.c.account == account, SENDS.c.state.in_((SENDING, SENT)), SENDS.c.claimed_at >= today)


def past(sends: Iterable[Mapping[str, Any]], book: Book) -> list[Mapping[str, Any]]:
    """Those that nobody will ever see end: of a trading day before the book's, and not listed there. The book of that day is gone."""
    listed = {tag for row in book.rows for tag in row.tags}
    return [
        send
        for send in sends
        if send["state"] in {SENDING, SENT}
        and send["tag"] not in listed
        and trading_day(send["deadline_at"]) < book.trading_day
    ]


async def end_past(engine: AsyncEngine, sends: Iterable[Mapping[str, Any]]) -> None:
    """Give up following these, with what was known of each as the evidence."""
    async with transient("ending exits of what is not ours of a past day"), engine.begin() as connection:
        for send in sends:
            day = trading_day(send["deadline_at"])
            known = send["answer"] or "no answer"
            told = f"{send['state']}, {known}; {day} ended before a book showed its end"
            mine = and_(SENDS.c.tag == send["tag"], SENDS.c.state == send["state"])
            await connection.execute(update(SENDS).where(mine).values(state=DAY_OVER, answer=told))


async def foreign_in_words(engine: AsyncEngine, kill_id: UUID) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The switch's exits whose end the book has not shown, and those of which it never will, as their day is over."""
    rows = await foreign_sends(engine, kill_id)
    return (
        tuple(_words(row) for row in rows if row["state"] in {SENDING, SENT}),
        tuple(_words(row) for row in rows if row["state"] == DAY_OVER),
    )


def _words(row: Mapping[str, Any]) -> str:
    what = (
        f"exit {row['side']} {row['quantity']} {row['instrument']} {row['product']} (tag {row['tag']}, {row['state']})"
    )
    return f"{what}: {row['answer'] or 'no answer'}"
