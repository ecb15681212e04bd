"""What our instances hold and what their exits still take, as a kill switch's plan reads it from the journal. Reads no broker."""

from __future__ import annotations

from typing import Any

from core import kill_work
from core.brokers.port import BrokerPosition
from core.storage.kill import Business
from core.trading.kill import Held, Key
from core.trading.types import Broker, Intent, OrderStatus, Product, SendState

CLAIMED = frozenset({SendState.SENDING, SendState.SENT, SendState.UNKNOWN})

_IN_DOUBT = frozenset({OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED})


def in_scope(strategy_id: str | None, order: dict[str, Any]) -> bool:
    """Whether a kill switch of one strategy (None: of all) is about this order."""
    return strategy_id in (None, order["strategy_id"])


def holdings(broker: Broker, strategy_id: str | None, business: Business) -> list[Held]:
    """Every position of the account, in the scope or not, with what working exits may still take of it."""
    in_doubt = {
        order["instrument_token"]: f"{what(order)} is {order['status']}: nobody knows what is really held"
        for order in business.orders
        if OrderStatus(order["status"]) in _IN_DOUBT
    }
    cancelling: dict[tuple[int, str], str] = {
        (order["instrument_token"], order["product"]): f"waits for the end of {what(order)}"
        for order in business.orders
        if in_scope(strategy_id, order) and order["source"] != kill_work.SOURCE
    }
    rows: list[Held] = []
    for position in business.positions:
        token, product = position["instrument_token"], position["product"]
        rows.append(
            Held(
                position["instance"],
                position["instrument"],
                token,
                Product(product),
                position["quantity"],
                sum(left(order) for order in business.orders if _exits(order, position)),
                strategy_id is None or position["instance"] == f"{strategy_id}@{broker}",
                in_doubt.get(token) or cancelling.get((token, product), ""),
            )
        )
    return rows


def _exits(order: dict[str, Any], position: dict[str, Any]) -> bool:
    same = all(order[name] == position[name] for name in ("instance", "instrument_token", "product"))
    return same and order["intent"] == Intent.EXIT.value


def left(order: dict[str, Any]) -> int:
    """What an exit may still take: once claimed, no more than was sent."""
    rest: int = order["quantity"] - order["filled_quantity"]
    return max(min(rest, order["send_quantity"]) if order["send_state"] in CLAIMED else rest, 0)


def key_of(order: dict[str, Any]) -> Key:
    return order["instrument"], Product(order["product"])


def key_at_broker(position: BrokerPosition) -> Key:
    return f"{position.exchange}:{position.tradingsymbol}", position.product


def what(order: dict[str, Any]) -> str:
    """`SELL 10 INFY of momentum@zerodha`."""
    return f"{order['side']} {order['quantity']} {order['tradingsymbol']} of {order['instance']}"
