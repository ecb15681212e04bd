"""Both brokers' own books as they lie on disk or in the exchange's tables, and the sandbox's log of what it did wrong. Reads only.

The sandbox's are read after it stopped: no injected fault and no code of ours stands between.
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

from core.clock import parse_kite_time
from tests.chaos.world import World

API = "api"
"""Source of an order in the sandbox that came through the API; all others came from the app or the risk desk."""

ENDS = {"COMPLETE", "CANCELLED", "REJECTED"}

CONVERTED = "mktp"
"""The tag Zerodha adds to an order that came in at the market and lies there as a limit (sandbox/validation.py)."""


@dataclass(frozen=True, slots=True)
class BookTrade:
    """One execution in a broker's own book. Rupees, units, UTC; the sandbox keeps whole seconds, rounded down."""

    trade_id: str
    quantity: int
    price: Decimal
    at: datetime


@dataclass(slots=True)
class BookOrder:
    """One order a broker accepted, as its own book has it. `placed` is the quantity it was accepted with, `limit` the price it
    was placed at (None: at the market)."""

    broker_order_id: str
    tag: str | None
    status: str
    side: str
    quantity: int
    filled_quantity: int
    instrument_token: int
    product: str
    trades: list[BookTrade] = field(default_factory=list)
    placed: int = 0
    order_type: str = ""
    validity: str = ""
    limit: Decimal | None = None
    accepted_at: datetime | None = None
    ended_at: datetime | None = None
    source: str = API

    def filled_by(self, moment: datetime) -> int:
        return sum(trade.quantity for trade in self.trades if trade.at <= moment)

    def works_at(self, moment: datetime) -> bool:
        """Accepted by then, and not ended."""
        accepted = self.accepted_at is not None and self.accepted_at <= moment
        return accepted and (self.ended_at is None or self.ended_at > moment)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault the sandbox had, by its own log."""

    kind: str
    tag: str | None
    order_id: str | None
    symbol: str | None
    detail: str
    rule: str
    at: datetime

    @property
    def carried_out(self) -> bool:
        """False where the sandbox wrote that it did not do what was asked of it."""
        return self.detail != "not carried out"


def faults(database: Path) -> list[Fault]:
    """Everything the sandbox did wrong, oldest first."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT kind, doc FROM fault_log ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [_fault(kind, json.loads(doc)) for kind, doc in rows]


def _fault(kind: str, doc: dict[str, Any]) -> Fault:
    named = {name: doc[name] for name in ("tag", "order_id", "symbol", "rule")}
    return Fault(kind=kind, detail=doc["detail"] or "", at=datetime.fromisoformat(doc["at"]), **named)


def sandbox_book(database: Path) -> list[BookOrder]:
    """Every order the sandbox ever accepted, from the append-only ledger and its own books. The sandbox must not be running."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        orders = {order_id: json.loads(doc) for order_id, doc in connection.execute("SELECT order_id, doc FROM orders")}
        ledger = [
            (order_id, tag, json.loads(doc, parse_float=Decimal))
            for order_id, tag, doc in connection.execute("SELECT order_id, tag, doc FROM ledger ORDER BY seq")
        ]
        ended: dict[str, datetime] = {}
        for order_id, doc in connection.execute("SELECT order_id, doc FROM history ORDER BY order_id, n"):
            row = json.loads(doc)
            if row["status"] in ENDS:
                ended.setdefault(order_id, parse_kite_time(row["order_timestamp"]))
        trades = defaultdict(list)
        for order_id, doc in connection.execute("SELECT order_id, doc FROM trades ORDER BY rowid"):
            row = json.loads(doc, parse_float=Decimal)
            at = parse_kite_time(row["fill_timestamp"])
            trades[order_id].append(BookTrade(row["trade_id"], row["quantity"], Decimal(row["average_price"]), at))
    finally:
        connection.close()
    return [
        _sandbox_order(order_id, tag, placed, orders[order_id], trades[order_id], ended.get(order_id))
        for order_id, tag, placed in ledger
    ]


def _sandbox_order(
    order_id: str,
    tag: str | None,
    placed: dict[str, Any],
    order: dict[str, Any],
    trades: list[BookTrade],
    ended_at: datetime | None,
) -> BookOrder:
    request = order["request"]
    at_market = CONVERTED in request["system_tags"]
    return BookOrder(
        broker_order_id=order_id,
        tag=tag,
        status=order["status"],
        side=request["side"],
        quantity=order["terms"]["quantity"],
        filled_quantity=order["filled"],
        instrument_token=request["token"],
        product=request["product"],
        trades=trades,
        placed=placed["quantity"],
        order_type="MARKET" if at_market else placed["order_type"],
        validity=placed["validity"],
        limit=None if at_market else Decimal(placed["price"]),
        accepted_at=datetime.fromisoformat(placed["accepted_at"]),
        ended_at=ended_at,
        source=order.get("source", API),
    )


async def paper_book(world: World) -> list[BookOrder]:
    """Every order the paper exchange ever accepted."""
    orders = await world.sql("SELECT * FROM paper_exchange.orders ORDER BY accepted_at")
    trades = await world.sql("SELECT * FROM paper_exchange.trades ORDER BY filled_at, trade_id")
    of_order: dict[str, list[BookTrade]] = defaultdict(list)
    for row in trades:
        of_order[row["broker_order_id"]].append(
            BookTrade(row["trade_id"], row["quantity"], row["price"], row["filled_at"])
        )
    return [_paper_order(row, of_order[row["broker_order_id"]]) for row in orders]


def _paper_order(row: dict[str, Any], trades: list[BookTrade]) -> BookOrder:
    at_market = row["market_protection"] is not None
    return BookOrder(
        broker_order_id=row["broker_order_id"],
        tag=row["tag"],
        status=row["status"],
        side=row["side"],
        quantity=row["quantity"],
        filled_quantity=row["filled_quantity"],
        instrument_token=row["instrument_token"],
        product=row["product"],
        trades=trades,
        placed=row["quantity"],
        order_type="MARKET" if at_market else row["order_type"],
        validity=row["validity"],
        limit=None if at_market else row["price"],
        accepted_at=row["accepted_at"],
        ended_at=row["updated_at"] if row["done"] else None,
    )
