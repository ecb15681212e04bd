"""How much of its limits each strategy instance uses now, counted as risk counts it, for people who look. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.storage.db import transient
from core.storage.journal import ORDERS
from core.trading.types import Intent


@dataclass(frozen=True, slots=True)
class LimitUse:
    """`open_orders`: not ended, UNKNOWN and UNRESOLVED ones too. `entries`: of the trading day, that work or have a fill."""

    open_orders: int = 0
    entries: int = 0

    def __add__(self, other: LimitUse) -> LimitUse:
        return LimitUse(self.open_orders + other.open_orders, self.entries + other.entries)


async def limit_use(engine: AsyncEngine, account: str, day_began: datetime) -> dict[str, LimitUse]:
    """By instance, of one account; the sum of all is the account's. Raises Transient."""
    working = ORDERS.c.ended_at.is_(None)
    counts = and_(
        ORDERS.c.created_at >= day_began,
        ORDERS.c.intent == Intent.ENTRY.value,
        or_(working, ORDERS.c.filled_quantity > 0),
    )
    query = (
        select(
            ORDERS.c.instance,
            func.count().filter(working).label("open_orders"),
            func.count().filter(counts).label("entries"),
        )
        .where(ORDERS.c.account == account, or_(working, ORDERS.c.created_at >= day_began))
        .group_by(ORDERS.c.instance)
    )
    async with transient("counting what limits bind"), engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    return {row.instance: LimitUse(row.open_orders, row.entries) for row in rows}
