"""Kill switches in one broker's journal: the flags that bind entries, who set them, and what is still open under them.

The flag is set and lifted under the account's lock, so every risk decision comes before or after it. Nothing here talks to a broker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core import ids
from core.brokers.port import BookRow
from core.clock import utc_now
from core.errors import AlphaPandaError
from core.storage.db import transient
from core.storage.journal import FILLS, ORDERS, SENDS
from core.storage.models import AccountRow, PositionRow, RiskDecisionRow, table_of
from core.storage.models_flatten import FlattenBookedRow
from core.storage.models_kill import KillRow

ACCOUNTS = table_of(AccountRow)
KILLS = table_of(KillRow)
FLATTENED = table_of(FlattenBookedRow)
POSITIONS = table_of(PositionRow)
DECISIONS = table_of(RiskDecisionRow)


class KillBusy(AlphaPandaError):
    """The kill switch still works, so it is not released without force."""


@dataclass(frozen=True, slots=True)
class KillRecord:
    """A kill switch as the journal holds it. `strategy_id` None: of the whole account."""

    kill_id: UUID
    account: str
    strategy_id: str | None
    requested_by: str
    reason: str
    include_foreign: bool
    engaged_at: datetime
    finished_at: datetime | None
    report: Mapping[str, Any] | None
    released_at: datetime | None
    released_by: str | None
    release_reason: str | None


@dataclass(frozen=True, slots=True)
class KillState:
    """The flags of an account and the switches behind them. A flag set by hand has no switch."""

    account_flag: str | None
    strategy_flags: Mapping[str, str]
    open: tuple[KillRecord, ...]


async def engage(engine: AsyncEngine, wanted: KillRecord) -> KillRecord:
    """Set the flag and record the switch; from this commit on no entry of the scope is decided or claimed.

    A switch of the same scope that still works is that switch: returned as it is, its flag set again.

    Raises:
        Transient: the database is away. Ask again: the same id is one switch.
    """
    async with transient("engaging the kill switch"), engine.begin() as connection:
        flags = await _lock(connection, wanted.account)
        known = await _read(connection, wanted.kill_id)
        if known is not None and (known.released_at or known.finished_at):
            return known  # a late retry never sets a flag again
        working = [one for one in await _open_of(connection, wanted.account, wanted.strategy_id) if not one.finished_at]
        found = known or (working[0] if working else None)
        if found is None:
            values = {name: getattr(wanted, name) for name in KillRecord.__dataclass_fields__}
            await connection.execute(insert(KILLS).values(**values))
            found = wanted
        elif wanted.include_foreign and not found.include_foreign and wanted.kill_id != found.kill_id:
            raise KillBusy(
                f"the kill switch of {_scope(found)} is engaged without --include-foreign: release it, then engage it anew"
            )
        await connection.execute(
            update(ACCOUNTS).where(ACCOUNTS.c.account == wanted.account).values(**_with_flag(flags, found))
        )
        return found


def _with_flag(flags: Any, kill: KillRecord) -> dict[str, Any]:
    told = f"{kill.reason} ({kill.requested_by})"
    if kill.strategy_id is not None:
        return {"kill_strategies": dict(flags.kill_strategies) | {kill.strategy_id: told}}
    return {"kill": True, "kill_by": kill.requested_by, "kill_reason": told, "kill_at": kill.engaged_at}


async def release(
    engine: AsyncEngine, account: str, strategy_id: str | None, *, by: str, reason: str, force: bool
) -> list[KillRecord]:
    """Lift the flag of this scope. Returns its switches, none where the flag was set by hand or not at all.

    Raises:
        KillBusy: its workflow has not finished and `force` was not given.
        Transient: the database is away.
    """
    async with transient("releasing the kill switch"), engine.begin() as connection:
        flags = await _lock(connection, account)
        found = await _open_of(connection, account, strategy_id)
        if not force and any(one.finished_at is None for one in found):
            raise KillBusy(
                f"the kill switch of {_scope(found[-1])} has not finished: see `alpha-panda kill status`, or stop it there "
                "with --force (orders and positions then stay as they are)"
            )
        await connection.execute(
            update(KILLS)
            .where(KILLS.c.kill_id.in_([one.kill_id for one in found]))
            .values(released_at=utc_now(), released_by=by, release_reason=reason)
        )
        if strategy_id is None:
            lifted: dict[str, Any] = {"kill": False, "kill_by": by, "kill_reason": None, "kill_at": utc_now()}
        else:
            lifted = {"kill_strategies": {k: v for k, v in flags.kill_strategies.items() if k != strategy_id}}
        await connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.account == account).values(**lifted))
        released = [await _read(connection, one.kill_id) for one in found]
        return [one for one in released if one is not None]


async def finish_kill(engine: AsyncEngine, kill_id: UUID, report: dict[str, Any]) -> KillRecord:
    """The workflow is done. The first report stays; the flag stays set until a person lifts it."""
    async with transient("finishing the kill switch"), engine.begin() as connection:
        await connection.execute(
            update(KILLS)
            .where(KILLS.c.kill_id == kill_id, KILLS.c.finished_at.is_(None))
            .values(finished_at=utc_now(), report=report)
        )
        found = await _read(connection, kill_id)
        assert found is not None
        return found


async def read_kill(engine: AsyncEngine, kill_id: UUID) -> KillRecord | None:
    async with transient("reading a kill switch"), engine.connect() as connection:
        return await _read(connection, kill_id)


async def kill_state(engine: AsyncEngine, account: str) -> KillState:
    """Flags and switches nobody released yet, oldest first."""
    async with transient("reading kill switches"), engine.connect() as connection:
        flags = (await connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.account == account))).one_or_none()
        rows = await connection.execute(
            select(KILLS).where(KILLS.c.account == account, KILLS.c.released_at.is_(None)).order_by(KILLS.c.engaged_at)
        )
        found = tuple(KillRecord(**row) for row in rows.mappings())
        if flags is None:
            return KillState(None, {}, found)
        reason = (flags.kill_reason or "no reason given") if flags.kill else None
        return KillState(reason, flags.kill_strategies, found)


async def unfinished_kills(engine: AsyncEngine) -> list[KillRecord]:
    """Switches that nobody released and whose workflow has not finished: whoever finds one without a workflow starts it."""
    async with transient("reading kill switches"), engine.connect() as connection:
        rows = await connection.execute(
            select(KILLS).where(KILLS.c.finished_at.is_(None), KILLS.c.released_at.is_(None))
        )
        return [KillRecord(**row) for row in rows.mappings()]


@dataclass(frozen=True, slots=True)
class Business:
    """The account's open orders (with the present send's state and quantity) and positions, in one snapshot."""

    orders: list[dict[str, Any]]
    positions: list[dict[str, Any]]


async def open_business(engine: AsyncEngine, account: str) -> Business:
    """A fill booked meanwhile is either in the position or still in its order, never in neither.

    Raises:
        Transient: the database is away.
    """
    send = and_(SENDS.c.order_id == ORDERS.c.order_id, SENDS.c.send_no == ORDERS.c.send_no)
    orders = (
        select(ORDERS, SENDS.c.state.label("send_state"), SENDS.c.quantity.label("send_quantity"), SENDS.c.tag)
        .select_from(ORDERS.join(SENDS, send))
        .where(ORDERS.c.account == account, ORDERS.c.ended_at.is_(None))
        .order_by(ORDERS.c.created_at, ORDERS.c.order_id)
    )
    positions = (
        select(POSITIONS)
        .where(POSITIONS.c.account == account, POSITIONS.c.quantity != 0)
        .order_by(POSITIONS.c.instrument, POSITIONS.c.product, POSITIONS.c.instance)
    )
    async with transient("reading open business"), engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        found = Business(
            [dict(row) for row in (await connection.execute(orders)).mappings()],
            [dict(row) for row in (await connection.execute(positions)).mappings()],
        )
        await connection.rollback()
        return found


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of the last exit asked for one position: its decision, and whether its order still works."""

    number: int
    accepted: bool
    working: bool
    denials: str
    decided_at: datetime


async def last_attempt(engine: AsyncEngine, kill_id: UUID, position: tuple[object, ...]) -> Attempt | None:
    """The last exit of this position that risk has decided on; None before the first."""
    ended = ORDERS.c.ended_at
    query = (
        select(DECISIONS.c.accepted, DECISIONS.c.denials, DECISIONS.c.decided_at, ORDERS.c.order_id, ended)
        .select_from(DECISIONS.outerjoin(ORDERS, ORDERS.c.signal_id == DECISIONS.c.signal_id))
        .where(DECISIONS.c.signal_id == bindparam("signal"))
    )
    found: Attempt | None = None
    async with transient("reading exits of the kill switch"), engine.connect() as connection:
        while True:
            number = 0 if found is None else found.number + 1
            signal = exit_signal_id(kill_id, position, number)
            row = (await connection.execute(query, {"signal": signal})).one_or_none()
            if row is None:
                return found
            told = "; ".join(f"{each['code']}: {each['message']}" for each in row.denials)
            working = row.order_id is not None and row.ended_at is None
            found = Attempt(number, row.accepted, working, told, row.decided_at)


def exit_signal_id(kill_id: UUID, position: tuple[object, ...], number: int) -> UUID:
    """The n-th exit of one position under one kill switch: asked twice, it is the same signal."""
    return ids.derive(kill_id, "exit", *position, number)


@dataclass(frozen=True, slots=True)
class KnownSend:
    """The order behind a tag or a broker order id."""

    order_id: UUID
    strategy_id: str


async def beyond_the_journal(
    engine: AsyncEngine, account: str, target: str, rows: Iterable[BookRow]
) -> list[tuple[BookRow, KnownSend]]:
    """Those of the book's rows that are ours and show more filled than is booked. What flatten closed of others' is theirs.

    Raises:
        Transient: the database is away.
    """
    filled = [row for row in rows if row.filled_quantity > 0]
    names = [row.broker_order_id for row in filled]
    known = await sends_known(engine, account, target, [tag for row in filled for tag in row.tags], names)
    booked = select(FILLS.c.broker_order_id, func.sum(FILLS.c.quantity)).where(FILLS.c.broker_order_id.in_(names))
    theirs = select(FLATTENED.c.broker_order_id, FLATTENED.c.total - FLATTENED.c.ours).where(
        FLATTENED.c.broker_order_id.in_(names)
    )
    async with transient("comparing fills with the book"), engine.connect() as connection:
        there: dict[str, int] = defaultdict(int)
        for query in (booked.group_by(FILLS.c.broker_order_id), theirs):
            for name, quantity in await connection.execute(query):
                there[name] += int(quantity)
    found = []
    for row in filled:
        send = next((known[name] for name in (row.broker_order_id, *row.tags) if name in known), None)
        if send is not None and row.filled_quantity > there[row.broker_order_id]:
            found.append((row, send))
    return found


async def sends_known(
    engine: AsyncEngine, account: str, target: str, tags: Sequence[str], broker_order_ids: Sequence[str]
) -> dict[str, KnownSend]:
    """Those of these tags and broker order ids that the journal knows; an id says something within one account and target."""
    if not tags and not broker_order_ids:
        return {}
    answered = and_(
        SENDS.c.broker_order_id.in_(broker_order_ids), ORDERS.c.account == account, ORDERS.c.target == target
    )
    query = (
        select(SENDS.c.tag, SENDS.c.broker_order_id, ORDERS.c.order_id, ORDERS.c.strategy_id)
        .select_from(SENDS.join(ORDERS, SENDS.c.order_id == ORDERS.c.order_id))
        .where(or_(SENDS.c.tag.in_(tags), answered))
    )
    async with transient("looking for our tags"), engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    names = [(name, row) for row in rows for name in (row.tag, row.broker_order_id) if name]
    return {name: KnownSend(row.order_id, row.strategy_id) for name, row in names}


async def _lock(connection: AsyncConnection, account: str) -> Any:
    await connection.execute(upsert(ACCOUNTS).values(account=account).on_conflict_do_nothing())
    return (await connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.account == account).with_for_update())).one()


async def _open_of(connection: AsyncConnection, account: str, strategy_id: str | None) -> list[KillRecord]:
    """Switches of exactly this scope that nobody released, oldest first."""
    same = KILLS.c.strategy_id.is_(None) if strategy_id is None else KILLS.c.strategy_id == strategy_id
    query = select(KILLS).where(KILLS.c.account == account, same, KILLS.c.released_at.is_(None))
    rows = await connection.execute(query.order_by(KILLS.c.engaged_at))
    return [KillRecord(**row) for row in rows.mappings()]


async def _read(connection: AsyncConnection, kill_id: UUID) -> KillRecord | None:
    row = (await connection.execute(select(KILLS).where(KILLS.c.kill_id == kill_id))).mappings().one_or_none()
    return None if row is None else KillRecord(**row)


def _scope(kill: KillRecord) -> str:
    return kill.strategy_id or f"account {kill.account}"
