"""Everything the referee judges by, read once the run has settled: both brokers' own books, the journal, the log, Temporal,
and what people read (Redis, snapshots, views). Reads only.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from core.errors import Transient
from core.events import topics
from core.events.envelope import Envelope, decode
from core.events.payloads import OrderEvent, PnlSnapshot
from core.messaging.reader import LogReader
from core.messaging.records import Record
from core.storage import redis
from core.storage.redis import PortfolioStore, ReadModel
from core.temporal import connect
from core.trading.types import Broker
from tests.chaos.books import BookOrder, Fault, faults, paper_book, sandbox_book
from tests.chaos.world import World, until

READ_S = 1.0
CAUGHT_UP_S = 30.0
SNAPSHOTS_S = 10.0
STEP_S = 0.5

PositionName = tuple[str, str, str]
"""Instance, instrument (`NSE:INFY`), product."""


@dataclass(slots=True)
class Journal:
    """One broker's journal, table by table."""

    orders: dict[UUID, dict[str, Any]]
    decisions: dict[UUID, dict[str, Any]]
    sends: dict[UUID, list[dict[str, Any]]]
    fills: dict[UUID, list[dict[str, Any]]]
    events: dict[UUID, list[dict[str, Any]]]
    books_seen: dict[UUID, list[dict[str, Any]]]
    positions: list[dict[str, Any]]
    views: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    """What the log was folded to for people: status and order_seq of each order."""


@dataclass(slots=True)
class Facts:
    """What one broker's run left behind. `log` maps an order to its events as they lie on the topics, in log order."""

    broker: Broker
    book: list[BookOrder]
    journal: Journal
    log: dict[UUID, list[tuple[str, Envelope, OrderEvent]]]
    workflows: dict[str, str]
    faults: list[Fault] = field(default_factory=list)
    """What the sandbox did wrong, by its own log."""

    model: ReadModel | None = None
    """The portfolio's read model in Redis."""

    model_behind: str | None = None
    """Why the read model had not taken in the whole log within the bound; None: it had."""

    snapshots: dict[PositionName, PnlSnapshot] = field(default_factory=dict)
    """The last snapshot of each position on the log."""

    round: dict[str, Any] | None = None
    """The last round of reconciliation, as `alpha-panda reconcile --json` printed it; None: it printed none."""


async def gather(world: World) -> dict[Broker, Facts]:
    """All of it. Stops the sandbox for good."""
    workflows = await _workflows(world)
    found = {}
    for broker in Broker:
        model, behind = await _model(world, broker)
        await until(lambda broker=broker: _views_caught_up(world, broker), CAUGHT_UP_S, STEP_S)  # type: ignore[misc]
        found[broker] = Facts(
            broker,
            [],
            await _journal(world, broker),
            await _log(world, broker),
            workflows,
            model=model,
            model_behind=behind,
            snapshots=await _snapshots(world, broker, model),
            round=world.rounds.get(broker),
        )
    found[Broker.PAPER].book = await paper_book(world)
    world.stack.supervisor.stop_parts(["sandbox"])
    database = world.settings.var / "data" / "sandbox" / "sandbox.db"
    found[Broker.ZERODHA].book = sandbox_book(database)
    found[Broker.ZERODHA].faults = faults(database)
    return found


async def _journal(world: World, broker: Broker) -> Journal:
    async def grouped(table: str, order_by: str) -> dict[UUID, list[dict[str, Any]]]:
        found: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
        for row in await world.sql(f"SELECT * FROM {broker}.{table} ORDER BY {order_by}"):
            found[row["order_id"]].append(row)
        return found

    return Journal(
        orders={row["order_id"]: row for row in await world.sql(f"SELECT * FROM {broker}.orders")},
        decisions={
            row["signal_id"]: row
            for row in await world.sql(
                f"SELECT signal_id, instance, accepted, denials::text, decided_at FROM {broker}.risk_decisions"
            )
        },
        sends=await grouped("sends", "order_id, send_no"),
        fills=await grouped("fills", "filled_at, trade_id"),
        events=await grouped("outgoing_events", "order_id, order_seq"),
        books_seen=await grouped("books_seen", "order_id, requested_at"),
        positions=await world.sql(f"SELECT * FROM {broker}.positions"),
        views={
            row["order_id"]: row
            for row in await world.sql(f"SELECT order_id, status, order_seq FROM {broker}.view_orders")
        },
    )


async def _log(world: World, broker: Broker) -> dict[UUID, list[tuple[str, Envelope, OrderEvent]]]:
    """Every order event on the broker's topics, from the first record to the last."""
    found: dict[UUID, list[tuple[str, Envelope, OrderEvent]]] = defaultdict(list)
    async for record in _whole(world, topics.order_topics(broker)):
        event = decode(record.value)
        assert isinstance(event.data, OrderEvent), f"{record.topic} carries a {event.type}"
        found[event.data.order.order_id].append((record.topic, event, event.data))
    return found


async def _views_caught_up(world: World, broker: Broker) -> bool:
    """Whether people are shown every order where the journal has it: the log gets there within seconds."""
    rows = await world.try_sql(
        f"""SELECT count(*) AS behind FROM {broker}.orders o LEFT JOIN {broker}.view_orders v USING (order_id)
            WHERE o.order_seq > 0 AND v.order_seq IS DISTINCT FROM o.order_seq"""
    )
    return rows is not None and rows[0]["behind"] == 0


async def _snapshots(world: World, broker: Broker, model: ReadModel | None) -> dict[PositionName, PnlSnapshot]:
    """The last snapshot of each position. One that Redis is ahead of is given a moment: it is queued with the write to Redis."""
    views = {(key[0], key[1], key[2].value): view for key, view in model.positions.items()} if model else {}
    end = time.monotonic() + SNAPSHOTS_S
    while True:
        found = await _last_snapshots(world, broker)
        behind = [name for name, view in views.items() if name not in found or found[name].charges != view.charges]
        if not behind or time.monotonic() > end:
            return found
        await asyncio.sleep(STEP_S)


async def _last_snapshots(world: World, broker: Broker) -> dict[PositionName, PnlSnapshot]:
    """The last one of each position: all of a position lie in one partition, in order."""
    last: dict[bytes | None, bytes | None] = {}
    async for record in _whole(world, [topics.pnl_snapshots(broker)]):
        last[record.key] = record.value
    found: dict[PositionName, PnlSnapshot] = {}
    for value in last.values():
        data = decode(value).data
        assert isinstance(data, PnlSnapshot), f"the topic of snapshots carries {data}"
        found[data.instance, data.instrument, data.product.value] = data
    return found


async def _whole(world: World, names: list[str]) -> AsyncIterator[Record]:
    """Every record of these topics, from the first to the last as of now; of one partition in order."""
    reader = LogReader(world.settings, client_id="chaos-referee", topics=names)
    await reader.start("earliest")
    try:
        ends = {at: end for at, end in (await reader.end_offsets()).items() if end}
        while ends:
            for record in await reader.read(READ_S):
                yield record
                at = (record.topic, record.partition)
                if record.offset + 1 >= ends.get(at, 0):
                    ends.pop(at, None)
    finally:
        await reader.stop()


async def _model(world: World, broker: Broker) -> tuple[ReadModel | None, str | None]:
    """The read model once it has taken in every fill on the log, and why not where it has not within the bound."""
    reader = LogReader(world.settings, client_id="chaos-referee", topics=[topics.orders_event(broker, "filled")])
    await reader.start("earliest")
    try:
        ends = {at: end for at, end in (await reader.end_offsets()).items() if end}
    finally:
        await reader.stop()
    connection = redis.client(world.settings)
    model, behind, until = None, "Redis does not answer", time.monotonic() + CAUGHT_UP_S
    try:
        while behind and time.monotonic() < until:
            try:
                model = await PortfolioStore(connection, broker).read()
            except Transient as error:
                behind = str(error)
            else:
                at = model.offsets if model else {}
                late = {name: end for name, end in ends.items() if at.get(name, 0) < end}
                behind = f"the read model lacks the log up to {late}" if late or model is None else ""
            if behind:
                await asyncio.sleep(STEP_S)
    finally:
        await connection.aclose()
    return model, behind or None


async def _workflows(world: World) -> dict[str, str]:
    """Order workflow → the status of its newest run, of both brokers."""
    client = await connect(world.settings)
    runs = [
        (row.id, row.start_time, row.status.name if row.status else "?")
        async for row in client.list_workflows("WorkflowType = 'OrderWorkflow'")
    ]
    return newest(runs)


def newest(runs: Sequence[tuple[str, datetime | None, str]]) -> dict[str, str]:
    """Of (workflow id, start, status) the status of each id's newest run: one may have been started again after its end."""
    oldest = datetime.min.replace(tzinfo=UTC)
    return {name: status for name, _, status in sorted(runs, key=lambda run: run[1] or oldest)}
