"""Turns journal rows into the bytes of order events. Pure: the same rows give the same event, under the same id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from core import ids
from core.events import topics
from core.events.envelope import EventType, make
from core.events.payloads import FillRecord, OrderEvent, OrderState, SendRecord
from core.trading.types import Broker, OrderStatus

SOURCE = "journal"

EVENT_OF: dict[OrderStatus, EventType] = {
    OrderStatus.SUBMITTED: EventType.ORDER_SUBMITTED,
    OrderStatus.ACKED: EventType.ORDER_ACK,
    OrderStatus.FILLED: EventType.ORDER_MODIFIED,
    OrderStatus.CANCELLED: EventType.ORDER_CANCELLED,
    OrderStatus.REJECTED: EventType.ORDER_REJECTED,
    OrderStatus.EXPIRED: EventType.ORDER_EXPIRED,
    OrderStatus.UNKNOWN: EventType.ORDER_UNKNOWN,
    OrderStatus.UNRESOLVED: EventType.ORDER_UNRESOLVED,
}
"""What a step without a fill announces. Fills announce themselves; PENDING (an exit's next send) announces nothing; an order
becomes FILLED without a fill where somebody reduced it, in the broker's own app, to what was filled already, or where its last
trades were listed before its row counted them."""


def order_state(order: Mapping[str, Any], sends: Sequence[Mapping[str, Any]]) -> OrderState:
    """The full state that every order event carries."""
    fields = {name: order[name] for name in OrderState.model_fields if name != "sends"}
    return OrderState(**fields, sends=tuple(_send_record(send) for send in sends))


def _send_record(send: Mapping[str, Any]) -> SendRecord:
    return SendRecord(**{name: send[name] for name in SendRecord.model_fields})


def outgoing(
    broker: Broker,
    order: dict[str, Any],
    sends: Sequence[Mapping[str, Any]],
    kind: EventType,
    fill: FillRecord | None = None,
) -> dict[str, Any]:
    """A row of outgoing_events for the order's present `order_seq`."""
    order_id: UUID = order["order_id"]
    seq: int = order["order_seq"]
    topic = topics.orders_event(broker, kind.value.removeprefix("order."))
    envelope = make(
        kind,
        OrderEvent(order_seq=seq, order=order_state(order, sends), fill=fill),
        id=ids.derive(order_id, kind, seq),
        key=str(order_id),
        source=SOURCE,
        correlation_id=order["correlation_id"],
        causation_id=order_id,
        broker=broker,
        ts=order["updated_at"],
    )
    return {
        "order_id": order_id,
        "order_seq": seq,
        "event_id": envelope.id,
        "topic": topic,
        "key": envelope.key,
        "value": envelope.encode(),
        "headers": [[name, value.decode()] for name, value in envelope.headers()],
        "created_at": order["updated_at"],
        "published_at": None,
    }
