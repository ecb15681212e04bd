"""The books seen while a send's outcome was unknown: what absence is proven from, and what a person is shown."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from core.brokers.port import Book
from core.storage.db import transient
from core.storage.journal import Journal
from core.storage.models import BookSeenRow, table_of
from core.trading.absence import SeenBook

SEEN = table_of(BookSeenRow)


async def record_book(journal: Journal, order_id: UUID, send_no: int, book: Book, why_sick: str | None) -> None:
    """One book without the send's tag; `why_sick` says why it does not count, None when it does."""
    async with transient("recording evidence"), journal.engine.begin() as connection:
        await connection.execute(
            insert(SEEN)
            .values(
                order_id=order_id,
                send_no=send_no,
                requested_at=book.requested_at,
                account=book.account,
                trading_day=book.trading_day,
                received_at=book.received_at,
                rows=len(book.rows),
                healthy=why_sick is None,
                reason=why_sick,
            )
            .on_conflict_do_nothing()
        )


async def books_seen(journal: Journal, order_id: UUID, send_no: int) -> list[SeenBook]:
    async with transient("reading evidence"), journal.engine.connect() as connection:
        rows = await connection.execute(
            select(SEEN.c.requested_at, SEEN.c.healthy, SEEN.c.rows).where(
                SEEN.c.order_id == order_id, SEEN.c.send_no == send_no
            )
        )
        return [SeenBook(row.requested_at, row.healthy, row.rows == 0) for row in rows]
