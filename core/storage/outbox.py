"""Publishing what the journal holds: an order's unpublished events in `order_seq` order, marked once the log has them.

Many orders asking at once share one read, one batch to the log and one mark. Publishing twice is harmless (derived ids), never is not.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
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

PATIENCE_S = 0.25
"""A batch that takes longer is left to itself, and the next one begins. Before, waiting makes batches, which are cheap."""

AT_ONCE = 8
"""Most batches on their way at the same time."""


class Outbox:
    """Publishes for all workflows of one broker's order worker. An order is in one batch at a time, so its events keep their order."""

    def __init__(self, engine: AsyncEngine, producer: EventProducer) -> None:
        self._engine = engine
        self._producer = producer
        self._asked: dict[UUID, list[asyncio.Future[int]]] = defaultdict(list)
        self._wake = asyncio.Event()
        self._under_way: set[UUID] = set()
        self._batches: set[asyncio.Task[None]] = set()

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
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                free = [order_id for order_id in self._asked if order_id not in self._under_way]
                if free:
                    await self._begin({order_id: self._asked.pop(order_id) for order_id in free})
        finally:
            for batch in self._batches:
                batch.cancel()

    async def _begin(self, asked: dict[UUID, list[asyncio.Future[int]]]) -> None:
        """Begin a batch and wait for it, but not for long: what the log is slow to take holds nobody else's news."""
        self._under_way |= asked.keys()
        batch = asyncio.create_task(self._serve(asked), name="publish")
        self._batches.add(batch)
        batch.add_done_callback(self._batches.discard)
        await asyncio.wait({batch}, timeout=PATIENCE_S)
        if len(self._batches) >= AT_ONCE:
            await asyncio.wait(self._batches, return_when=asyncio.FIRST_COMPLETED)

    async def _serve(self, asked: dict[UUID, list[asyncio.Future[int]]]) -> None:
        """Publish these orders' events and answer who asked; each as soon as its own are out, one order's trouble is not another's."""
        sending: dict[asyncio.Task[int | Exception], UUID] = {}
        sent: list[tuple[UUID, int]] = []
        try:
            by_order = await self._unpublished(list(asked))
            self._answer(asked, dict.fromkeys(asked.keys() - by_order.keys(), 0))
            if not by_order:
                return
            await failpoints.reached("publish.before_send")
            # Handed over in order, so that a topic keeps it; acknowledged together, but for those the log is slow to take.
            sending = {asyncio.create_task(self._send(rows, sent)): order_id for order_id, rows in by_order.items()}
            within: float | None = PATIENCE_S
            while sending:
                how = asyncio.FIRST_COMPLETED if within is None else asyncio.ALL_COMPLETED
                done, _ = await asyncio.wait(sending, timeout=within, return_when=how)
                within = None
                out = {sending.pop(task): task.result() for task in done}
                await self._mark(sent)
                self._answer(asked, out)
        except Exception as error:  # handed to every asker: the activity decides what it means
            self._answer(asked, dict.fromkeys(list(asked), error))
        finally:
            for task in sending:
                task.cancel()
            self._under_way -= asked.keys()
            self._wake.set()

    def _answer(self, asked: dict[UUID, list[asyncio.Future[int]]], outcomes: Mapping[UUID, int | Exception]) -> None:
        for order_id, outcome in outcomes.items():
            self._under_way.discard(order_id)
            _settle(asked.pop(order_id), outcome)
        self._wake.set()  # who asked for one of them meanwhile

    async def _unpublished(self, order_ids: list[UUID]) -> dict[UUID, list[Any]]:
        async with transient("reading unpublished events"), self._engine.connect() as connection:
            rows = await _UNPUBLISHED.read(connection, order_ids=order_ids)
        by_order: dict[UUID, list[Any]] = defaultdict(list)
        for row in rows:
            by_order[row["order_id"]].append(row)
        return by_order

    async def _mark(self, sent: list[tuple[UUID, int]]) -> None:
        """What the log has by now; `sent` is empty afterwards."""
        await failpoints.reached("publish.after_send")
        if sent:
            orders, seqs = zip(*sent, strict=True)
            sent.clear()
            async with transient("marking published events"), self._engine.connect() as connection:
                await _MARK.read(connection, order_ids=orders, order_seqs=seqs, now=utc_now())
        await failpoints.reached("publish.after_mark")

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


def _mark_statement() -> Update:
    ids, seqs = bindparam("order_ids", type_=ARRAY(Uuid)), bindparam("order_seqs", type_=ARRAY(Integer))
    done = func.unnest(ids, seqs).table_valued("order_id", "order_seq", name="done").render_derived()
    return (
        update(EVENTS)
        .where(EVENTS.c.order_id == done.c.order_id, EVENTS.c.order_seq == done.c.order_seq)
        .values(published_at=bindparam("now", type_=EVENTS.c.published_at.type))
    )


_MARK = Statement(_mark_statement())


def _settle(futures: list[asyncio.Future[int]], outcome: int | Exception) -> None:
    """Answer those who still wait: an activity that gave up has cancelled its future."""
    for future in futures:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
