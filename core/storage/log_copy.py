"""What the database keeps of the log: bytes of events that were published, and which log the offsets in it are about.

Reads the journal and forgets offsets. Never changes an event, and never touches what an order or a position is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.storage.db import transient
from core.storage.models import CheckpointRow, LeaseRow, OutgoingEventRow, RiskDecisionRow, SharedLeaseRow, table_of
from core.storage.models_people import StrategyChangeRow

CHECKPOINTS = table_of(CheckpointRow)
CHANGES = table_of(StrategyChangeRow)
DECISIONS = table_of(RiskDecisionRow)
EVENTS = table_of(OutgoingEventRow)

MARK = "log"
"""The row of config.checkpoints that names the log all other rows are about."""

BATCH = 500


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it was published: topic, key, bytes, headers and the id in them."""

    event_id: UUID
    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def _of_decisions() -> Select[Any]:
    """Every decision: its event is published at once, so one that was not yet may only be late."""
    d = DECISIONS.c
    columns = (d.event_topic, d.event_key, d.event_value, d.event_headers)
    names = ("topic", "key", "value", "headers")
    return select(*(column.label(name) for column, name in zip(columns, names, strict=True))).order_by(
        d.decided_at, d.signal_id
    )


def _of_orders() -> Select[Any]:
    """Published events by time, each order's own by `order_seq`, whatever the clock did. The others are the outbox's."""
    at = func.max(EVENTS.c.created_at).over(partition_by=EVENTS.c.order_id, order_by=EVENTS.c.order_seq)
    found = select(EVENTS, at.label("at")).where(EVENTS.c.published_at.is_not(None)).subquery("found")
    c = found.c
    return select(c.topic, c.key, c.value, c.headers).order_by(c.at, c.order_id, c.order_seq)


def _of_changes() -> Select[Any]:
    c = CHANGES.c
    chosen = select(c.topic, c.key, c.value, c.headers).where(c.published_at.is_not(None))
    return chosen.order_by(c.changed_at, c.version)


async def journal_events(engine: AsyncEngine) -> AsyncIterator[list[Stored]]:
    """A broker's decisions, then its order events, in batches. Raises Transient while the database is away."""
    for query in (_of_decisions(), _of_orders()):
        async for batch in _batches(engine, query):
            yield batch


async def config_events(engine: AsyncEngine) -> AsyncIterator[list[Stored]]:
    """What people changed of strategies. Raises Transient while the database is away."""
    async for batch in _batches(engine, _of_changes()):
        yield batch


async def _batches(engine: AsyncEngine, query: Select[Any]) -> AsyncIterator[list[Stored]]:
    async with transient("reading stored events"), engine.connect() as connection:
        rows = await connection.stream(query)
        async for some in rows.mappings().partitions(BATCH):
            yield [_stored(row) for row in some]


def _stored(row: Any) -> Stored:
    headers = tuple((name, value.encode()) for name, value in row["headers"])
    event_id = UUID(dict(headers)["id"].decode())
    return Stored(event_id, row["topic"], row["key"].encode(), bytes(row["value"]), headers)


# which log ----------------------------------------------------------------------------------------------------------


async def marked_log(engine: AsyncEngine) -> str | None:
    """Id of the log that this database's offsets are about; None where nobody said yet."""
    query = select(CHECKPOINTS.c.state).where(CHECKPOINTS.c.name == MARK)
    async with transient("reading which log this is"), engine.connect() as connection:
        state = await connection.scalar(query)
        return None if state is None else str(state["id"])


async def mark_log(engine: AsyncEngine, log_id: str) -> None:
    values = {"name": MARK, "state": {"id": log_id}, "offsets": {}}
    statement = insert(CHECKPOINTS).values(values)
    statement = statement.on_conflict_do_update(
        index_elements=[CHECKPOINTS.c.name], set_={"state": statement.excluded.state, "updated_at": func.now()}
    )
    async with transient("noting which log this is"), engine.begin() as connection:
        await connection.execute(statement)


async def checkpoints(engine: AsyncEngine) -> dict[str, dict[str, dict[str, int]]]:
    """Checkpoint → topic → partition → next offset."""
    query = select(CHECKPOINTS.c.name, CHECKPOINTS.c.offsets).where(CHECKPOINTS.c.name != MARK)
    async with transient("reading checkpoints"), engine.connect() as connection:
        return {row.name: row.offsets for row in await connection.execute(query)}


async def forget_checkpoints(engine: AsyncEngine, names: Iterable[str]) -> None:
    """Whoever finds none folds the log from its beginning."""
    async with transient("forgetting checkpoints"), engine.begin() as connection:
        await connection.execute(delete(CHECKPOINTS).where(CHECKPOINTS.c.name.in_(list(names))))


async def leases_held(engine: AsyncEngine, table: type[LeaseRow] | type[SharedLeaseRow]) -> list[str]:
    """Leases of processes that run, or died within the last seconds."""
    query = select(table.name).where(table.expires_at > func.clock_timestamp()).order_by(table.name)
    async with transient("reading leases"), engine.connect() as connection:
        return list((await connection.execute(query)).scalars())
