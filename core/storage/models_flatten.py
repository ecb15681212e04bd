"""The table of what `flatten --direct` sent and the journal booked, one copy a broker. Decided once a tag, never changed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from core.routing import JOURNAL
from core.storage.models import Base, table_of


class FlattenBookedRow(Base):
    """One send, booked. Of its `total` filled units `ours` closed positions of ours; the rest closed what was not."""

    __tablename__ = "flatten_booked"
    __table_args__ = (Index("flatten_booked_by_order", "broker_order_id"), {"schema": JOURNAL})

    tag: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]
    broker_order_id: Mapped[str]
    total: Mapped[int]
    ours: Mapped[int]
    booked_at: Mapped[datetime]


FLATTEN_TABLES = [table_of(FlattenBookedRow)]
