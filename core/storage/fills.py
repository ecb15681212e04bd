"""Booking a fill: the fill's row with its realised PnL and charges, and the position it moves, inside the caller's transaction.

A position is the fold of its fills ordered by (fill time, trade id); a late fill makes the whole position be folded again.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import to_ist, utc_now
from core.events.payloads import FillRecord
from core.storage.models import FillRow, PositionRow, table_of
from core.trading.charges import charges_for_fill
from core.trading.orders import SeenFill
from core.trading.positions import PositionState, apply_fill
from core.trading.types import Exchange, Product, Side

FILLS = table_of(FillRow)
POSITIONS = table_of(PositionRow)


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
    charges = await _charges(connection, order, seen, broker_order_id, exchange)
    row = _row(order, seen, broker_order_id, day, exchange, charges)
    if await _is_latest(connection, order, seen):
        after, realized = apply_fill(position, Side(order["side"]), seen.quantity, seen.price, charges)
        row |= {
            "realized_pnl": realized,
            "position_quantity": after.quantity,
            "position_average_price": after.average_price,
        }
        await connection.execute(insert(FILLS).values(**row))
    else:
        await connection.execute(insert(FILLS).values(**row))
        after, realized = await _refold(connection, order, (broker_order_id, seen.trade_id))
    await connection.execute(
        update(POSITIONS)
        .where(*_position_key(order))
        .values(
            quantity=after.quantity,
            average_price=after.average_price,
            realized_pnl=after.realized_pnl,
            charges=after.charges,
            updated_at=utc_now(),
        )
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
    """The position's row, locked until the transaction ends; made if it is missing, so that there is always one to lock."""
    await connection.execute(
        upsert(POSITIONS)
        .values(
            instance=order["instance"],
            instrument_token=order["instrument_token"],
            product=order["product"],
            account=order["account"],
            instrument=order["instrument"],
            quantity=0,
            average_price=Decimal(0),
            realized_pnl=Decimal(0),
            charges=Decimal(0),
            updated_at=utc_now(),
        )
        .on_conflict_do_nothing()
    )
    row = (await connection.execute(select(POSITIONS).where(*_position_key(order)).with_for_update())).mappings().one()
    return PositionState(row["quantity"], row["average_price"], row["realized_pnl"], row["charges"])


def _position_key(order: dict[str, Any]) -> tuple[Any, ...]:
    return (
        POSITIONS.c.instance == order["instance"],
        POSITIONS.c.instrument_token == order["instrument_token"],
        POSITIONS.c.product == order["product"],
    )


def _fills_of(order: dict[str, Any]) -> tuple[Any, ...]:
    return (
        FILLS.c.instance == order["instance"],
        FILLS.c.instrument_token == order["instrument_token"],
        FILLS.c.product == order["product"],
    )


def _identity(account: str, day: date, exchange: Exchange, broker_order_id: str, trade_id: str) -> tuple[Any, ...]:
    return (
        FILLS.c.account == account,
        FILLS.c.trading_day == day,
        FILLS.c.exchange == exchange.value,
        FILLS.c.broker_order_id == broker_order_id,
        FILLS.c.trade_id == trade_id,
    )


def _row(
    order: dict[str, Any], seen: SeenFill, broker_order_id: str, day: date, exchange: Exchange, charges: Decimal
) -> dict[str, Any]:
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
        "charges": charges,
        "position_quantity": 0,
        "position_average_price": Decimal(0),
        "recorded_at": utc_now(),
    }


async def _charges(
    connection: AsyncConnection, order: dict[str, Any], seen: SeenFill, broker_order_id: str, exchange: Exchange
) -> Decimal:
    """This fill's charges; brokerage is capped per executed order, so earlier fills of the order count."""
    before = await connection.scalar(
        select(func.coalesce(func.sum(FILLS.c.quantity * FILLS.c.price), 0)).where(
            FILLS.c.order_id == order["order_id"], FILLS.c.broker_order_id == broker_order_id
        )
    )
    return charges_for_fill(
        exchange=exchange,
        instrument_type=order["instrument_type"],
        product=Product(order["product"]),
        side=Side(order["side"]),
        quantity=seen.quantity,
        price=seen.price,
        on=to_ist(seen.filled_at).date(),
        order_turnover_before=Decimal(before or 0),
    ).total


async def _is_latest(connection: AsyncConnection, order: dict[str, Any], seen: SeenFill) -> bool:
    """No booked fill of the position comes after this one in (fill time, trade id) order."""
    later = await connection.scalar(
        select(func.count())
        .select_from(FILLS)
        .where(
            *_fills_of(order),
            (FILLS.c.filled_at > seen.filled_at)
            | ((FILLS.c.filled_at == seen.filled_at) & (FILLS.c.trade_id > seen.trade_id)),
        )
    )
    return not later


async def _refold(
    connection: AsyncConnection, order: dict[str, Any], new: tuple[str, str]
) -> tuple[PositionState, Decimal]:
    """Fold all fills of the position again. Returns the position and what the `new` fill realised."""
    rows = (
        (await connection.execute(select(FILLS).where(*_fills_of(order)).order_by(FILLS.c.filled_at, FILLS.c.trade_id)))
        .mappings()
        .all()
    )
    state, realized_new = PositionState(), Decimal(0)
    for row in rows:
        state, realized = apply_fill(state, Side(row["side"]), row["quantity"], row["price"], row["charges"])
        if (row["broker_order_id"], row["trade_id"]) == new:
            realized_new = realized
        await connection.execute(
            update(FILLS)
            .where(
                *_identity(
                    row["account"],
                    row["trading_day"],
                    Exchange(row["exchange"]),
                    row["broker_order_id"],
                    row["trade_id"],
                )
            )
            .values(realized_pnl=realized, position_quantity=state.quantity, position_average_price=state.average_price)
        )
    return state, realized_new
