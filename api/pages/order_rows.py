"""Orders as rows of a table, the same on every page that lists some."""

from __future__ import annotations

from api.models import OrderSummary
from api.pages import formats, parts
from api.pages.guard import ROOM
from api.pages.parts import Column, Row, cell, chip
from core.trading.types import OrderStatus

COLUMNS = (
    Column("Created"),
    Column("Order"),
    Column("State"),
    Column("Filled", "num"),
    Column("Average", "num"),
    Column("Net PnL", "num"),
    Column("Strategy"),
    Column("Broker"),
)

TONES = {
    OrderStatus.FILLED: "good",
    OrderStatus.REJECTED: "bad",
    OrderStatus.UNKNOWN: "bad",
    OrderStatus.UNRESOLVED: "bad",
    OrderStatus.EXPIRED: "warn",
}


def what(order: OrderSummary) -> str:
    """`BUY 50 NSE:INFY LIMIT @ 1,500.00`."""
    at = f" @ {formats.price(order.price)}" if order.price is not None else ""
    trigger = f", trigger {formats.price(order.trigger_price)}" if order.trigger_price is not None else ""
    return f"{order.side} {formats.number(order.quantity)} {order.instrument} {order.order_type}{at}{trigger}"


def row(order: OrderSummary) -> Row:
    held = {OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED}
    made = order.filled_quantity > 0
    return Row(
        str(order.order_id),
        (
            parts.when(order.created_at),
            cell(what(order), to=f"{ROOM}/order/{order.order_id}", more=f"{order.intent.lower()} · {order.product}"),
            chip(order.state, TONES.get(order.state, "plain")) | ({"more": order.reason} if order.reason else {}),
            cell(
                f"{formats.number(order.filled_quantity)} of {formats.number(order.quantity)}",
                order=order.filled_quantity,
            ),
            parts.price(order.average_price),
            parts.gain(order.net_pnl) if made else cell(formats.NONE),
            cell(order.strategy_id, more="" if order.source == "strategy" else "by hand"),
            cell(order.broker.value),
        ),
        "bad" if order.state in held else "",
    )
