"""The runner's state and the offsets it stands at, written together and only by whoever holds the lease.

A lost or old checkpoint costs deciding again, never a second order: signal ids are derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.storage.db import transient
from core.storage.models import CheckpointRow, SharedLeaseRow, table_of

CHECKPOINTS = table_of(CheckpointRow)
LEASES = table_of(SharedLeaseRow)

Offsets = Mapping[tuple[str, int], int]
"""(topic, partition) → the next record to read."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    state: dict[str, Any]
    offsets: dict[tuple[str, int], int]


class LeaseLost(Exception):
    """Another runner holds the lease: this one must not write, and stops."""


async def load(engine: AsyncEngine, name: str) -> Checkpoint | None:
    """Raises Transient when the database is away."""
    query = select(CHECKPOINTS.c.state, CHECKPOINTS.c.offsets).where(CHECKPOINTS.c.name == name)
    async with transient("reading the checkpoint"), engine.connect() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    offsets = {
        (topic, int(partition)): int(at) for topic, parts in row.offsets.items() for partition, at in parts.items()
    }
    return Checkpoint(row.state, offsets)


async def save(
    engine: AsyncEngine, name: str, state: dict[str, Any], offsets: Offsets, *, lease: str, epoch: int
) -> None:
    """Replace the checkpoint, if the lease's epoch is still ours.

    Raises:
        LeaseLost: it is not.
        Transient: the database is away; nothing was written, or all of it.
    """
    by_topic: dict[str, dict[str, int]] = {}
    for (topic, partition), at in offsets.items():
        by_topic.setdefault(topic, {})[str(partition)] = at
    ours = exists().where(LEASES.c.name == lease, LEASES.c.epoch == epoch)
    columns = [CHECKPOINTS.c.name, CHECKPOINTS.c.state, CHECKPOINTS.c.offsets]
    values = [
        literal(name),
        literal(state, CHECKPOINTS.c.state.type),
        literal(by_topic, CHECKPOINTS.c.offsets.type),
    ]
    statement = insert(CHECKPOINTS).from_select(columns, select(*values).where(ours))
    statement = statement.on_conflict_do_update(
        index_elements=[CHECKPOINTS.c.name],
        set_={"state": statement.excluded.state, "offsets": statement.excluded.offsets, "updated_at": func.now()},
    )
    async with transient("writing the checkpoint"), engine.begin() as connection:
        written = (await connection.execute(statement)).rowcount
    if written != 1:
        raise LeaseLost(f"checkpoint {name} not written: lease {lease} is no longer held with epoch {epoch}")
