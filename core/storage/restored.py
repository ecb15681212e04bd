"""What a database that came back from a backup may no longer be sure of: what was sent, asked, ended and allowed since it was taken.

Nothing decided before the backup may be sent after it; what may have been sent since becomes a question for the broker's book, and
real money stays off until a person has looked. Never says that anything was not sent. Not for a broker whose book came back with the
same backup (paper).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import and_, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import trading_day, utc_now
from core.people.roles import Actor
from core.storage import audit
from core.storage.commands import COMMANDS, CommandKind, CommandOutcome, finish
from core.storage.db import transient
from core.storage.journal import ORDERS, SENDS
from core.storage.kill import ACCOUNTS, KILLS
from core.storage.models import table_of
from core.storage.models_access import SessionRow
from core.storage.strategies import StrategyConfig, load_strategies
from core.storage.strategy_changes import change_strategy
from core.trading.types import SendState

SESSIONS = table_of(SessionRow)

BY = "restore"


def known_revisions() -> frozenset[str]:
    """Versions of the schema that this code can bring up to date."""
    scripts = ScriptDirectory(str(Path(__file__).parent / "migrations"))
    return frozenset(each.revision for each in scripts.walk_revisions())


@dataclass(frozen=True, slots=True)
class Doubted:
    """Of one broker: open orders, those among them that may have been sent since, commands and kill switches that were ended."""

    orders: int
    maybe_sent: int
    commands: int
    kills: int


async def doubt(engine: AsyncEngine, account: str, taken_at: datetime, why: str) -> Doubted:
    """All of it, in one transaction. Asked again, it changes nothing more.

    An order at the broker is followed to its end there, one that may have been sent since is looked up by its tag; where none is
    found it ends, and an exit opens no next send, which may have been sent since as well. A modify, a person's decision or a kill
    switch that was carried out since is not carried out again; a cancel may be.

    Raises:
        Transient: the database is away.
    """
    async with transient("doubting a restored journal"), engine.begin() as connection:
        maybe_sent = await _nobody_may_claim(connection, taken_at, why)
        still_open = update(ORDERS).where(ORDERS.c.ended_at.is_(None)).values(cancel_requested=True)
        orders = (await connection.execute(still_open)).rowcount
        commands = await _end_commands(connection, why)
        ended = {"released_at": utc_now(), "released_by": BY, "release_reason": why}
        working = (KILLS.c.finished_at.is_(None), KILLS.c.released_at.is_(None))
        kills = (await connection.execute(update(KILLS).where(*working).values(**ended))).rowcount
        await _bind_entries(connection, account, why)
    return Doubted(orders, maybe_sent, commands, kills)


async def _nobody_may_claim(connection: AsyncConnection, taken_at: datetime, why: str) -> int:
    """A send that was only meant is one that may have left: whoever comes to it asks the book."""
    present = and_(SENDS.c.order_id == ORDERS.c.order_id, SENDS.c.send_no == ORDERS.c.send_no)
    maybe = {
        "state": SendState.SENDING.value,
        "claimed_at": taken_at,
        "deadline_at": utc_now(),
        "trading_day": trading_day(taken_at),
        "answer": why,
    }
    meant = (present, ORDERS.c.ended_at.is_(None), SENDS.c.state == SendState.INTENT.value)
    return (await connection.execute(update(SENDS).where(*meant).values(**maybe))).rowcount


async def _end_commands(connection: AsyncConnection, why: str) -> int:
    asked = select(COMMANDS.c.request_id).where(
        COMMANDS.c.finished_at.is_(None), COMMANDS.c.kind != CommandKind.CANCEL.value
    )
    requests = list((await connection.execute(asked)).scalars())
    for request_id in requests:
        told = f"{why}; it may have been carried out: look at the order, and ask again if it was not"
        await finish(connection, request_id, CommandOutcome.NOT_APPLIED, told)
    return len(requests)


async def _bind_entries(connection: AsyncConnection, account: str, why: str) -> None:
    """The kill switch's flag, as set by hand: it works on nothing, and an admin lifts it."""
    flag = {"kill": True, "kill_by": BY, "kill_reason": why, "kill_at": utc_now()}
    row = insert(ACCOUNTS).values(account=account, **flag)
    await connection.execute(row.on_conflict_do_update(index_elements=[ACCOUNTS.c.account], set_=flag))
    await connection.execute(update(ACCOUNTS).where(~ACCOUNTS.c.kill).values(**flag))


async def take_opt_ins(engine: AsyncEngine, actor: Actor, why: str) -> list[str]:
    """Take every opt-in to real money away: a strategy would act on positions as they were, and exits are bound by no kill switch.

    Returns whose. The changes are announced by whoever publishes next. Raises Transient.
    """

    async def note(connection: AsyncConnection, before: StrategyConfig, after: StrategyConfig) -> None:
        was, now = {"opt_ins": before.as_row()["opt_ins"]}, {"opt_ins": after.as_row()["opt_ins"]}
        await audit.write(connection, actor, "strategy.opt-out", after.strategy_id, reason=why, before=was, after=now)

    taken = []
    for row in await load_strategies(engine):
        changed = await change_strategy(
            engine, row.strategy_id, lambda each: replace(each, opt_ins={}), by=BY, reason=why, source="cli", also=note
        )
        taken += [row.strategy_id] if changed is not None else []
    return taken


async def end_sessions(engine: AsyncEngine) -> int:
    """Those that were ended after the backup would live again: all end. Returns how many. Raises Transient."""
    living = update(SESSIONS).where(SESSIONS.c.ended_at.is_(None))
    async with transient("ending sessions"), engine.begin() as connection:
        return (await connection.execute(living.values(ended_at=func.now(), ended_why=BY))).rowcount
