"""The view of a broker's PnL minute by minute, folded from its snapshots on the log. Never reads the journal.

Of each position a minute keeps its first snapshot, or a later one that a fill caused: little to write, and the same whenever folded anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.events.payloads import PnlSnapshot
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_pnl import ViewPnlRow

MINUTES = table_of(ViewPnlRow)
_KEY = ("trading_day", "minute", "instance", "instrument", "product")


@dataclass(frozen=True, slots=True)
class MinuteRow:
    """A position as it stood within a minute: rupees of its trading day. `unrealized_pnl` None: no price was known."""

    minute: datetime
    instance: str
    instrument: str
    product: str
    realized_pnl: Decimal
    unrealized_pnl: Decimal | None
    charges: Decimal
    as_of: datetime


class MinuteFold:
    """Writes what a minute keeps. One of these a process; what it remembers only saves writing."""

    def __init__(self) -> None:
        self._written: dict[tuple[AsyncEngine, str, str, str], datetime] = {}

    async def store(self, engine: AsyncEngine, snapshot: PnlSnapshot, *, by_fill: bool) -> None:
        """Safe to repeat, in any order. A snapshot from before it told the day's part is left out. Raises Transient."""
        if snapshot.day_realized_pnl is None or snapshot.day_charges is None:
            return
        position = (engine, snapshot.instance, snapshot.instrument, snapshot.product.value)
        minute = snapshot.as_of.replace(second=0, microsecond=0)
        if self._written.get(position) == minute and not by_fill:
            return
        row = {
            "trading_day": snapshot.trading_day, "minute": minute, "instance": snapshot.instance,
            "instrument": snapshot.instrument, "product": snapshot.product.value,
            "realized_pnl": snapshot.day_realized_pnl, "unrealized_pnl": snapshot.unrealized_pnl,
            "charges": snapshot.day_charges, "as_of": snapshot.as_of,
        }  # fmt: skip
        statement = insert(MINUTES).values(row)
        if by_fill:
            newer = {name: statement.excluded[name] for name in row if name not in _KEY}
            later = statement.excluded.as_of > MINUTES.c.as_of
            statement = statement.on_conflict_do_update(index_elements=_KEY, set_=newer, where=later)
        else:
            statement = statement.on_conflict_do_nothing()
        async with transient("writing the view of PnL"), engine.begin() as connection:
            await connection.execute(statement)
        self._written[position] = minute


async def minutes_of_day(engine: AsyncEngine, day: date) -> list[MinuteRow]:
    """Every position's minutes of a trading day, by time. Raises Transient."""
    columns = [MINUTES.c[name] for name in MinuteRow.__dataclass_fields__]
    query = select(*columns).where(MINUTES.c.trading_day == day).order_by(MINUTES.c.minute, MINUTES.c.as_of)
    async with transient("reading the view of PnL"), engine.connect() as connection:
        return [MinuteRow(**row) for row in (await connection.execute(query)).mappings()]
