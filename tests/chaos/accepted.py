"""Is an order that a broker accepted the one the intent asked for? Every field of it, to the unit and the paisa. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from core.trading.types import Intent, OrderType, Product
from tests.chaos.books import API, BookOrder
from tests.chaos.plan import Planned

PRODUCT = Product.MIS.value
"""Of every intent of the run."""


def differences(one: Planned, row: BookOrder) -> Iterator[str]:
    """In words, each field in which the accepted order differs from the intent. An exit may be for less, never for more."""
    at_market = one.order_type is OrderType.MARKET
    due = {
        "side": (one.side.value, row.side),
        "instrument": (one.instrument_token, row.instrument_token),
        "product": (PRODUCT, row.product),
        "type": (one.order_type.value, row.order_type),
        "validity": (one.validity.value, row.validity),
        "price": (None if at_market else one.price, row.limit),
        "source": (API, row.source),
    }
    for name, (asked, got) in due.items():
        if asked != got:
            yield f"the broker accepted {row.broker_order_id} with {name} {got}, the intent asked for {asked}"
    if row.placed != one.quantity and (one.intent is Intent.ENTRY or row.placed > one.quantity):
        yield f"the broker accepted {row.broker_order_id} with quantity {row.placed}, the intent asked for {one.quantity}"
    if row.filled_quantity > one.quantity:
        yield f"more filled than the intent asked for: {row.filled_quantity} of {one.quantity}"
    traded = sum(trade.quantity for trade in row.trades)
    if traded != row.filled_quantity:
        yield f"the broker's trades add up to {traded}, its own order says {row.filled_quantity}"
