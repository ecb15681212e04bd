"""The envelope every message travels in, its headers, and decoding that turns bad bytes into Poison with a stage.

The `broker` field is for audit: routing follows the topic's name.
"""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from opentelemetry import trace
from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError

from core.clock import utc_now
from core.errors import Poison
from core.events import payloads
from core.trading.signals import Signal
from core.trading.ticks import Gap, Tick
from core.trading.types import Broker


class EventType(StrEnum):
    TICK = "tick"
    GAP = "gap"
    SIGNAL_RAW = "signal.raw"
    SIGNAL_VALIDATED = "signal.validated"
    SIGNAL_REJECTED = "signal.rejected"
    ORDER_UPDATE = "order.update"
    ORDER_SUBMITTED = "order.submitted"
    ORDER_ACK = "order.ack"
    ORDER_FILLED = "order.filled"
    ORDER_MODIFIED = "order.modified"
    ORDER_CANCELLED = "order.cancelled"
    ORDER_REJECTED = "order.rejected"
    ORDER_EXPIRED = "order.expired"
    ORDER_UNKNOWN = "order.unknown"
    ORDER_UNRESOLVED = "order.unresolved"
    PNL_SNAPSHOT = "pnl.snapshot"
    CONFIG_CHANGED = "config.changed"
    LIMITS_CHANGED = "config.limits"
    ALERT = "alert"
    RECONCILIATION = "reconciliation"


_ORDER_EVENTS: dict[EventType, type[BaseModel]] = {
    kind: payloads.OrderEvent for kind in EventType if kind.startswith("order.")
}

PAYLOADS: dict[EventType, type[BaseModel]] = {
    **_ORDER_EVENTS,
    EventType.TICK: Tick,
    EventType.GAP: Gap,
    EventType.SIGNAL_RAW: Signal,
    EventType.SIGNAL_VALIDATED: payloads.SignalValidated,
    EventType.SIGNAL_REJECTED: payloads.SignalRejected,
    EventType.ORDER_UPDATE: payloads.OrderUpdate,
    EventType.PNL_SNAPSHOT: payloads.PnlSnapshot,
    EventType.CONFIG_CHANGED: payloads.ConfigChanged,
    EventType.LIMITS_CHANGED: payloads.LimitsChanged,
    EventType.ALERT: payloads.Alert,
    EventType.RECONCILIATION: payloads.Reconciliation,
}
"""What each type carries. `order.update` is a broker's hint, every other `order.*` our own order event."""


class Envelope(BaseModel):
    """One message. `ts` is when it was made (UTC); `correlation_id` the tick or command it all began with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    type: EventType
    ts: datetime
    key: str
    source: str
    version: int = 1
    broker: Broker | None = None
    correlation_id: UUID
    causation_id: UUID | None = None
    data: SerializeAsAny[BaseModel]

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    def headers(self, traceparent: str | None = None) -> list[tuple[str, bytes]]:
        """Id, type, version, correlation and W3C traceparent, so that routers and people need not parse the body."""
        return [
            ("id", str(self.id).encode()),
            ("type", self.type.value.encode()),
            ("version", str(self.version).encode()),
            ("correlation_id", str(self.correlation_id).encode()),
            ("traceparent", (traceparent or traceparent_for(self.correlation_id, self.id)).encode()),
        ]


def traceparent_for(correlation_id: UUID, event_id: UUID) -> str:
    """W3C traceparent (w3.org/TR/trace-context): one trace per correlation id; the span is the event itself.

    A recording span of an OpenTelemetry SDK, where one is active, wins.
    """
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-01"
    return f"00-{correlation_id.hex}-{event_id.int & 0xFFFFFFFFFFFFFFFF or 1:016x}-01"


def make(
    event_type: EventType,
    data: BaseModel,
    *,
    id: UUID,
    key: str,
    source: str,
    correlation_id: UUID,
    causation_id: UUID | None = None,
    broker: Broker | None = None,
    ts: datetime | None = None,
) -> Envelope:
    """An envelope around `data`; `ts` defaults to now."""
    return Envelope(
        id=id,
        type=event_type,
        ts=ts or utc_now(),
        key=key,
        source=source,
        broker=broker,
        correlation_id=correlation_id,
        causation_id=causation_id,
        data=data,
    )


def decode(value: bytes | None) -> Envelope:
    """The envelope in these bytes, its data validated as its type says.

    Raises:
        Poison: stage "decode" when it is not a JSON object or of an unknown type, "validate" when a field is wrong.
    """
    try:
        body: Any = json.loads(value or b"")
    except ValueError as error:
        raise Poison(f"not JSON: {error}", stage="decode") from None
    if not isinstance(body, dict):
        raise Poison("not a JSON object", stage="decode")
    try:
        kind = EventType(body.get("type", ""))
    except ValueError:
        raise Poison(f"unknown event type {body.get('type')!r}", stage="decode") from None
    try:
        data = PAYLOADS[kind].model_validate(body.pop("data", None))
        return Envelope.model_validate({**body, "data": data})
    except ValidationError as error:
        fields = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise Poison(f"{kind}: {fields}", stage="validate") from None
