"""Tables of what people did: changes of strategies and limits with the event that announces each, and what became of dead letters.

Rows are only ever added; a change's `published_at` is the one field that is written later.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from core.routing import CONFIG_SCHEMA
from core.storage.models import Base


class StrategyChangeRow(Base):
    """One version of a strategy's row, or of limits, who made it, and the bytes of its `config.changes` event: the outbox of the
    config schema. `what`: "strategy", or the scope of limits ("limits account"); then `strategy_id` names whose they are."""

    __tablename__ = "strategy_changes"
    __table_args__ = (
        Index("strategy_changes_by_strategy", "strategy_id", "version"),
        Index("strategy_changes_unpublished", "changed_at", postgresql_where=text("published_at IS NULL")),
        {"schema": CONFIG_SCHEMA},
    )

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(server_default=text("'strategy'"))
    strategy_id: Mapped[str]
    version: Mapped[int]
    changed_by: Mapped[str]
    reason: Mapped[str]
    changed_at: Mapped[datetime]
    topic: Mapped[str]
    key: Mapped[str]
    value: Mapped[bytes]
    headers: Mapped[list[Any]]
    published_at: Mapped[datetime | None]


class DlqActionRow(Base):
    """What a person did with a dead letter, named by its place on the dead-letter topic and the time it was written there.

    `action` is REPLAYING (about to be sent), REPLAYED (the log has it) or DROPPED; the last two close the letter, once.
    """

    __tablename__ = "dlq_actions"
    __table_args__ = (
        Index(
            "dlq_actions_closed_once",
            "topic",
            "partition",
            "letter_offset",
            "written_ms",
            unique=True,
            postgresql_where=text("action IN ('REPLAYED', 'DROPPED')"),
        ),
        {"schema": CONFIG_SCHEMA},
    )

    action_id: Mapped[UUID] = mapped_column(primary_key=True)
    topic: Mapped[str]
    partition: Mapped[int]
    letter_offset: Mapped[int] = mapped_column(BigInteger)
    written_ms: Mapped[int] = mapped_column(BigInteger)
    event_id: Mapped[str | None]
    action: Mapped[str]
    done_by: Mapped[str]
    note: Mapped[str]
    at: Mapped[datetime]


PEOPLE_TABLES = [Base.metadata.tables[f"{CONFIG_SCHEMA}.{name}"] for name in ("strategy_changes", "dlq_actions")]
