"""What a person or program may ask of an order, and what of it is refused before anything is sent. Pure.

Never decides what became of a command: the broker's book does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

from core.trading.orders import SeenFill
from core.trading.types import Broker, OrderType

MODIFICATIONS = 25
"""Kite's limit of modifications an order, then cancel and place anew (kite.trade/forum/discussion/9212). Ours for every broker."""

PERSONS_AGE_S = 60.0
"""A change a person asked for is not sent when it is older: prices have moved on. A cancel never grows too old."""

TAKES_QUANTITY = frozenset({Broker.PAPER})
"""Brokers whose modify says what a new quantity means. Zerodha's does not (total, or what is left): price and trigger only."""

_PRICED = frozenset({OrderType.LIMIT, OrderType.SL})
_TRIGGERED = frozenset({OrderType.SL, OrderType.SL_M})


class CommandKind(StrEnum):
    CANCEL = "CANCEL"
    MODIFY = "MODIFY"
    RESOLVE = "RESOLVE"


class CommandState(StrEnum):
    REQUESTED = "REQUESTED"
    SENT = "SENT"
    """It may have reached the broker; what came of it is read from the book."""
    FINISHED = "FINISHED"


class CommandOutcome(StrEnum):
    """What became of a finished command; the evidence says why."""

    APPLIED = "APPLIED"
    NOT_APPLIED = "NOT_APPLIED"
    ORDER_ENDED = "ORDER_ENDED"
    """The order ended another way first: a fill beats a cancel."""


class Resolution(StrEnum):
    """How a person ends the doubt about an UNRESOLVED order."""

    ADOPT = "adopt"
    NEVER_PLACED = "never-placed"
    BOOK_FILL = "book-fill"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a modify changes; None stays as it is. Rupees and units."""

    price: Decimal | None = None
    trigger_price: Decimal | None = None
    quantity: int | None = None

    @staticmethod
    def of(parameters: dict[str, Any]) -> Changes:
        """From a command's parameters. Raises ValueError naming the field that cannot be read."""
        quantity = parameters.get("quantity")
        if quantity is not None and (isinstance(quantity, bool) or not isinstance(quantity, int)):
            raise ValueError(f"quantity {quantity!r}: give a whole number of units")
        return Changes(_decimal(parameters, "price"), _decimal(parameters, "trigger_price"), quantity)

    def parameters(self) -> dict[str, Any]:
        """As JSON holds them: prices as text, so that no digit is lost."""
        given = {"price": self.price, "trigger_price": self.trigger_price}
        found: dict[str, Any] = {name: format(value, "f") for name, value in given.items() if value is not None}
        return found if self.quantity is None else found | {"quantity": self.quantity}

    def told(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.parameters().items())


def _decimal(parameters: dict[str, Any], name: str) -> Decimal | None:
    value = parameters.get(name)
    if value is None:
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{name} {value!r}: give a number of rupees") from None
    if not found.is_finite():
        raise ValueError(f"{name} {value!r}: give a number of rupees")
    return found


@dataclass(frozen=True, slots=True)
class Modifiable:
    """What of an order decides which changes it takes. `modifications` were sent before, whatever came of them."""

    broker: Broker
    order_type: OrderType
    tick_size: Decimal
    lot_size: int
    quantity: int
    filled_quantity: int
    modifications: int


def refusals(order: Modifiable, changes: Changes) -> tuple[str, ...]:
    """Why the change cannot be sent: each names the field and what to do. Empty: it may be."""
    return tuple(_refusals(order, changes))


def _refusals(order: Modifiable, changes: Changes) -> Iterator[str]:
    if changes == Changes():
        yield "nothing to change: give a price, a trigger price or a quantity"
    if order.modifications >= MODIFICATIONS:
        yield f"it was modified {order.modifications} times and {MODIFICATIONS} is Kite's limit: cancel it and place anew"
    for name, value, fits in (
        ("price", changes.price, _PRICED),
        ("trigger_price", changes.trigger_price, _TRIGGERED),
    ):
        if value is None:
            continue
        if order.order_type not in fits:
            yield f"{name}: a {order.order_type} order has none; leave it out, or cancel it and place anew"
        elif value <= 0:
            yield f"{name} {value}: give a positive price"
        elif value % order.tick_size:
            below = value - value % order.tick_size
            near = f"{below} or {below + order.tick_size}" if below > 0 else f"{order.tick_size}"
            yield f"{name} {value} is no multiple of the tick size {order.tick_size}: give {near}"
    if changes.quantity is not None:
        yield from _quantity_refusals(order, changes.quantity)


def _quantity_refusals(order: Modifiable, quantity: int) -> Iterator[str]:
    """Only less than was decided: more would pass by the rules of risk, and an exit could sell what is not held."""
    if order.broker not in TAKES_QUANTITY:
        yield "quantity: Zerodha does not say whether it means all or the rest; cancel it and place anew"
    elif quantity >= order.quantity:
        yield f"quantity {quantity}: only less than {order.quantity} is allowed; place another order for more"
    elif quantity <= order.filled_quantity:
        yield f"quantity {quantity}: {order.filled_quantity} are filled already; cancel the order to stop it there"
    elif quantity % order.lot_size:
        yield f"quantity {quantity} is no multiple of the lot size {order.lot_size}: give whole lots"


def given_fill(parameters: dict[str, Any]) -> SeenFill:
    """The fill a person read elsewhere, from a command's parameters. Raises ValueError naming the field that cannot be read."""
    price = _decimal(parameters, "price")
    try:
        quantity, filled_at = int(parameters["quantity"]), datetime.fromisoformat(str(parameters["filled_at"]))
        trade_id = str(parameters["trade_id"])
    except KeyError as missing:
        raise ValueError(f"{missing.args[0]}: it is missing") from None
    if price is None:
        raise ValueError("price: it is missing")
    return SeenFill(trade_id, quantity, price, filled_at)


def fill_refusal(fill: SeenFill, left: int, now: datetime) -> str | None:
    """Why the fill cannot be booked on an order with `left` units to fill. None: it can."""
    if not 0 < fill.quantity <= left:
        return f"quantity {fill.quantity}: {left} are left to fill"
    if fill.price <= 0:
        return f"price {fill.price}: give what was paid, in rupees"
    if fill.filled_at.tzinfo is None or fill.filled_at > now:
        return f"filled_at {fill.filled_at}: give a past moment with its zone"
    return None
