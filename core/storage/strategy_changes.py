"""Changes of strategies and limits: the row under its next version and the event that announces it, in one transaction; published after.

So a change is never announced without being made, and never lost: what the log could not take stays unpublished here, and whoever
publishes next sends it. Says nothing about whether a row makes sense; that is the caller's `check`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core import failpoints, ids
from core.clock import utc_now
from core.errors import CommandRefused, StopTheStart
from core.events import topics
from core.events.envelope import Envelope, EventType, make
from core.events.payloads import ConfigChanged, LimitsChanged
from core.messaging.producer import EventProducer
from core.storage.db import transient
from core.storage.models import StrategyRow, table_of
from core.storage.models_people import StrategyChangeRow
from core.storage.strategies import StrategyConfig

STRATEGIES = table_of(StrategyRow)
CHANGES = table_of(StrategyChangeRow)

STRATEGY = "strategy"

Edit = Callable[[StrategyConfig], StrategyConfig]
Check = Callable[[StrategyConfig], Awaitable[None]]
Also = Callable[[AsyncConnection, StrategyConfig, StrategyConfig], Awaitable[None]]
"""Done in the same transaction, with the row before and after."""


class UnknownStrategy(StopTheStart):
    """No row of that name; the message lists those there are."""


class StrategyExists(CommandRefused):
    """There is a row of that name already."""


async def change_strategy(
    engine: AsyncEngine,
    strategy_id: str,
    edit: Edit,
    *,
    by: str,
    reason: str,
    source: str,
    check: Check | None = None,
    also: Also | None = None,
) -> StrategyConfig | None:
    """Edit one row under its lock, check the result, store it with its event. Returns it, or None where nothing is different.

    Raises:
        UnknownStrategy: there is no such row.
        Transient: the database is away; nothing was changed.
        Whatever `edit` or `check` raise; then nothing was changed.
    """
    async with transient("changing a strategy"), engine.begin() as connection:
        before = await _locked(connection, strategy_id)
        after = edit(before)
        if after.as_row() == before.as_row():
            return None
        if check is not None:
            await check(after)
        stored = await _store(connection, after, by=by, reason=reason, source=source)
        if also is not None:
            await also(connection, before, stored)
        return stored


async def create_strategy(
    engine: AsyncEngine, config: StrategyConfig, *, by: str, reason: str, source: str, also: Also
) -> StrategyConfig:
    """Store a new row as version 1 with its event.

    Raises:
        StrategyExists: there is one of that name; nothing was changed.
        Transient: the database is away; nothing was changed.
    """
    values = config.as_row() | {"capital": config.capital, "version": 0, "updated_at": utc_now()}
    statement = insert(STRATEGIES).values(values).on_conflict_do_nothing().returning(STRATEGIES.c.strategy_id)
    async with transient("creating a strategy"), engine.begin() as connection:
        if (await connection.execute(statement)).one_or_none() is None:
            raise StrategyExists(f"strategy_id: there is a strategy {config.strategy_id!r} already")
        stored = await _store(connection, config, by=by, reason=reason, source=source)
        await also(connection, config, stored)
        return stored


async def _locked(connection: AsyncConnection, strategy_id: str) -> StrategyConfig:
    query = select(STRATEGIES).where(STRATEGIES.c.strategy_id == strategy_id).with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        names = (
            await connection.execute(select(STRATEGIES.c.strategy_id).order_by(STRATEGIES.c.strategy_id))
        ).scalars()
        raise UnknownStrategy(f"There is no strategy {strategy_id!r}. There are: {', '.join(names) or 'none'}.")
    return StrategyConfig.from_row(dict(row))


async def _store(
    connection: AsyncConnection, config: StrategyConfig, *, by: str, reason: str, source: str
) -> StrategyConfig:
    now = utc_now()
    values = config.as_row() | {"capital": config.capital, "version": STRATEGIES.c.version + 1, "updated_at": now}
    statement = update(STRATEGIES).where(STRATEGIES.c.strategy_id == config.strategy_id).values(values)
    row = (await connection.execute(statement.returning(STRATEGIES))).mappings().one()
    stored = StrategyConfig.from_row(dict(row))
    changed = ConfigChanged(
        strategy_id=stored.strategy_id, version=stored.version, changed_by=by, row=stored.as_row()
    )  # fmt: skip
    event_id = ids.derive_at(now, "config", stored.strategy_id, stored.version)
    event = _event(EventType.CONFIG_CHANGED, changed, event_id, stored.strategy_id, source, now)
    await _record(connection, event, STRATEGY, stored.version, by=by, reason=reason)
    return stored


async def record_limits(connection: AsyncConnection, changed: LimitsChanged, *, reason: str, source: str) -> None:
    """The event of a change of limits, in the transaction that makes it."""
    now, what = utc_now(), f"limits {changed.scope}"
    event_id = ids.derive_at(now, what, changed.name, changed.version)
    event = _event(EventType.LIMITS_CHANGED, changed, event_id, changed.name, source, now)
    await _record(connection, event, what, changed.version, by=changed.changed_by, reason=reason)


def _event(kind: EventType, changed: BaseModel, event_id: UUID, key: str, source: str, now: datetime) -> Envelope:
    return make(kind, changed, id=event_id, key=key, source=source, correlation_id=event_id, ts=now)


async def _record(
    connection: AsyncConnection, event: Envelope, what: str, version: int, *, by: str, reason: str
) -> None:
    await connection.execute(
        insert(CHANGES).values(
            what=what,
            strategy_id=event.key,
            version=version,
            changed_by=by,
            reason=reason,
            changed_at=event.ts,
            event_id=event.id,
            topic=topics.CONFIG_CHANGES,
            key=event.key,
            value=event.encode(),
            headers=[[name, value.decode()] for name, value in event.headers()],
        )
    )


async def publish_changes(engine: AsyncEngine, producer: EventProducer) -> int:
    """Send every change the log does not have yet, in the order they were made; returns how many. Sending twice is harmless.

    Raises:
        Transient: the database or the log is away; what was not marked is sent again next time.
    """
    query = select(CHANGES).where(CHANGES.c.published_at.is_(None)).order_by(CHANGES.c.changed_at, CHANGES.c.version)
    async with transient("reading unpublished changes"), engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    for row in rows:
        await producer.send_raw(
            row["topic"],
            key=row["key"].encode(),
            value=row["value"],
            headers=[(name, value.encode()) for name, value in row["headers"]],
        )
        await failpoints.reached("config.after_send")
        mark = update(CHANGES).where(CHANGES.c.event_id == row["event_id"]).values(published_at=utc_now())
        async with transient("marking a published change"), engine.begin() as connection:
            await connection.execute(mark)
    return len(rows)
