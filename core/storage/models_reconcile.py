"""Tables of reconciliation: each broker's last rounds, what the account held when the day began, and the view people read.

The rounds and the day belong to the journal; the view is folded from the log alone.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from core.routing import JOURNAL
from core.storage.models import Base, table_of


class ReconcileDayRow(Base):
    """First sight of a trading day: net units each line held before the day's trades; null where it could not be told yet,
    in a list where a single round has told it, as assumed where only answers without any position did ("*": the lines not named)."""

    __tablename__ = "reconcile_days"
    __table_args__ = {"schema": JOURNAL}  # noqa: RUF012

    account: Mapped[str] = mapped_column(primary_key=True)
    trading_day: Mapped[date] = mapped_column(primary_key=True)
    openings: Mapped[dict[str, Any]]
    foreign_trades: Mapped[int] = mapped_column(server_default=text("0"))
    opened_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ReconciliationRow(Base):
    """One round: what it found, what stands since when, and the bytes of its event. The last rounds are kept."""

    __tablename__ = "reconciliations"
    __table_args__ = (
        Index("reconciliations_by_time", "account", "began_at"),
        Index("reconciliations_unpublished", "began_at", postgresql_where=text("value IS NOT NULL AND published_at IS NULL")),
        {"schema": JOURNAL},
    )  # fmt: skip

    round_id: Mapped[UUID] = mapped_column(primary_key=True)
    account: Mapped[str]
    trading_day: Mapped[date]
    began_at: Mapped[datetime]
    judged: Mapped[bool]
    found: Mapped[dict[str, Any]]
    finished_at: Mapped[datetime | None]
    watched: Mapped[dict[str, Any] | None]
    event_id: Mapped[UUID | None]
    topic: Mapped[str | None]
    key: Mapped[str | None]
    value: Mapped[bytes | None]
    headers: Mapped[list[Any] | None]
    published_at: Mapped[datetime | None]


class ViewReconciliationRow(Base):
    """A round as the log tells it. The last rounds are kept."""

    __tablename__ = "view_reconciliations"
    __table_args__ = (Index("view_reconciliations_by_time", "finished_at"), {"schema": JOURNAL})

    round_id: Mapped[UUID] = mapped_column(primary_key=True)
    finished_at: Mapped[datetime]
    data: Mapped[dict[str, Any]]


RECONCILE_TABLES = [table_of(ReconcileDayRow), table_of(ReconciliationRow), table_of(ViewReconciliationRow)]
