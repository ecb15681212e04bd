"""Booking a fill: the fill's row with its realised PnL and charges, and the position it moves, inside the caller's transaction.

A position is the fold of its fills ordered by (fill time, trade id); a late fill makes the whole position be folded again.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, exists, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import to_ist, utc_now
from core.events.payloads import FillRecord
from core.storage.models import FillRow, OrderRow, PositionRow, table_of
from core.storage.statements import Statement, equal, given
from core.trading.charges import charges_for_fill
from core.trading.orders import SeenFill
from core.trading.positions import PositionState, apply_fill
from core.trading.types import Exchange, Product, Side

FILLS = table_of(FillRow)
POSITIONS = table_of(PositionRow)
ORDERS = table_of(OrderRow)


async def book_fill(
    connection: AsyncConnection,
    order: dict[str, Any],
    seen: SeenFill,
    broker_order_id: str,
    day: date,
    exchange: Exchange,
) -> FillRecord:
    """Insert the fill and move its position. The caller holds the order's row and has checked that the trade is new."""
    position = await lock_position(connection, order)
    row = _row(order, seen, broker_order_id, day, exchange)
    around = (await _AROUND.rows(connection, **row))[0]
    charges = row["charges"] = _charges(order, seen, exchange, Decimal(around["turnover"]))
    if not around["later"]:
        after, realized = apply_fill(position, Side(order["side"]), seen.quantity, seen.price, charges)
        row |= _standing(after, realized)
        await _INSERT.rows(connection, **row)
    else:
        await _INSERT.rows(connection, **row)
        after, realized = await _refold(connection, order, position, row)
    await _MOVE.rows(
        connection,
        **_key(order),
        new_quantity=after.quantity,
        new_average_price=after.average_price,
        new_realized_pnl=after.realized_pnl,
        new_charges=after.charges,
        new_updated_at=utc_now(),
    )
    return FillRecord(
        account=order["account"],
        trading_day=day,
        exchange=exchange,
        broker_order_id=broker_order_id,
        trade_id=seen.trade_id,
        quantity=seen.quantity,
        price=seen.price,
        filled_at=seen.filled_at,
        realized_pnl=realized,
        charges=charges,
        position_quantity=after.quantity,
        position_average_price=after.average_price,
    )


async def lock_position(connection: AsyncConnection, order: dict[str, Any]) -> PositionState:
    """The position's row, locked until the transaction ends; made if it is missing, so that there is always one to lock.

    The caller's transaction has begun.
    """
    key = _key(order)
    rows = await _LOCK.rows(connection, **key)
    if not rows:
        new = {"account": order["account"], "instrument": order["instrument"], "updated_at": utc_now()}
        nothing = dict.fromkeys(("average_price", "realized_pnl", "charges"), Decimal(0))
        await _MAKE.rows(connection, **key, **new, **nothing, quantity=0)
        rows = await _LOCK.rows(connection, **key)
    row = rows[0]
    return PositionState(row["quantity"], row["average_price"], row["realized_pnl"], row["charges"])


def _key(order: dict[str, Any]) -> dict[str, Any]:
    return {name: order[name] for name in ("instance", "instrument_token", "product")}


def _standing(state: PositionState, realized: Decimal) -> dict[str, Any]:
    """What a fill's row says of the position after it."""
    return {
        "realized_pnl": realized,
        "position_quantity": state.quantity,
        "position_average_price": state.average_price,
    }


def _row(order: dict[str, Any], seen: SeenFill, broker_order_id: str, day: date, exchange: Exchange) -> dict[str, Any]:
    copied = ("account", "order_id", "instance", "instrument_token", "instrument", "instrument_type", "product", "side")
    return {name: order[name] for name in copied} | {
        "trading_day": day,
        "exchange": exchange.value,
        "broker_order_id": broker_order_id,
        "trade_id": seen.trade_id,
        "quantity": seen.quantity,
        "price": seen.price,
        "filled_at": seen.filled_at,
        "realized_pnl": Decimal(0),
        "charges": Decimal(0),
        "position_quantity": 0,
        "position_average_price": Decimal(0),
        "recorded_at": utc_now(),
    }


def _charges(order: dict[str, Any], seen: SeenFill, exchange: Exchange, turnover_before: Decimal) -> Decimal:
    """This fill's charges; brokerage is capped per executed order, so what the order traded before counts."""
    return charges_for_fill(
        exchange=exchange,
        instrument_type=order["instrument_type"],
        product=Product(order["product"]),
        side=Side(order["side"]),
        quantity=seen.quantity,
        price=seen.price,
        on=to_ist(seen.filled_at).date(),
        order_turnover_before=turnover_before,
    ).total


async def _refold(
    connection: AsyncConnection, order: dict[str, Any], position: PositionState, new: dict[str, Any]
) -> tuple[PositionState, Decimal]:
    """Fold again from the new fill on: `position` is the one without it. Returns the position and what the fill realised.

    An order's realised PnL stays the sum of its fills': what later fills realise otherwise now moves their orders', `order` in place.
    """
    before = await _BEFORE.rows(connection, **new)
    again = await _FROM.rows(connection, **new)
    state = PositionState(
        before[0]["position_quantity"] if before else 0,
        before[0]["position_average_price"] if before else Decimal(0),
        position.realized_pnl - sum((row["realized_pnl"] for row in again), Decimal(0)),
        position.charges - sum((row["charges"] for row in again), Decimal(0)) + new["charges"],
    )
    realized_new = Decimal(0)
    moved: defaultdict[UUID, Decimal] = defaultdict(Decimal)
    for row in again:
        state, realized = apply_fill(state, Side(row["side"]), row["quantity"], row["price"], row["charges"])
        if (row["broker_order_id"], row["trade_id"]) == (new["broker_order_id"], new["trade_id"]):
            realized_new = realized
        else:
            moved[row["order_id"]] += realized - row["realized_pnl"]
        identity = {name: row[name] for name in _IDENTITY}
        await _RESTATE.rows(connection, **identity, **_standing(state, realized))
    order["realized_pnl"] += moved.pop(order["order_id"], Decimal(0))
    for order_id, more in moved.items():
        if more:
            await _ADD_REALIZED.rows(connection, order_id=order_id, more=more)
    return state, realized_new


# statements ------------------------------------------------------------------------------------------------------

_POSITION = ("instance", "instrument_token", "product")
_IDENTITY = ("account", "trading_day", "exchange", "broker_order_id", "trade_id")


_ORDER = ("filled_at", "trade_id", "account", "trading_day", "exchange", "broker_order_id")
"""What fills are folded by; the identity breaks the tie of two orders whose trade ids agree."""

_MOMENT = tuple_(*(FILLS.c[name] for name in _ORDER))
_THIS_MOMENT = tuple_(*given(FILLS, _ORDER).values())


def _around_statement() -> Select[Any]:
    traded = select(func.coalesce(func.sum(FILLS.c.quantity * FILLS.c.price), 0))
    later = exists().where(*equal(FILLS, *_POSITION), _MOMENT > _THIS_MOMENT)
    mine = traded.where(*equal(FILLS, "order_id", "broker_order_id"))
    return select(mine.scalar_subquery().label("turnover"), later.label("later"))


_AROUND = Statement(_around_statement())
_LOCK = Statement(select(POSITIONS).where(*equal(POSITIONS, *_POSITION)).with_for_update())
_MAKE = Statement(upsert(POSITIONS).values(given(POSITIONS, POSITIONS.c.keys())).on_conflict_do_nothing())
_MOVE = Statement(
    update(POSITIONS)
    .where(*equal(POSITIONS, *_POSITION))
    .values(given(POSITIONS, ("quantity", "average_price", "realized_pnl", "charges", "updated_at"), prefix="new_"))
)
_INSERT = Statement(insert(FILLS).values(given(FILLS, FILLS.c.keys())))
_BEFORE = Statement(
    select(FILLS.c.position_quantity, FILLS.c.position_average_price)
    .where(*equal(FILLS, *_POSITION), _MOMENT < _THIS_MOMENT)
    .order_by(*(FILLS.c[name].desc() for name in _ORDER))
    .limit(1)
)
_FROM = Statement(
    select(FILLS)
    .where(*equal(FILLS, *_POSITION), _MOMENT >= _THIS_MOMENT)
    .order_by(*(FILLS.c[name] for name in _ORDER))
)
_ADD_REALIZED = Statement(
    update(ORDERS)
    .where(*equal(ORDERS, "order_id"))
    .values(realized_pnl=ORDERS.c.realized_pnl + bindparam("more", type_=ORDERS.c.realized_pnl.type))
)
_RESTATE = Statement(
    update(FILLS)
    .where(*equal(FILLS, *_IDENTITY))
    .values(given(FILLS, ("realized_pnl", "position_quantity", "position_average_price")))
)
