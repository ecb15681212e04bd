"""Everything the referee judges by, read once the run has settled: both brokers' own books, the journal, the log, Temporal. Reads only.

The sandbox's book is read from its disk after it stopped: no injected fault and no code of ours stands between.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from core.clock import parse_kite_time
from core.events import topics
from core.events.envelope import Envelope, decode
from core.events.payloads import OrderEvent
from core.messaging.reader import LogReader
from core.temporal import connect
from core.trading.types import Broker
from tests.chaos.world import World

READ_S = 1.0


@dataclass(frozen=True, slots=True)
class BookTrade:
    """One execution in a broker's own book. Rupees, units, UTC."""

    trade_id: str
    quantity: int
    price: Decimal
    at: datetime


@dataclass(slots=True)
class BookOrder:
    """One order a broker accepted, as its own book has it."""

    broker_order_id: str
    tag: str | None
    status: str
    side: str
    quantity: int
    filled_quantity: int
    instrument_token: int
    product: str
    trades: list[BookTrade] = field(default_factory=list)


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


@dataclass(slots=True)
class Facts:
    """What one broker's run left behind. `log` maps an order to its events as they lie on the topics, in log order."""

    broker: Broker
    book: list[BookOrder]
    journal: Journal
    log: dict[UUID, list[tuple[str, Envelope, OrderEvent]]]
    workflows: dict[str, str]
    faulted: frozenset[str] = frozenset()
    """Tags of sends that the sandbox was told to fail, by its own log."""


async def gather(world: World) -> dict[Broker, Facts]:
    """All of it. Stops the sandbox for good."""
    workflows = await _workflows(world)
    found = {}
    for broker in Broker:
        journal = await _journal(world, broker)
        log = await _log(world, broker)
        found[broker] = Facts(broker, [], journal, log, workflows)
    found[Broker.PAPER].book = await _paper_book(world)
    world.stack.supervisor.stop_parts(["sandbox"])
    database = world.settings.var / "data" / "sandbox" / "sandbox.db"
    found[Broker.ZERODHA].book = sandbox_book(database)
    found[Broker.ZERODHA].faulted = _faulted(database)
    return found


def _faulted(database: Path) -> frozenset[str]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return frozenset(tag for (tag,) in connection.execute("SELECT doc ->> '$.tag' FROM fault_log") if tag)
    finally:
        connection.close()


def sandbox_book(database: Path) -> list[BookOrder]:
    """Every order the sandbox ever accepted, from the append-only ledger and its own books. The sandbox must not be running."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        orders = {order_id: json.loads(doc) for order_id, doc in connection.execute("SELECT order_id, doc FROM orders")}
        ledger = [
            (order_id, tag) for order_id, tag in connection.execute("SELECT order_id, tag FROM ledger ORDER BY seq")
        ]
        trades = defaultdict(list)
        for order_id, doc in connection.execute("SELECT order_id, doc FROM trades ORDER BY rowid"):
            row = json.loads(doc, parse_float=Decimal)
            at = parse_kite_time(row["fill_timestamp"])
            trades[order_id].append(BookTrade(row["trade_id"], row["quantity"], Decimal(row["average_price"]), at))
    finally:
        connection.close()
    found = []
    for order_id, tag in ledger:
        order, request = orders[order_id], orders[order_id]["request"]
        found.append(
            BookOrder(
                broker_order_id=order_id,
                tag=tag,
                status=order["status"],
                side=request["side"],
                quantity=order["terms"]["quantity"],
                filled_quantity=order["filled"],
                instrument_token=request["token"],
                product=request["product"],
                trades=trades[order_id],
            )
        )
    return found


async def _paper_book(world: World) -> list[BookOrder]:
    orders = await world.sql("SELECT * FROM paper_exchange.orders ORDER BY accepted_at")
    trades = await world.sql("SELECT * FROM paper_exchange.trades ORDER BY filled_at, trade_id")
    of_order: dict[str, list[BookTrade]] = defaultdict(list)
    for row in trades:
        of_order[row["broker_order_id"]].append(
            BookTrade(row["trade_id"], row["quantity"], row["price"], row["filled_at"])
        )
    found = []
    for row in orders:
        name = row["broker_order_id"]
        found.append(
            BookOrder(
                broker_order_id=name,
                tag=row["tag"],
                status=row["status"],
                side=row["side"],
                quantity=row["quantity"],
                filled_quantity=row["filled_quantity"],
                instrument_token=row["instrument_token"],
                product=row["product"],
                trades=of_order[name],
            )
        )
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
    )


async def _log(world: World, broker: Broker) -> dict[UUID, list[tuple[str, Envelope, OrderEvent]]]:
    """Every order event on the broker's topics, from the first record to the last."""
    reader = LogReader(world.settings, client_id="chaos-referee", topics=topics.order_topics(broker))
    found: dict[UUID, list[tuple[str, Envelope, OrderEvent]]] = defaultdict(list)
    await reader.start("earliest")
    try:
        ends = {at: end for at, end in (await reader.end_offsets()).items() if end}
        while ends:
            for record in await reader.read(READ_S):
                event = decode(record.value)
                assert isinstance(event.data, OrderEvent), f"{record.topic} carries a {event.type}"
                found[event.data.order.order_id].append((record.topic, event, event.data))
                at = (record.topic, record.partition)
                if record.offset + 1 >= ends.get(at, 0):
                    ends.pop(at, None)
    finally:
        await reader.stop()
    return found


async def _workflows(world: World) -> dict[str, str]:
    """Order workflow → its status, of both brokers."""
    client = await connect(world.settings)
    rows = client.list_workflows("WorkflowType = 'OrderWorkflow'")
    return {row.id: row.status.name if row.status else "?" async for row in rows}
