"""Tables of alerts: each one once, what each channel made of it, and how each channel is.

A channel is named by its kind and a hash: its URL, which is a password, is in no table.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from core.routing import PEOPLE_SCHEMA
from core.storage.models import Base


class AlertRow(Base):
    """One alert. `repeats`: the id of a young one with the same words; then no channel tells it."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index("alerts_by_time", "at", "alert_id"),
        Index("alerts_same_words", "kind", "subject", "at"),
        {"schema": PEOPLE_SCHEMA},
    )

    alert_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    message: Mapped[str]
    action: Mapped[str]
    details: Mapped[dict[str, Any]]
    source: Mapped[str]
    at: Mapped[datetime]
    received_at: Mapped[datetime]
    repeats: Mapped[UUID | None]


class AlertDeliveryRow(Base):
    """One alert on one channel: WAITING, then SENT, CLEARED (no longer true) or FAILED (given up). `told_with`: whose message held it."""

    __tablename__ = "alert_deliveries"
    __table_args__ = (
        Index("alert_deliveries_waiting", "channel", postgresql_where=text("state = 'WAITING'")),
        Index("alert_deliveries_told", "channel", "kind", "ended_at", postgresql_where=text("state = 'SENT'")),
        {"schema": PEOPLE_SCHEMA},
    )

    alert_id: Mapped[UUID] = mapped_column(ForeignKey(AlertRow.alert_id, ondelete="CASCADE"), primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    told_with: Mapped[UUID | None]
    error: Mapped[str | None]
    ended_at: Mapped[datetime | None]


class AlertChannelRow(Base):
    """How a channel is. `failing_since` None: the last message was taken, or none was ever sent."""

    __tablename__ = "alert_channels"
    __table_args__ = {"schema": PEOPLE_SCHEMA}  # noqa: RUF012

    channel: Mapped[str] = mapped_column(primary_key=True)
    active: Mapped[bool]
    last_sent_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    last_error: Mapped[str | None]


ALERT_TABLES = [
    Base.metadata.tables[f"{PEOPLE_SCHEMA}.{name}"] for name in ("alerts", "alert_deliveries", "alert_channels")
]
