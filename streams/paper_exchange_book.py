"""The paper exchange's book: what a tick does to its orders (pure), and the transactions that make it so.

Never books a fill twice: each look happens under the order's row lock, and a trade's id is derived from order and tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import (
    ARRAY,
    Date,
    DateTime,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    exists,
    insert,
    or_,
    select,
    update,
)

from core.brokers.paper_database import PaperDatabase, transient
from core.brokers.paper_rows import CANCELLED, COMPLETE, OPEN, REJECTED
from core.brokers.paper_statements import ORDERS
from core.clock import trading_day, utc_now
from core.errors import Transient
from core.ids import derive
from core.storage.models import ExchangeOrderRow, ExchangeTradeRow
from core.storage.statements import PART, Statement
from core.trading.matching import DepthLevel, Execution, MarketSnapshot, RestingOrder, consume, match, protection_price
from core.trading.ticks import Tick
from core.trading.types import OrderType, Side, Validity

LATENCY = timedelta(milliseconds=20)
"""Modelled way from the broker to the exchange: an order or a cancel takes effect this long after it was accepted."""

TICK_CLOCK = timedelta(seconds=1)
"""Kite's exchange timestamps are whole seconds: a tick of the order's own second may be younger than the order."""

_STOPS = frozenset({OrderType.SL, OrderType.SL_M})
_PAISA_MILLIONTH = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class ExchangeOrder:
    """One order as the exchange holds it: a row of paper_exchange.orders."""

    broker_order_id: str
    tag: str
    trading_day: date
    instrument_token: int
    instrument_type: str
    tick_size: Decimal
    side: Side
    order_type: OrderType
    validity: Validity
    quantity: int
    price: Decimal | None
    trigger_price: Decimal | None
    market_protection: Decimal | None
    status: str
    status_message: str | None
    triggered: bool
    cancel_requested: bool
    modifications: int
    filled_quantity: int
    average_price: Decimal | None
    accepted_at: datetime
    updated_at: datetime
    done: bool

    @classmethod
    def of(cls, row: Any) -> ExchangeOrder:
        values = {name: row[name] for name in cls.__slots__}
        values["side"] = Side(values["side"])
        values["order_type"] = OrderType(values["order_type"])
        values["validity"] = Validity(values["validity"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Look:
    """What one tick did to one order: the order after it, and its executions."""

    order: ExchangeOrder
    executions: tuple[Execution, ...]


@dataclass(frozen=True, slots=True)
class Market:
    """An instrument's latest tick, and what is left of its depth after our own orders took from it."""

    tick_id: UUID
    tick: Tick
    snapshot: MarketSnapshot

    @classmethod
    def of(cls, tick_id: UUID, tick: Tick) -> Market:
        """Matching's clock is ours here: the tick's receive time, for the exchange's own has whole seconds."""
        bids, asks = (
            tuple(DepthLevel(level.price, level.quantity) for level in side if level.quantity > 0)
            for side in (tick.bids, tick.asks)
        )
        return cls(tick_id, tick, MarketSnapshot(tick.last_price, bids, asks, tick.received_at))


def younger(tick: Tick, order: ExchangeOrder) -> bool:
    """May this tick fill this order: received after the order took effect, and not of an earlier exchange second."""
    received_after = tick.received_at >= order.accepted_at + LATENCY
    return received_after and tick.exchange_ts + TICK_CLOCK > order.accepted_at


def match_all(orders: Iterable[ExchangeOrder], market: Market) -> tuple[list[Look], MarketSnapshot]:
    """What the tick does to these orders, oldest first, each seeing the depth the earlier ones left; unchanged ones are
    left out. Pure."""
    looks: list[Look] = []
    snapshot = market.snapshot
    if market.tick.last_price <= 0:
        return looks, snapshot
    for order in sorted(orders, key=lambda one: (one.accepted_at, one.broker_order_id)):
        if order.done or not younger(market.tick, order) or order.trading_day < trading_day(market.tick.received_at):
            continue
        seen = look(order, snapshot)
        if seen.order != order:
            looks.append(seen)
            snapshot = consume(snapshot, order.side, seen.executions)
    return looks, snapshot


def look(order: ExchangeOrder, snapshot: MarketSnapshot) -> Look:
    """One order against one snapshot. An order that makes no sense (no price, no trigger) is REJECTED with the reason."""
    try:
        priced = protect(order, snapshot.last_price)
        result = match(_resting(priced), snapshot)
    except ValueError as error:
        return Look(replace(order, status=REJECTED, status_message=str(error), done=True), ())
    if order.order_type in _STOPS and not result.triggered:
        return Look(order, ())
    filled = priced.filled_quantity + result.quantity
    after = replace(
        priced,
        order_type=OrderType.LIMIT,
        triggered=result.triggered,
        filled_quantity=filled,
        average_price=_average(priced, result.executions, filled),
        status=OPEN,
    )
    if filled >= after.quantity:
        after = replace(after, status=COMPLETE, done=True)
    elif result.cancel_remainder:
        after = replace(after, status=CANCELLED, status_message="IOC: nothing more to fill at once", done=True)
    return Look(after, result.executions)


def protect(order: ExchangeOrder, last_price: Decimal) -> ExchangeOrder:
    """A MARKET order becomes a LIMIT at the protection price of the first tick that may fill it; an SL-M order gets the
    protection price of its trigger (Zerodha's rule since 2026-04-01)."""
    if order.market_protection is None or order.price is not None:
        return order
    reference = order.trigger_price if order.order_type is OrderType.SL_M else last_price
    if reference is None:
        raise ValueError(f"SL-M order {order.broker_order_id} has no trigger price")
    protection = order.market_protection
    price = protection_price(order.side, reference, protection, order.tick_size, order.instrument_type)
    order_type = OrderType.LIMIT if order.order_type is OrderType.MARKET else order.order_type
    return replace(order, price=price, order_type=order_type)


def _resting(order: ExchangeOrder) -> RestingOrder:
    return RestingOrder(
        broker_order_id=order.broker_order_id,
        side=order.side,
        order_type=order.order_type,
        validity=order.validity,
        quantity=order.quantity,
        filled_quantity=order.filled_quantity,
        price=order.price,
        trigger_price=order.trigger_price,
        triggered=order.triggered,
        accepted_at=order.accepted_at,
    )


def _average(order: ExchangeOrder, executions: Sequence[Execution], filled: int) -> Decimal | None:
    if not executions:
        return order.average_price
    before = (order.average_price or Decimal(0)) * order.filled_quantity
    value = before + sum((one.price * one.quantity for one in executions), Decimal(0))
    return (value / filled).quantize(_PAISA_MILLIONTH)


class ExchangeStore:
    """The book in PostgreSQL. Every method is one transaction and raises Transient when the database is away."""

    def __init__(self, database: PaperDatabase) -> None:
        self._database = database

    async def working(self, since: datetime | None = None) -> list[ExchangeOrder]:
        """Orders that still work, those changed since the given moment or all."""
        return await self._fetch("reading working orders", _WORKING, since=since or EVER)

    async def load(self, broker_order_ids: Sequence[str]) -> list[ExchangeOrder]:
        return await self._fetch("reading orders", ORDERS, ids=list(broker_order_ids))

    async def told_since(self, since: datetime) -> list[ExchangeOrder]:
        """Orders that ended or filled since then: what a hint may have been lost about."""
        return await self._fetch("reading recent orders", _TOLD, since=since)

    async def apply(self, broker_order_ids: Sequence[str], market: Market) -> tuple[list[Look], MarketSnapshot]:
        """Match these orders against the market under their locks and book what comes of it, each order once a tick."""
        try:
            return await self._apply(broker_order_ids, market)
        except asyncpg.UniqueViolationError as error:
            raise Transient("another paper exchange booked this tick's fills at the same moment", part=PART) from error

    async def _apply(self, broker_order_ids: Sequence[str], market: Market) -> tuple[list[Look], MarketSnapshot]:
        given = {"ids": list(broker_order_ids), "tick_id": market.tick_id}
        async with transient("booking fills"), self._database.connection() as connection, connection.transaction():
            locked = await connection.fetch(_LOCKED.text, *_LOCKED.arguments(given))
            orders = [ExchangeOrder.of(row) for row in locked if not row["looked"]]
            looks, snapshot = match_all(orders, market)
            now = utc_now()
            looks = [Look(replace(one.order, updated_at=now), one.executions) for one in looks]
            trades = [_INSERT.arguments(row) for one in looks for row in _trade_rows(one, market)]
            if trades:
                await connection.executemany(_INSERT.text, trades)
            if looks:
                changes = [_UPDATE.arguments(_order_values(one.order)) for one in looks]
                await connection.executemany(_UPDATE.text, changes)
        return looks, snapshot

    async def cancel(self, broker_order_ids: Sequence[str]) -> list[ExchangeOrder]:
        """End these orders where a cancel is asked for and nothing ended them before."""
        given = {"ids": list(broker_order_ids), "message": "cancelled on request", "now": utc_now()}
        return await self._fetch("cancelling orders", _CANCEL, **given)

    async def end_day(self, today: date) -> list[ExchangeOrder]:
        """DAY orders of an earlier trading day end with it."""
        given = {"day": today, "message": "the trading day is over", "now": utc_now()}
        return await self._fetch("ending the day", _END_DAY, **given)

    async def _fetch(self, what: str, statement: Statement, **values: Any) -> list[ExchangeOrder]:
        return [ExchangeOrder.of(row) for row in await self._database.fetch(what, statement, **values)]


EVER = datetime(2000, 1, 1, tzinfo=UTC)

_order, _trade = ExchangeOrderRow, ExchangeTradeRow
_TIME = DateTime(timezone=True)
_SINCE = bindparam("since", type_=_TIME)
_AMONG = _order.broker_order_id == any_(bindparam("ids", type_=ARRAY(Text)))
_LOOKED = exists().where(
    _trade.broker_order_id == _order.broker_order_id, _trade.tick_id == bindparam("tick_id", type_=Uuid)
)
_WORKING = Statement(select(_order).where(~_order.done, _order.updated_at >= _SINCE))
_TOLD = Statement(select(_order).where(_order.updated_at >= _SINCE, or_(_order.done, _order.filled_quantity > 0)))
_LOCKED = Statement(select(_order, _LOOKED.label("looked")).where(_AMONG, ~_order.done).with_for_update())
_INSERT = Statement(insert(_trade))

_CHANGES = (
    "order_type",
    "price",
    "status",
    "status_message",
    "triggered",
    "filled_quantity",
    "average_price",
    "updated_at",
    "done",
)

_UPDATE = Statement(
    update(_order)
    .where(_order.broker_order_id == bindparam("key", type_=Text))
    .values({name: bindparam(f"new_{name}", type_=getattr(_order, name).type) for name in _CHANGES})
)


def _end(condition: Any) -> Statement:
    message, now = bindparam("message", type_=Text), bindparam("now", type_=_TIME)
    change = update(_order).where(~_order.done, condition)
    change = change.values(status=CANCELLED, status_message=message, done=True, updated_at=now)
    return Statement(change.returning(*_order.__table__.columns))


_CANCEL = _end(and_(_AMONG, _order.cancel_requested))
_END_DAY = _end(_order.trading_day < bindparam("day", type_=Date))


def _order_values(order: ExchangeOrder) -> dict[str, Any]:
    values = {f"new_{name}": getattr(order, name) for name in _CHANGES}
    return values | {"new_order_type": order.order_type.value, "key": order.broker_order_id}


def _trade_rows(one: Look, market: Market) -> list[dict[str, Any]]:
    order = one.order
    return [
        {
            "trade_id": str(derive(market.tick_id, "paper-trade", order.broker_order_id, number)),
            "broker_order_id": order.broker_order_id,
            "trading_day": order.trading_day,
            "quantity": execution.quantity,
            "price": execution.price,
            "tick_id": market.tick_id,
            "filled_at": market.tick.received_at,
        }
        for number, execution in enumerate(one.executions)
    ]
