"""The claim: the one statement that gives a process the right to send an order, committed before a byte leaves.

No row claimed, no send. The kill flag, the lease's epoch, a latched cancel and, for an exit, what is held minus what other working exits
will take are read in the claiming transaction, under locks that order competing claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Text,
    Update,
    and_,
    bindparam,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from core import logging
from core.clock import DAY_ROLL_HOUR, IST, trading_day, utc_now
from core.storage.db import transient
from core.storage.exits import left_to_exit, still_working
from core.storage.journal import LOCKED_ORDER, ORDERS, SENDS, Journal
from core.storage.models import AccountRow, LeaseRow, table_of
from core.storage.models_kill import ForeignSendRow
from core.storage.statements import Statement, given
from core.trading.types import Intent, OrderStatus, SendState

ACCOUNTS = table_of(AccountRow)
LEASES = table_of(LeaseRow)
FOREIGN = table_of(ForeignSendRow)

log = logging.get(__name__)


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
    """An exit with nothing left to exit. `told` when something is held: it was entered after the exit was decided."""
    WAITS = "WAITS"
    """An exit with nothing left to exit at the moment, while other orders of its position may still change that."""
    UNCOVERED = "UNCOVERED"
    """An exit of something held, of which `at_most` leaves nothing."""
    IN_DOUBT = "IN_DOUBT"
    """An exit that cannot know what is left: another order of its position is UNKNOWN, UNRESOLVED or being sent. An entry of an
    instrument of which another order of the account is UNKNOWN or UNRESOLVED."""
    NOT_OURS = "NOT_OURS"
    """The lease is another's now."""
    ELSEWHERE = "ELSEWHERE"
    """Decided for another account or target than the one this process is logged in to."""


@dataclass(frozen=True, slots=True)
class Claim:
    result: ClaimResult
    quantity: int = 0
    told: str = ""
    soon: bool = False
    """IN_DOUBT only because an entry is being sent this moment."""


@dataclass(frozen=True, slots=True)
class LeaseProof:
    """What a process sends under: the lease's name, its holder and the epoch it was given; and the account and target it is
    logged in to, for which alone it may send."""

    name: str
    holder: str
    epoch: int
    account: str
    target: str


async def claim_send(
    journal: Journal, order_id: UUID, send_no: int, proof: LeaseProof, deadline_s: float, *, at_most: int | None = None
) -> Claim:
    """Take the right to send. `deadline_s` is how long from now a byte may still leave; an exit sends no more than `at_most`.

    Raises:
        Transient: the database is away. Whether the claim was committed is then unknown, and nothing may be sent.
    """
    async with transient("claiming a send"), journal.engine.begin() as connection:
        order = dict((await connection.execute(LOCKED_ORDER, {"order_id": order_id})).mappings().one())
        elsewhere = decided_elsewhere(order, proof)
        if elsewhere is not None:
            return Claim(ClaimResult.ELSEWHERE, told=elsewhere)
        quantity = order["quantity"] - order["filled_quantity"]
        if order["intent"] == Intent.EXIT:
            if quantity <= 0:
                return Claim(ClaimResult.FLAT)  # earlier sends of it have filled all it was asked for
            left = await left_to_exit(connection, order)
            quantity, doubt = min(quantity, left.quantity), left.doubt
            if doubt is not None and (quantity <= 0 or doubt.intent == Intent.ENTRY):
                return Claim(ClaimResult.IN_DOUBT, told=doubt.told, soon=doubt.soon)
            if quantity <= 0:
                working = await still_working(connection, order)
                if working is not None:
                    return Claim(ClaimResult.WAITS, told=working)
                return Claim(ClaimResult.FLAT, told=_entered_anew(left.share.anew))
            if at_most is not None:
                quantity = min(quantity, at_most)
            if quantity <= 0:
                return Claim(ClaimResult.UNCOVERED)
        now = utc_now()
        claimed = await _CLAIM.rows(
            connection,
            key_order_id=order_id,
            key_send_no=send_no,
            lease=proof.name,
            holder=proof.holder,
            epoch=proof.epoch,
            is_exit=order["intent"] == Intent.EXIT,
            key_account=order["account"],
            strategy_id=order["strategy_id"],
            key_token=order["instrument_token"],
            quantity=quantity,
            trading_day=trading_day(now),
            lease_epoch=proof.epoch,
            claimed_at=now,
            deadline_at=now + timedelta(seconds=deadline_s),
        )
        if claimed:
            return Claim(ClaimResult.CLAIMED, quantity)
        why, told = await _why_not(connection, order, send_no)
        if why is ClaimResult.NOT_OURS:
            log.warning(
                "claim refused: the lease is another's now", lease=proof.name, epoch=proof.epoch, send_no=send_no
            )
        return Claim(why, told=told)


def decided_elsewhere(order: Mapping[str, Any], proof: LeaseProof) -> str | None:
    """Why this process has nothing to do with the order: it was decided for another account or target. Neither ever changes."""
    if (order["account"], order["target"]) == (proof.account, proof.target):
        return None
    return (
        f"decided for account {order['account']} on {order['target']}; "
        f"this process is logged in to {proof.account} on {proof.target}"
    )


def _entered_anew(quantity: int) -> str:
    """Why an exit ends though something is held; empty when nothing is."""
    if not quantity:
        return ""
    return f"nothing left to exit: what it was decided on is closed, and the {quantity} held now were entered after it"


_OTHERS = ORDERS.alias("others")


def _unclear(account: Any, token: Any) -> tuple[ColumnElement[bool], ...]:
    """Orders of an instrument of which nobody knows what became: while there is one, the account takes no new entry of it."""
    return (
        _OTHERS.c.account == account,
        _OTHERS.c.instrument_token == token,
        _OTHERS.c.ended_at.is_(None),
        _OTHERS.c.status.in_(
            [literal_column(f"'{status}'") for status in (OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED)]
        ),
    )


def _claim() -> Update:
    """The one statement: the send, if nothing forbids it at this moment."""
    order_id = bindparam("key_order_id", type_=SENDS.c.order_id.type)
    killed = exists().where(
        ACCOUNTS.c.account == bindparam("key_account", type_=Text),
        or_(ACCOUNTS.c.kill, ACCOUNTS.c.kill_strategies.has_key(bindparam("strategy_id", type_=Text))),
    )
    ours = (
        LEASES.c.name == bindparam("lease", type_=Text),
        LEASES.c.holder == bindparam("holder", type_=Text),
        LEASES.c.epoch == bindparam("epoch", type_=LEASES.c.epoch.type),
        LEASES.c.expires_at > func.clock_timestamp(),
    )
    unclear = exists().where(
        *_unclear(bindparam("key_account", type_=Text), bindparam("key_token", type_=ORDERS.c.instrument_token.type))
    )
    told = ("quantity", "trading_day", "lease_epoch", "claimed_at", "deadline_at")
    return (
        update(SENDS)
        .where(
            SENDS.c.order_id == order_id,
            SENDS.c.send_no == bindparam("key_send_no", type_=SENDS.c.send_no.type),
            SENDS.c.state == literal(SendState.INTENT.value),
            exists().where(*ours),
            exists().where(ORDERS.c.order_id == order_id, ORDERS.c.ended_at.is_(None), ~ORDERS.c.cancel_requested),
            or_(bindparam("is_exit", type_=Boolean), and_(~killed, ~unclear)),
        )
        .values(given(SENDS, told) | {"state": SendState.SENDING.value, "answered_at": None, "answer": None})
        .returning(SENDS.c.send_no)
    )


_CLAIM = Statement(_claim())


async def _why_not(connection: AsyncConnection, order: dict[str, Any], send_no: int) -> tuple[ClaimResult, str]:
    """What forbade the claim, and in words where a result alone does not say enough."""
    state = await connection.scalar(
        select(SENDS.c.state).where(SENDS.c.order_id == order["order_id"], SENDS.c.send_no == send_no)
    )
    if state != SendState.INTENT or order["ended_at"] is not None:
        return ClaimResult.ALREADY, ""
    if order["cancel_requested"]:
        return ClaimResult.CANCELLED, ""
    if order["intent"] == Intent.ENTRY:
        if await connection.scalar(select(_stopped(order))):
            return ClaimResult.KILLED, ""
        unclear = select(_OTHERS.c.order_id, _OTHERS.c.status).where(
            *_unclear(order["account"], order["instrument_token"])
        )
        other = (await connection.execute(unclear.limit(1))).first()
        if other is not None:
            told = f"INSTRUMENT_IN_DOUBT: order {other.order_id} of {order['instrument']} is {other.status}"
            await connection.execute(  # what a person reads, should it grow too old meanwhile
                update(SENDS)
                .where(SENDS.c.order_id == order["order_id"], SENDS.c.send_no == send_no)
                .values(answer=told)
            )
            return ClaimResult.IN_DOUBT, told
    # What else forbade it: also a lease that came back meanwhile is asked again, and never taken for a kill.
    return ClaimResult.NOT_OURS, ""


def _stopped(order: dict[str, Any]) -> Any:
    flagged = or_(ACCOUNTS.c.kill, ACCOUNTS.c.kill_strategies.has_key(order["strategy_id"]))
    return exists().where(ACCOUNTS.c.account == order["account"], flagged)


async def sends_since(journal: Journal, account: str, seconds: float) -> list[float]:
    """Ages in seconds (host clock) of the account's claims of the last `seconds`, those of FOREIGN exits too: a new holder counts
    them before its first send."""
    async with transient("counting recent sends"), journal.engine.connect() as connection:
        since = utc_now() - timedelta(seconds=seconds)
        claims = [
            select(table.c.claimed_at).where(table.c.account == account, table.c.claimed_at >= since)
            for table in (SENDS, FOREIGN)
        ]
        rows = await connection.execute(union_all(*claims))
        now = utc_now()
        return [(now - claimed).total_seconds() for claimed in rows.scalars()]


async def sends_today(journal: Journal, account: str) -> int:
    """Claims of the present trading day, those of FOREIGN exits too: the durable count behind the day's limit."""
    day = trading_day(utc_now())
    began = datetime.combine(day, time(DAY_ROLL_HOUR), IST)
    ours = (SENDS.c.account == account, SENDS.c.trading_day == day, SENDS.c.claimed_at.is_not(None))
    foreign = (FOREIGN.c.account == account, FOREIGN.c.claimed_at >= began)
    counts = [
        select(func.count()).select_from(table).where(*claimed).scalar_subquery()
        for table, claimed in ((SENDS, ours), (FOREIGN, foreign))
    ]
    async with transient("counting the day's sends"), journal.engine.connect() as connection:
        return await connection.scalar(select(counts[0] + counts[1])) or 0
