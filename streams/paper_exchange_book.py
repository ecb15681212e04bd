"""The paper exchange's book: what a tick does to its orders (pure), and the transactions that make it so.

Never books a fill twice: each look happens under the order's row lock, and a trade's id is derived from order and tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, any_, bindparam, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.brokers.paper_rows import CANCELLED, COMPLETE, OPEN, REJECTED, TRIGGER_PENDING
from core.clock import trading_day, utc_now
from core.ids import derive
from core.storage.db import transient
from core.storage.models import ExchangeOrderRow, ExchangeTradeRow
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
        values = {field.name: getattr(row, field.name) for field in fields(cls)}
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
    filled = priced.filled_quantity + result.quantity
    after = replace(
        priced,
        order_type=OrderType.LIMIT if result.triggered and priced.order_type in _STOPS else priced.order_type,
        triggered=result.triggered,
        filled_quantity=filled,
        average_price=_average(priced, result.executions, filled),
        status=TRIGGER_PENDING if priced.order_type in _STOPS and not result.triggered else OPEN,
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

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def working(self, since: datetime | None = None) -> list[ExchangeOrder]:
        """Orders that still work, those changed since the given moment or all."""
        query = select(ExchangeOrderRow).where(~ExchangeOrderRow.done)
        if since is not None:
            query = query.where(ExchangeOrderRow.updated_at >= since)
        return await self._fetch(query, "reading working orders")

    async def load(self, broker_order_ids: Sequence[str]) -> list[ExchangeOrder]:
        return await self._fetch(select(ExchangeOrderRow).where(_among(broker_order_ids)), "reading orders")

    async def told_since(self, since: datetime) -> list[ExchangeOrder]:
        """Orders that ended or filled since then: what a hint may have been lost about."""
        row = ExchangeOrderRow
        query = select(row).where(row.updated_at >= since, or_(row.done, row.filled_quantity > 0))
        return await self._fetch(query, "reading recent orders")

    async def apply(self, broker_order_ids: Sequence[str], market: Market) -> tuple[list[Look], MarketSnapshot]:
        """Match these orders against the market under their locks and book what comes of it, each order once a tick."""
        async with transient("booking fills"), self._engine.begin() as connection:
            locked = select(ExchangeOrderRow).where(_among(broker_order_ids), ~ExchangeOrderRow.done)
            orders = [ExchangeOrder.of(row) for row in await connection.execute(locked.with_for_update())]
            traded = select(ExchangeTradeRow.broker_order_id).where(
                ExchangeTradeRow.broker_order_id == any_(literal(list(broker_order_ids), ARRAY(Text))),
                ExchangeTradeRow.tick_id == market.tick_id,
            )
            already = set((await connection.execute(traded)).scalars())
            looks, snapshot = match_all([one for one in orders if one.broker_order_id not in already], market)
            now = utc_now()
            looks = [Look(replace(one.order, updated_at=now), one.executions) for one in looks]
            trades = [row for one in looks for row in _trade_rows(one, market)]
            if trades:
                await connection.execute(insert(ExchangeTradeRow), trades)
            if looks:
                await connection.execute(_UPDATE, [_order_values(one.order) for one in looks])
        return looks, snapshot

    async def cancel(self, broker_order_ids: Sequence[str]) -> list[ExchangeOrder]:
        """End these orders where a cancel is asked for and nothing ended them before."""
        row = ExchangeOrderRow
        statement = update(row).where(_among(broker_order_ids), ~row.done, row.cancel_requested)
        return await self._end(statement, "cancelled on request", "cancelling orders")

    async def end_day(self, today: date) -> list[ExchangeOrder]:
        """DAY orders of an earlier trading day end with it."""
        row = ExchangeOrderRow
        statement = update(row).where(~row.done, row.trading_day < today)
        return await self._end(statement, "the trading day is over", "ending the day")

    async def _end(self, statement: Any, message: str, what: str) -> list[ExchangeOrder]:
        values = {"status": CANCELLED, "status_message": message, "done": True, "updated_at": utc_now()}
        async with transient(what), self._engine.begin() as connection:
            ended = await connection.execute(statement.values(**values).returning(ExchangeOrderRow))
            return [ExchangeOrder.of(row) for row in ended]

    async def _fetch(self, query: Any, what: str) -> list[ExchangeOrder]:
        async with transient(what), self._engine.connect() as connection:
            return [ExchangeOrder.of(row) for row in await connection.execute(query)]


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

_UPDATE = (
    update(ExchangeOrderRow.__table__)  # type: ignore[arg-type]
    .where(ExchangeOrderRow.broker_order_id == bindparam("key"))
    .values({name: bindparam(f"new_{name}") for name in _CHANGES})
)


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


def _among(broker_order_ids: Sequence[str]) -> Any:
    return ExchangeOrderRow.broker_order_id == any_(literal(list(broker_order_ids), ARRAY(Text)))
