"""The ticker's text frames: order updates become hints on the broker's topic, errors and messages become log lines.

Never takes an update for truth and never lets an odd frame stop the feed.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from core import logging
from core.clock import parse_kite_time
from core.events import envelope
from core.events.envelope import Envelope, EventType
from core.events.payloads import RECONNECTED, OrderUpdate
from core.ids import derive_at
from core.trading.types import Broker
from streams.feed_codec import SOURCE

HINT_SOURCE = "websocket"
_SHOWN = 500

log = logging.get(__name__)


def order_update(text: str, received_at: datetime) -> Envelope | None:
    """The event of an order frame; None for every other frame, which is logged.

    The id is derived from the frame's content, so a frame delivered twice is one event.
    """
    try:
        frame: Any = json.loads(text)
        kind, data = frame["type"], frame["data"]
        if kind == "order":
            return _event(data, received_at)
    except (ValueError, TypeError, KeyError) as error:
        log.error("unreadable text frame", error=repr(error), text=text[:_SHOWN])
        return None
    level = log.error if kind == "error" else log.info
    level("the ticker says", kind=kind, message=str(data)[:_SHOWN])
    return None


def _event(data: dict[str, Any], received_at: datetime) -> Envelope:
    broker_order_id = str(data["order_id"])
    raw = {name: value for name, value in data.items() if name != "checksum"}
    update = OrderUpdate(
        broker_order_id=broker_order_id,
        tag=data.get("tag") or None,
        status=str(data["status"]),
        source=HINT_SOURCE,
        received_at=received_at,
        raw=raw,
    )
    digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
    identity = derive_at(_when(raw, received_at), "order-update", broker_order_id, digest)
    return envelope.make(
        EventType.ORDER_UPDATE,
        update,
        id=identity,
        key=broker_order_id,
        source=SOURCE,
        correlation_id=identity,
        broker=Broker.ZERODHA,
        ts=received_at,
    )


def reconnected(since: datetime, received_at: datetime, reason: str) -> Envelope:
    """Says on the broker's topic that updates since then may be lost: whoever follows orders should look at the book."""
    update = OrderUpdate(
        broker_order_id="",
        status=RECONNECTED,
        source=HINT_SOURCE,
        received_at=received_at,
        raw={"since": since.isoformat(), "reason": reason},
    )
    identity = derive_at(received_at, "order-updates", RECONNECTED, since.isoformat())
    return envelope.make(
        EventType.ORDER_UPDATE,
        update,
        id=identity,
        key=RECONNECTED,
        source=SOURCE,
        correlation_id=identity,
        broker=Broker.ZERODHA,
        ts=received_at,
    )


def _when(raw: dict[str, Any], received_at: datetime) -> datetime:
    """The update's own time, so that the same frame gives the same id; ours where it has none."""
    for name in ("exchange_update_timestamp", "order_timestamp"):
        value = raw.get(name)
        if isinstance(value, str):
            try:
                return parse_kite_time(value)
            except ValueError:
                continue
    return received_at
