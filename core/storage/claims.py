"""The claim: the one statement that gives a process the right to send an order, committed before a byte leaves.

No row claimed, no send. The kill flag, the lease's epoch, a latched cancel and, for an exit, what is held minus what other working exits
will take are read in the claiming transaction, under locks that order competing claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import trading_day, utc_now
from core.storage.db import transient
from core.storage.fills import lock_position
from core.storage.journal import ORDERS, SENDS, Journal
from core.storage.models import AccountRow, LeaseRow, table_of
from core.trading.types import Intent, SendState, Side

ACCOUNTS = table_of(AccountRow)
LEASES = table_of(LeaseRow)

_WORKING = (SendState.SENDING, SendState.SENT, SendState.UNKNOWN)


class ClaimResult(StrEnum):
    """CLAIMED: send now. The others say why not."""

    CLAIMED = "CLAIMED"
    ALREADY = "ALREADY"
    """Claimed before, by us or another: the outcome is whatever the book shows."""
    KILLED = "KILLED"
    """The kill switch is on, for the account or for the strategy, and this is an entry."""
    CANCELLED = "CANCELLED"
    """A cancel was asked before it was sent."""
    FLAT = "FLAT"
    """An exit with nothing left to exit."""
    NOT_OURS = "NOT_OURS"
    """The lease is another's now."""


@dataclass(frozen=True, slots=True)
class Claim:
    result: ClaimResult
    quantity: int = 0


@dataclass(frozen=True, slots=True)
class LeaseProof:
    """The lease under which we send: name, holder and the epoch we were given."""

    name: str
    holder: str
    epoch: int


async def claim_send(journal: Journal, order_id: UUID, send_no: int, proof: LeaseProof, deadline_s: float) -> Claim:
    """Take the right to send. `deadline_s` is how long from now a byte may still leave.

    Raises:
        Transient: the database is away. Whether the claim was committed is then unknown, and nothing may be sent.
    """
    async with transient("claiming a send"), journal.engine.begin() as connection:
        row = (
            (await connection.execute(select(ORDERS).where(ORDERS.c.order_id == order_id).with_for_update()))
            .mappings()
            .one()
        )
        order = dict(row)
        quantity = order["quantity"] - order["filled_quantity"]
        if order["intent"] == Intent.EXIT:
            quantity = min(quantity, await _left_to_exit(connection, order))
            if quantity <= 0:
                return Claim(ClaimResult.FLAT)
        now = utc_now()
        claimed = await connection.execute(
            update(SENDS)
            .where(
                SENDS.c.order_id == order_id,
                SENDS.c.send_no == send_no,
                SENDS.c.state == SendState.INTENT,
                exists().where(*_lease_is_ours(proof)),
                exists().where(ORDERS.c.order_id == order_id, ORDERS.c.ended_at.is_(None), ~ORDERS.c.cancel_requested),
                or_(
                    order["intent"] == Intent.EXIT.value,
                    ~exists().where(
                        ACCOUNTS.c.account == order["account"],
                        or_(ACCOUNTS.c.kill, ACCOUNTS.c.kill_strategies.has_key(order["strategy_id"])),
                    ),
                ),
            )
            .values(
                state=SendState.SENDING,
                quantity=quantity,
                trading_day=trading_day(now),
                lease_epoch=proof.epoch,
                claimed_at=now,
                deadline_at=now + timedelta(seconds=deadline_s),
                answered_at=None,
                answer=None,
            )
        )
        if claimed.rowcount == 1:
            return Claim(ClaimResult.CLAIMED, quantity)
        return Claim(await _why_not(connection, order, send_no, proof))


def _lease_is_ours(proof: LeaseProof) -> tuple[Any, ...]:
    return (
        LEASES.c.name == proof.name,
        LEASES.c.holder == proof.holder,
        LEASES.c.epoch == proof.epoch,
        LEASES.c.expires_at > func.clock_timestamp(),
    )


async def _left_to_exit(connection: AsyncConnection, order: dict[str, Any]) -> int:
    """What is held in the exit's direction, minus what other exits that may be at the broker will still take.

    Locks the position's row first: two exits claiming at once take turns, and the second sees the first.
    """
    position = await lock_position(connection, order)
    held = -position.quantity * Side(order["side"]).sign
    same = and_(
        ORDERS.c.instance == order["instance"],
        ORDERS.c.instrument_token == order["instrument_token"],
        ORDERS.c.product == order["product"],
        ORDERS.c.intent == Intent.EXIT.value,
        ORDERS.c.order_id != order["order_id"],
        ORDERS.c.ended_at.is_(None),
    )
    working = await connection.scalar(
        select(func.coalesce(func.sum(SENDS.c.quantity - ORDERS.c.filled_quantity), 0))
        .select_from(
            ORDERS.join(SENDS, and_(SENDS.c.order_id == ORDERS.c.order_id, SENDS.c.send_no == ORDERS.c.send_no))
        )
        .where(same, SENDS.c.state.in_(_WORKING))
    )
    return held - int(working or 0)


async def _why_not(connection: AsyncConnection, order: dict[str, Any], send_no: int, proof: LeaseProof) -> ClaimResult:
    state = await connection.scalar(
        select(SENDS.c.state).where(SENDS.c.order_id == order["order_id"], SENDS.c.send_no == send_no)
    )
    if state != SendState.INTENT or order["ended_at"] is not None:
        return ClaimResult.ALREADY
    if order["cancel_requested"]:
        return ClaimResult.CANCELLED
    if not await connection.scalar(select(exists().where(*_lease_is_ours(proof)))):
        return ClaimResult.NOT_OURS
    return ClaimResult.KILLED


async def sends_since(journal: Journal, account: str, seconds: float) -> list[float]:
    """Ages in seconds (host clock) of the account's claims of the last `seconds`: a new holder counts them before its first send."""
    async with transient("counting recent sends"), journal.engine.connect() as connection:
        since = utc_now() - timedelta(seconds=seconds)
        rows = await connection.execute(
            select(SENDS.c.claimed_at).where(SENDS.c.account == account, SENDS.c.claimed_at >= since)
        )
        now = utc_now()
        return [(now - claimed).total_seconds() for claimed in rows.scalars()]


async def sends_today(journal: Journal, account: str) -> int:
    """Claims of the present trading day: the durable count behind the day's limit."""
    async with transient("counting the day's sends"), journal.engine.connect() as connection:
        return (
            await connection.scalar(
                select(func.count())
                .select_from(SENDS)
                .where(
                    SENDS.c.account == account,
                    SENDS.c.trading_day == trading_day(utc_now()),
                    SENDS.c.claimed_at.is_not(None),
                )
            )
            or 0
        )
