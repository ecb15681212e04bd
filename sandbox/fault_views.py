"""Faults of what is shown: books, trades and histories that differ from what is so. It reads; it changes no order."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any

from sandbox.exchange import Exchange
from sandbox.fault_engine import Choice, Facts, FaultEngine
from sandbox.fault_kinds import Family, FaultKind
from sandbox.fault_orders import OrderFaults
from sandbox.faults import fits
from sandbox.orders import Order
from sandbox.store import Store
from sandbox.wire import IST, dumps

_FOREIGN_ROWS = 3


class Views:
    """What the REST routes show of orders, as JSON arrays."""

    def __init__(self, engine: FaultEngine, orders: OrderFaults, exchange: Exchange, store: Store) -> None:
        self._engine = engine
        self._orders = orders
        self._exchange = exchange
        self._store = store

    def empty(self, route: str) -> bool:
        """True when this reading of `route` is to show nothing."""
        return self._choice(route, Facts(route), FaultKind.EMPTY_BOOK) is not None

    def book(self) -> bytes:
        """GET /orders"""
        facts = Facts("orders")
        if self.empty("orders"):
            return b"[]"
        foreign = self._choice("orders", facts, FaultKind.FOREIGN_BOOK)
        if foreign is not None:
            return dumps([_foreign_row(str(foreign.value("user_id")), n) for n in range(_FOREIGN_ROWS)])
        stale = self._stale()
        if stale is not None:
            return stale
        return self._exchange.book_json(self._orders.hidden())

    def history(self, order_id: str) -> bytes:
        """GET /orders/{order_id}

        Raises:
            KiteError: no such order, or not visible yet.
        """
        shown = order_id if order_id not in self._orders.hidden() else ""
        order = self._exchange.orders.get(shown)
        facts = Facts("order.info") if order is None else replace(Facts.of(order), route="order.info")
        if self._choice("order.info", facts, FaultKind.EMPTY_BOOK) is not None:
            return b"[]"
        rows = self._exchange.history_json(shown)
        choice = self._choice("order.info", facts, FaultKind.HISTORY_DISORDER)
        if choice is None:
            return rows
        states: list[Any] = json.loads(rows)
        _shuffle(states, Random(f"{choice.rule.seed}:{choice.number}"))
        return dumps(states)

    def trades(self, order_id: str | None) -> bytes:
        """GET /trades and GET /orders/{order_id}/trades

        Raises:
            KiteError: no such order, or not visible yet.
        """
        if self.empty("trades" if order_id is None else "order.trades"):
            return b"[]"
        hidden, lagging = self._orders.hidden(), self._orders.lagging_orders()
        if order_id is not None and order_id in hidden:
            order_id = ""
        rows = self._exchange.trades_json(order_id)
        if not hidden and not lagging:
            return rows
        at = time.time()
        trades: list[dict[str, Any]] = json.loads(rows)
        return dumps([
            trade
            for trade in trades
            if trade["order_id"] not in hidden and _filled_by(trade) + lagging.get(trade["order_id"], -1.0) < at
        ])  # fmt: skip

    def _choice(self, route: str, facts: Facts, kind: FaultKind) -> Choice | None:
        if not self._engine.any(Family.VIEW):
            return None
        choice = self._engine.choose(Family.VIEW, facts, {kind})
        if choice is not None:
            self._engine.record(choice, f"{route} at {len(self._exchange.orders)} orders")
        return choice

    def _stale(self) -> bytes | None:
        """The book with the orders a rule names one state back."""
        if not self._engine.any(Family.VIEW):
            return None
        choice = self._engine.choose_stale()
        if choice is None:
            return None
        hidden, rows, back = self._orders.hidden(), [], 0
        for order in self._exchange.orders.values():
            if order.order_id in hidden:
                continue
            states = self._store.history(order.order_id) if _named(choice, order) else []
            back += len(states) > 1
            rows.append(states[-2] if len(states) > 1 else order.row_json())
        self._engine.record(choice, f"{back} rows one state back")
        return b"[" + b",".join(rows) + b"]"


def _named(choice: Choice, order: Order) -> bool:
    rule, facts = choice.rule, Facts.of(order)
    return fits(rule.tag, facts.tag) and fits(rule.symbol, facts.symbol) and fits(rule.order_id, facts.order_id)


def _shuffle(states: list[Any], rng: Random) -> None:
    """Into any other order than the true one, where there are two states or more."""
    true = list(states)
    while len(true) > 1 and states == true:
        rng.shuffle(states)


def _filled_by(trade: dict[str, Any]) -> float:
    """Epoch seconds by which it was filled: the wire carries whole ones, so up to one too late."""
    return datetime.fromisoformat(trade["fill_timestamp"]).replace(tzinfo=IST).timestamp() + 1


def _foreign_row(user_id: str, n: int) -> dict[str, Any]:
    """A row of somebody else's book: real keys, his account, no tag."""
    stamp = datetime.now(IST).strftime("%Y-%m-%d %H:%M:%S")
    text: dict[str, Any] = dict.fromkeys(
        ("parent_order_id", "status_message", "status_message_raw", "tag", "guid"), None
    )
    return text | {
        "account_id": user_id, "placed_by": user_id, "order_id": f"19{n:017d}", "exchange_order_id": f"13{n:014d}",
        "status": "COMPLETE", "order_timestamp": stamp, "exchange_update_timestamp": stamp, "exchange_timestamp": stamp,
        "variety": "regular", "modified": False, "exchange": "NSE", "tradingsymbol": "IDEA", "instrument_token": 3677697,
        "order_type": "LIMIT", "transaction_type": "BUY", "validity": "DAY", "validity_ttl": 0, "product": "CNC",
        "quantity": 1, "disclosed_quantity": 0, "price": 12, "trigger_price": 0, "average_price": 12,
        "filled_quantity": 1, "pending_quantity": 0, "cancelled_quantity": 0, "market_protection": 0, "meta": {},
    }  # fmt: skip
