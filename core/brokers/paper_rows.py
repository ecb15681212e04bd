"""The paper exchange's rows in the port's words, for PaperTrader and the exchange. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from core.brokers.port import BookRow, BrokerPosition, Trade
from core.trading.positions import PositionState, apply_fill
from core.trading.types import Exchange, OrderType, Product, Side

OPEN = "OPEN"
TRIGGER_PENDING = "TRIGGER PENDING"
COMPLETE = "COMPLETE"
CANCELLED = "CANCELLED"
REJECTED = "REJECTED"

AUTO_PROTECTION = Decimal(-1)


def protection(order_type: OrderType) -> Decimal | None:
    """Orders without a price of their own carry automatic market protection (kite.trade/docs/connect/v3/orders)."""
    return AUTO_PROTECTION if order_type in {OrderType.MARKET, OrderType.SL_M} else None


def book_row(row: Any) -> BookRow:
    """One row of paper_exchange.orders as the port lists it."""
    return BookRow(
        broker_order_id=row["broker_order_id"],
        tags=(row["tag"],),
        status=row["status"],
        status_message=row["status_message"],
        exchange=Exchange(row["exchange"]),
        tradingsymbol=row["tradingsymbol"],
        instrument_token=row["instrument_token"],
        side=Side(row["side"]),
        product=Product(row["product"]),
        order_type=OrderType(row["order_type"]),
        quantity=row["quantity"],
        filled_quantity=row["filled_quantity"],
        cancelled_quantity=row["quantity"] - row["filled_quantity"] if row["status"] == CANCELLED else 0,
        average_price=row["average_price"],
        price=row["price"],
        trigger_price=row["trigger_price"],
        order_at=row["accepted_at"],
    )


def trade(row: Any) -> Trade:
    """One row of paper_exchange.trades with its order's instrument, side and product."""
    return Trade(
        trade_id=row["trade_id"],
        broker_order_id=row["broker_order_id"],
        exchange=Exchange(row["exchange"]),
        tradingsymbol=row["tradingsymbol"],
        instrument_token=row["instrument_token"],
        side=Side(row["side"]),
        product=Product(row["product"]),
        quantity=row["quantity"],
        price=row["price"],
        filled_at=row["filled_at"],
    )


def net_positions(trades: Iterable[Any]) -> tuple[BrokerPosition, ...]:
    """Fold trade rows, in the order they happened, into the open positions."""
    states: dict[tuple[str, str, int, str], PositionState] = {}
    for row in trades:
        key = (row["exchange"], row["tradingsymbol"], row["instrument_token"], row["product"])
        state = states.get(key, PositionState())
        states[key], _ = apply_fill(state, Side(row["side"]), row["quantity"], row["price"], Decimal(0))
    return tuple(
        BrokerPosition(Exchange(exchange), symbol, token, Product(product), state.quantity, state.average_price)
        for (exchange, symbol, token, product), state in states.items()
        if state.quantity
    )
