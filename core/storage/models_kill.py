"""The table of kill switches, one copy a broker: who engaged one, what came of it, who released it. Rows are never deleted."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from core.routing import JOURNAL
from core.storage.models import Base, table_of


class KillRow(Base):
    """A kill switch of an account, or of one strategy in it. `finished_at`: its workflow is done; `released_at`: a person lifted it."""

    __tablename__ = "kills"
    __table_args__ = (
        Index("kills_engaged", "account", postgresql_where=text("released_at IS NULL")),
        {"schema": JOURNAL},
    )

    kill_id: Mapped[UUID] = mapped_column(primary_key=True)
    account: Mapped[str]
    strategy_id: Mapped[str | None]
    requested_by: Mapped[str]
    reason: Mapped[str]
    include_foreign: Mapped[bool] = mapped_column(server_default=text("false"))
    engaged_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    report: Mapped[dict[str, Any] | None]
    released_at: Mapped[datetime | None]
    released_by: Mapped[str | None]
    release_reason: Mapped[str | None]


class ForeignSendRow(Base):
    """One exit of a position that is not ours, sent because a person typed so: claimed here before a byte leaves, and never again."""

    __tablename__ = "foreign_sends"
    __table_args__ = (Index("foreign_sends_by_kill", "kill_id"), {"schema": JOURNAL})

    tag: Mapped[str] = mapped_column(primary_key=True)
    kill_id: Mapped[UUID]
    account: Mapped[str]
    instrument: Mapped[str]
    product: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[int]
    state: Mapped[str]
    claimed_at: Mapped[datetime]
    deadline_at: Mapped[datetime]
    broker_order_id: Mapped[str | None]
    answer: Mapped[str | None]


KILL_TABLES = [table_of(KillRow), table_of(ForeignSendRow)]
