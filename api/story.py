"""An order's timeline in words, for someone who does not know the code. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from api.pages.formats import grouped
from core.storage.views import StoredEvent


def tell(event: StoredEvent) -> str:
    """One sentence a person understands."""
    data = event.data
    if event.type == "signal.raw":
        return _signal(data)
    if event.type == "signal.validated":
        return f"risk accepted the signal: order {data['order_id']} in account {data['account']} ({data['target']})"
    if event.type == "signal.rejected":
        return "risk rejected the signal: " + "; ".join(f"{row['code']} ({row['message']})" for row in data["denials"])
    return _order(event.type, data["order"], data.get("fill"))


def _signal(data: dict[str, Any]) -> str:
    words = [data["side"], str(data["quantity"]), data["instrument"], data["order_type"], data["product"]]
    if data.get("price"):
        words.append(f"@ {money(data['price'])}")
    why = f": {data['reason']}" if data.get("reason") else ""
    return f"{data['intent'].lower()} signal {' '.join(words)} by {data['instance']}{why}"


def _order(kind: str, order: dict[str, Any], fill: dict[str, Any] | None) -> str:
    if fill is not None:
        return (
            f"filled {fill['quantity']} @ {money(fill['price'])}, {order['filled_quantity']} of {order['quantity']}; "
            f"realised {money(fill['realized_pnl'])}, charges {money(fill['charges'])}, "
            f"position {fill['position_quantity']}"
        )
    why = f": {order['reason']}" if order.get("reason") else ""
    broker_order = order.get("broker_order_id") or "unknown"
    sentences = {
        "order.submitted": f"the broker took it as {broker_order} (send {order['send_no']})",
        "order.ack": f"the exchange has it ({broker_order})",
        "order.modified": f"modified: {order['quantity']} {order['order_type']} @ {money(order['price']) if order['price'] else 'market'}",
        "order.cancelled": f"cancelled with {order['filled_quantity']} of {order['quantity']} filled{why}",
        "order.rejected": f"rejected{why}",
        "order.expired": f"expired{why}",
        "order.unknown": f"sent without an answer; looking it up in the broker's book{why}",
        "order.unresolved": f"a person must decide{why}",
    }
    return sentences.get(kind, f"{kind}{why}")


def money(amount: str | Decimal) -> str:
    """Rupees with two decimals, more only where they are there; Indian grouping."""
    value = Decimal(amount)
    places = max(2, -int(value.normalize().as_tuple().exponent)) if value else 2
    whole, _, paise = f"{abs(value):.{min(places, 4)}f}".partition(".")
    return f"{'-' if value < 0 else ''}{grouped(whole)}.{paise}"
