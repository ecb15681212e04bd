"""The audit: who did what, before, after, from where and why. Rows are added and read; our database role can do nothing else.

Never holds a secret: callers give what people may see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import utc_now
from core.ids import new_id
from core.people.roles import Actor
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_access import AuditRow
from core.storage.views import Cursor

AUDIT = table_of(AuditRow)


class Outcome(StrEnum):
    DONE = "done"
    ASKED = "asked"
    """Written before something is done that another part does; a row with the same request follows when it answered."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Why:
    """The reason somebody gave, and the request it came with."""

    reason: str = ""
    request_id: UUID | None = None


UNSAID = Why()


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the audit."""

    audit_id: UUID
    at: datetime
    actor: str
    via: str
    origin: str
    action: str
    subject: str
    outcome: str
    reason: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: UUID | None


async def write(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    subject: str,
    *,
    outcome: Outcome = Outcome.DONE,
    reason: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    request_id: UUID | None = None,
) -> None:
    """Add a row inside the caller's transaction: the change and its row are there together, or neither is."""
    await connection.execute(
        insert(AUDIT).values(
            audit_id=new_id(),
            at=utc_now(),
            actor=actor.name,
            via=actor.via,
            origin=actor.origin,
            action=action,
            subject=subject,
            outcome=outcome.value,
            reason=reason,
            before=dict(before) if before is not None else None,
            after=dict(after) if after is not None else None,
            request_id=request_id,
        )
    )


async def note(engine: AsyncEngine, actor: Actor, action: str, subject: str, **fields: Any) -> None:
    """Add a row in a transaction of its own, for what is done elsewhere. Raises Transient."""
    async with transient("writing the audit"), engine.begin() as connection:
        await write(connection, actor, action, subject, **fields)


async def entries(
    engine: AsyncEngine,
    *,
    actor: str | None = None,
    action: str | None = None,
    subject: str | None = None,
    after: Cursor | None = None,
    limit: int = 50,
) -> list[Entry]:
    """Newest first; `action` may be a prefix ending in a dot. Raises Transient."""
    query = select(AUDIT).order_by(AUDIT.c.at.desc(), AUDIT.c.audit_id.desc()).limit(limit)
    if actor is not None:
        query = query.where(AUDIT.c.actor == actor)
    if subject is not None:
        query = query.where(AUDIT.c.subject == subject)
    if action is not None:
        same = AUDIT.c.action.startswith(action, autoescape=True) if action.endswith(".") else AUDIT.c.action == action
        query = query.where(same)
    if after is not None:
        query = query.where(tuple_(AUDIT.c.at, AUDIT.c.audit_id) < tuple_(after.created_at, after.order_id))
    async with transient("reading the audit"), engine.connect() as connection:
        return [Entry(**row) for row in (await connection.execute(query)).mappings()]
