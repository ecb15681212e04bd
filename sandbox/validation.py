"""What Kite checks before an order gets an id: each failure is HTTP 400 and leaves no row in the book. Pure.

Only `regular` orders with DAY or IOC validity are served; Kite's other varieties are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TypeVar

from core.trading.matching import AUTO_PROTECTION, auto_protection_percent, protection_price
from core.trading.types import Exchange, OrderType, Product, Side, Validity
from sandbox import errors
from sandbox.instruments import Instrument
from sandbox.orders import Change, Order, OrderRequest

KNOWN_VARIETIES = frozenset({"regular", "amo", "co", "iceberg", "auction"})
MAX_TAG = 20
Form = Mapping[str, str]
Choice = TypeVar("Choice", bound=StrEnum)
LastPrice = Callable[[int], int]
"""instrument token to last price in paise"""


def check_variety(variety: str) -> None:
    if variety not in KNOWN_VARIETIES:
        raise errors.method_not_allowed()
    if variety != "regular":
        raise errors.bad_input(f"The sandbox serves `regular` orders only, not `{variety}`.")


def parse_place(variety: str, form: Form, find: Callable[[str], Instrument | None], last: LastPrice) -> OrderRequest:
    """Check a placement's form and convert MARKET and SL-M to what the exchange gets.

    Raises:
        KiteError: the first thing that is wrong, in Kite's words where they are known.
    """
    check_variety(variety)
    if form.get("autoslice", "").lower() == "true":
        raise errors.bad_input("The sandbox does not slice orders: place each slice yourself.")
    for name in ("exchange", "tradingsymbol", "transaction_type", "quantity", "product", "order_type"):
        if not form.get(name):
            raise errors.missing(name)
    exchange = _choice(Exchange, form, "exchange")
    instrument = find(f"{exchange}:{form['tradingsymbol']}")
    if instrument is None or instrument.is_index:
        raise errors.unknown_instrument()
    side = _choice(Side, form, "transaction_type")
    product = _product(form, instrument)
    order_type = _choice(OrderType, form, "order_type")
    validity = _validity(form)
    quantity = _quantity(form, "quantity", instrument)
    tag = form.get("tag") or None
    if tag is not None and len(tag) > MAX_TAG:
        raise errors.bad_input(f"Invalid `tag`. Maximum {MAX_TAG} characters are allowed.")
    price, trigger, order_type, tags = _prices(form, instrument, side, order_type, last(instrument.token), None)
    return OrderRequest(
        variety, str(exchange), instrument.tradingsymbol, instrument.token, side, order_type, str(product), validity,
        quantity, _whole(form, "disclosed_quantity", 0), price, trigger, tag, tags,
    )  # fmt: skip


def parse_modify(form: Form, order: Order, instrument: Instrument, last: int) -> Change:
    """Lay a modification's form over the order's present terms. `quantity` is the new total.

    Raises:
        KiteError: the first thing that is wrong.
    """
    now = order.terms
    order_type = _choice(OrderType, form, "order_type") if form.get("order_type") else now.order_type
    quantity = _quantity(form, "quantity", instrument) if form.get("quantity") else now.quantity
    if quantity <= order.filled:
        raise errors.bad_input(f"Quantity cannot be modified to {quantity}: {order.filled} are filled already.")
    price, trigger, order_type, _ = _prices(form, instrument, order.request.side, order_type, last, now)
    disclosed = _whole(form, "disclosed_quantity", now.disclosed_quantity)
    validity = _validity(form) if form.get("validity") else now.validity
    return Change(order_type, validity, quantity, disclosed, price, trigger)


def _prices(
    form: Form, instrument: Instrument, side: Side, order_type: OrderType, last: int, now: Change | None
) -> tuple[int, int, OrderType, tuple[str, ...]]:
    """Price and trigger in paise, the type the exchange gets, and the tags Kite adds."""
    stop = order_type in {OrderType.SL, OrderType.SL_M}
    trigger = _price(form, "trigger_price", instrument, now.trigger_price if now else 0) if stop else 0
    if stop and not trigger:
        raise errors.missing("trigger_price")
    if order_type in {OrderType.LIMIT, OrderType.SL}:
        price = _price(form, "price", instrument, now.price if now else 0)
        if not price:
            raise errors.missing("price")
        if stop and (trigger - price) * side.sign > 0:
            bound = "less" if side is Side.BUY else "greater"
            raise errors.bad_input(
                f"Trigger price of a {side} stoploss order should be {bound} than or equal to its price."
            )
        return price, trigger, order_type, ()
    protection = _protection(form)
    reference = Decimal(trigger or last) / 100
    price = int(protection_price(side, reference, protection, instrument.tick_size, instrument.kind) * 100)
    percent = auto_protection_percent(reference, instrument.kind) if protection == AUTO_PROTECTION else protection
    becomes = OrderType.SL if stop else OrderType.LIMIT
    return price, trigger, becomes, ("mktp", f"mktp:{percent:.2f}")


def _protection(form: Form) -> Decimal:
    """MARKET and SL-M need it since 1 April 2026; absent and 0 are the same."""
    value = _decimal(form, "market_protection")
    if value == 0:
        raise errors.no_market_protection()
    if value != AUTO_PROTECTION and not 0 < value <= 100:
        raise errors.invalid("market_protection")
    return value


def _product(form: Form, instrument: Instrument) -> Product:
    product = _choice(Product, form, "product")
    equity = instrument.kind == "EQ"
    if (product is Product.CNC and not equity) or (product is Product.NRML and equity):
        raise errors.invalid("product")
    return product


def _validity(form: Form) -> Validity:
    validity = _choice(Validity, form, "validity") if form.get("validity") else Validity.DAY
    if validity is Validity.TTL:
        raise errors.bad_input("The sandbox serves DAY and IOC validity, not `TTL`.")
    return validity


def _choice(kind: type[Choice], form: Form, name: str) -> Choice:
    try:
        return kind(form[name])
    except ValueError:
        raise errors.invalid(name) from None


def _quantity(form: Form, name: str, instrument: Instrument) -> int:
    quantity = _whole(form, name, 0)
    if quantity <= 0:
        raise errors.invalid(name)
    if quantity % instrument.lot_size:
        raise errors.bad_input(f"Quantity should be in multiples of {instrument.lot_size} (lot size).")
    return quantity


def _whole(form: Form, name: str, default: int) -> int:
    text = form.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise errors.invalid(name)
    return int(text)


def _price(form: Form, name: str, instrument: Instrument, default: int) -> int:
    if not form.get(name):
        return default
    value = _decimal(form, name)
    if value < 0 or value > 10_000_000:
        raise errors.invalid(name)
    paise = value * 100
    if paise % instrument.tick_paise:
        raise errors.off_tick(instrument.tick_size)
    return int(paise)


def _decimal(form: Form, name: str) -> Decimal:
    try:
        value = Decimal(form.get(name) or "0")
    except InvalidOperation:
        raise errors.invalid(name) from None
    if not value.is_finite():
        raise errors.invalid(name)
    return value
