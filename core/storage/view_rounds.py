"""The view of reconciliations: each broker's last rounds as the log tells them. Never reads the journal."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.events.payloads import Reconciliation
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_reconcile import ViewReconciliationRow

ROUNDS = table_of(ViewReconciliationRow)

KEPT = 500


async def store(engine: AsyncEngine, found: Reconciliation) -> None:
    """Store a round once, and let go of the oldest. Raises Transient while the database is away."""
    row = {"round_id": found.round_id, "finished_at": found.finished_at, "data": found.model_dump(mode="json")}
    last = select(ROUNDS.c.round_id).order_by(ROUNDS.c.finished_at.desc()).limit(KEPT)
    async with transient("writing the view of reconciliations"), engine.begin() as connection:
        await connection.execute(insert(ROUNDS).values(**row).on_conflict_do_nothing())
        await connection.execute(delete(ROUNDS).where(ROUNDS.c.round_id.not_in(last)))


async def last_rounds(engine: AsyncEngine, limit: int) -> list[Reconciliation]:
    """Newest first. Raises Transient."""
    query = select(ROUNDS.c.data).order_by(ROUNDS.c.finished_at.desc()).limit(limit)
    async with transient("reading reconciliations"), engine.connect() as connection:
        return [Reconciliation.model_validate(data) for data in (await connection.execute(query)).scalars()]


async def round_of_request(engine: AsyncEngine, request_id: UUID) -> Reconciliation | None:
    """The round that answers a person's request, once the log has told of it. Raises Transient."""
    query = select(ROUNDS.c.data).where(ROUNDS.c.data["requests"].contains([str(request_id)])).limit(1)
    async with transient("reading reconciliations"), engine.connect() as connection:
        data = await connection.scalar(query)
    return None if data is None else Reconciliation.model_validate(data)
