"""What was asked with an Idempotency-Key, and how it was answered: the same key again gets the same answer, another request none.

Never keeps a secret: answers that hold one are kept without it.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import utc_now
from core.errors import CommandConflict
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_access import RequestRow

REQUESTS = table_of(RequestRow)


async def begin(engine: AsyncEngine, request_id: UUID, fingerprint: str) -> dict[str, Any] | None:
    """Note the request. Returns its answer where it was answered before; None where it is to be done (again).

    Raises:
        CommandConflict: the key was used for another request. Transient: the database is away.
    """
    row = {"request_id": request_id, "fingerprint": fingerprint, "begun_at": utc_now()}
    async with transient("noting a request"), engine.begin() as connection:
        await connection.execute(insert(REQUESTS).values(row).on_conflict_do_nothing())
        query = select(REQUESTS.c.fingerprint, REQUESTS.c.answer).where(REQUESTS.c.request_id == request_id)
        found = (await connection.execute(query)).one()
    if found.fingerprint != fingerprint:
        raise CommandConflict("Idempotency-Key: was used for another request; take a new one")
    return None if found.answer is None else dict(found.answer)


async def answered(engine: AsyncEngine, request_id: UUID, answer: dict[str, Any]) -> None:
    """Keep the answer; the first stays. Raises Transient."""
    statement = update(REQUESTS).where(REQUESTS.c.request_id == request_id, REQUESTS.c.answered_at.is_(None))
    async with transient("keeping an answer"), engine.begin() as connection:
        await connection.execute(statement.values(answered_at=utc_now(), answer=answer))
