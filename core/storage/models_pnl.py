"""The table of the day's PnL minute by minute, one row a position: a view of a broker's log, in that broker's schema."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from sqlalchemy.orm import Mapped, mapped_column

from core.routing import JOURNAL
from core.storage.models import Base, table_of


class ViewPnlRow(Base):
    """A position marked within a minute: rupees of the trading day, `unrealized_pnl` of all that is open. None: no price was known."""

    __tablename__ = "view_pnl_minutes"
    __table_args__ = {"schema": JOURNAL}  # noqa: RUF012

    trading_day: Mapped[date] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    instance: Mapped[str] = mapped_column(primary_key=True)
    instrument: Mapped[str] = mapped_column(primary_key=True)
    product: Mapped[str] = mapped_column(primary_key=True)
    realized_pnl: Mapped[Decimal]
    unrealized_pnl: Mapped[Decimal | None]
    charges: Mapped[Decimal]
    as_of: Mapped[datetime]


PNL_TABLES = [table_of(ViewPnlRow)]
