"""Records what people did with dead letters (config.dlq_actions). Only adds rows; a letter is closed once, for ever."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import utc_now
from core.ids import new_id
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_people import DlqActionRow

ACTIONS = table_of(DlqActionRow)


class DlqAction(StrEnum):
    REPLAYING = "REPLAYING"
    """About to be sent: where nothing follows, the sender died, and the letter is still open."""

    REPLAYED = "REPLAYED"
    DROPPED = "DROPPED"


CLOSING = (DlqAction.REPLAYED, DlqAction.DROPPED)


@dataclass(frozen=True, slots=True)
class Place:
    """A dead letter's identity: its place on the dead-letter topic and when it was written there (Unix milliseconds).

    The time is part of it because offsets begin anew where a log was lost and rebuilt.
    """

    topic: str
    partition: int
    offset: int
    written_ms: int


@dataclass(frozen=True, slots=True)
class Closed:
    """How a letter was closed, by whom and why."""

    action: DlqAction
    by: str
    note: str


async def record(
    engine: AsyncEngine, action: DlqAction, place: Place, *, event_id: str | None, by: str, note: str
) -> None:
    """Add one row; closing what is closed already changes nothing.

    Raises:
        Transient: the database is away.
    """
    row = {
        "action_id": new_id(),
        "topic": place.topic,
        "partition": place.partition,
        "letter_offset": place.offset,
        "written_ms": place.written_ms,
        "event_id": event_id,
        "action": action.value,
        "done_by": by,
        "note": note,
        "at": utc_now(),
    }
    async with transient("recording what was done with a dead letter"), engine.begin() as connection:
        await connection.execute(insert(ACTIONS).values(row).on_conflict_do_nothing())


async def closed(engine: AsyncEngine, topics: Iterable[str]) -> dict[Place, Closed]:
    """Every closed letter of these dead-letter topics.

    Raises:
        Transient: the database is away.
    """
    query = select(ACTIONS).where(ACTIONS.c.topic.in_(list(topics)), ACTIONS.c.action.in_(CLOSING))
    async with transient("reading what was done with dead letters"), engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return {
        Place(row["topic"], row["partition"], row["letter_offset"], row["written_ms"]): Closed(
            DlqAction(row["action"]), row["done_by"], row["note"]
        )
        for row in rows
    }
