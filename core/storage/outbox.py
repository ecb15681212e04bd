"""Publishing what the journal holds: an order's unpublished events in `order_seq` order, marked once the log has them.

Many orders asking at once share one read, one batch to the log and one mark. Publishing twice is harmless (derived ids), never is not.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Update, Uuid, any_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core import failpoints
from core.clock import utc_now
from core.messaging.producer import EventProducer
from core.storage.db import transient
from core.storage.models import OutgoingEventRow, table_of
from core.storage.statements import Statement

EVENTS = table_of(OutgoingEventRow)


class Outbox:
    """Publishes for all workflows of one broker's order worker."""

    def __init__(self, engine: AsyncEngine, producer: EventProducer) -> None:
        self._engine = engine
        self._producer = producer
        self._asked: dict[UUID, list[asyncio.Future[int]]] = defaultdict(list)
        self._wake = asyncio.Event()

    async def publish(self, order_id: UUID) -> int:
        """Publish everything the order has unpublished at this moment; returns how many events went out.

        Raises:
            Transient: the database or the log is away; nothing is lost, ask again.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked[order_id].append(future)
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, defaultdict(list)
            try:
                outcomes = await self._publish(list(asked))
            except Exception as error:  # handed to every asker: the activity decides what it means
                outcomes = dict.fromkeys(asked, error)
            for order_id, futures in asked.items():
                _settle(futures, outcomes.get(order_id, 0))

    async def _publish(self, order_ids: list[UUID]) -> dict[UUID, int | Exception]:
        """How many events of each order went out, or what kept them; one order's trouble is not another's."""
        async with transient("reading unpublished events"), self._engine.connect() as connection:
            rows = await _UNPUBLISHED.read(connection, order_ids=order_ids)
        if not rows:
            return {}
        by_order: dict[UUID, list[Any]] = defaultdict(list)
        for row in rows:
            by_order[row["order_id"]].append(row)
        await failpoints.reached("publish.before_send")
        # Handed over in order, so that a topic keeps it; acknowledged together.
        sent: list[tuple[UUID, int]] = []
        sending = [self._send(events, sent) for events in by_order.values()]
        outcomes = dict(zip(by_order, await asyncio.gather(*sending), strict=True))
        await failpoints.reached("publish.after_send")
        if sent:
            orders, seqs = zip(*sent, strict=True)
            async with transient("marking published events"), self._engine.connect() as connection:
                await _MARK.read(connection, order_ids=orders, order_seqs=seqs, now=utc_now())
        await failpoints.reached("publish.after_mark")
        return outcomes

    async def _send(self, events: list[Any], sent: list[tuple[UUID, int]]) -> int | Exception:
        """Send one order's events, noting each that the log has in `sent`. The first failure is the answer."""
        answers = await asyncio.gather(*(self._send_one(row) for row in events), return_exceptions=True)
        failure: Exception | None = None
        for row, answer in zip(events, answers, strict=True):
            if answer is None:
                sent.append((row["order_id"], row["order_seq"]))
            elif not isinstance(answer, Exception):
                raise answer  # a cancellation: the process stops
            else:
                failure = failure or answer
        return failure or len(events)

    async def _send_one(self, row: Any) -> None:
        headers = [(name, value.encode()) for name, value in row["headers"]]
        await self._producer.send_raw(row["topic"], key=row["key"].encode(), value=row["value"], headers=headers)


_UNPUBLISHED = Statement(
    select(EVENTS)
    .where(EVENTS.c.order_id == any_(bindparam("order_ids", type_=ARRAY(Uuid))), EVENTS.c.published_at.is_(None))
    .order_by(EVENTS.c.order_id, EVENTS.c.order_seq)
)


def _mark() -> Update:
    ids, seqs = bindparam("order_ids", type_=ARRAY(Uuid)), bindparam("order_seqs", type_=ARRAY(Integer))
    done = func.unnest(ids, seqs).table_valued("order_id", "order_seq", name="done").render_derived()
    return (
        update(EVENTS)
        .where(EVENTS.c.order_id == done.c.order_id, EVENTS.c.order_seq == done.c.order_seq)
        .values(published_at=bindparam("now", type_=EVENTS.c.published_at.type))
    )


_MARK = Statement(_mark())


def _settle(futures: list[asyncio.Future[int]], outcome: int | Exception) -> None:
    """Answer those who still wait: an activity that gave up has cancelled its future."""
    for future in futures:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
