"""Small questions to a journal that belong to nobody else. Reads by primary key alone."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.storage.db import transient
from core.storage.journal import ORDERS


async def has_order(engine: AsyncEngine, order_id: UUID) -> bool:
    """Whether this broker's journal has the order. Raises Transient."""
    async with transient("looking for an order"), engine.connect() as connection:
        found = await connection.scalar(select(ORDERS.c.order_id).where(ORDERS.c.order_id == order_id))
        return found is not None
