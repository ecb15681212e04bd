"""The one place that names topics, with their partitions and retention. Nothing else builds a topic's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from core.trading.types import Broker, OrderStatus

MARKET_TICKS = "market.ticks"
CONFIG_CHANGES = "config.changes"
ALERTS = "alerts"
DLQ_SUFFIX = ".dlq"

DAY_MS = 86_400_000
FOREVER = {"retention.ms": "-1"}
TICKS_RETENTION = {"retention.ms": str(7 * DAY_MS)}
DLQ_RETENTION = {"retention.ms": str(90 * DAY_MS)}

ORDER_EVENTS = (
    "submitted",
    "ack",
    "filled",
    "modified",
    "cancelled",
    "rejected",
    "expired",
    "unknown",
    "unresolved",
)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def signals_raw(broker: Broker) -> str:
    return f"{broker.value}.signals.raw"


def signals_validated(broker: Broker) -> str:
    return f"{broker.value}.signals.validated"


def signals_rejected(broker: Broker) -> str:
    return f"{broker.value}.signals.rejected"


def orders_updates(broker: Broker) -> str:
    """What the broker says, raw: hints, not truth."""
    return f"{broker.value}.orders.updates"


def orders_event(broker: Broker, kind: str) -> str:
    """`kind` is one of ORDER_EVENTS."""
    if kind not in ORDER_EVENTS:
        raise ValueError(f"no order topic for {kind!r}: it is one of {', '.join(ORDER_EVENTS)}")
    return f"{broker.value}.orders.{kind}"


def pnl_snapshots(broker: Broker) -> str:
    return f"{broker.value}.pnl.snapshots"


def reconciliations(broker: Broker) -> str:
    """What each comparison of the journal with the broker came to, keyed by account."""
    return f"{broker.value}.reconciliations"


def prefix(broker: Broker) -> str:
    """What all of a broker's topics begin with: the pattern of its Kafka ACLs."""
    return f"{broker.value}."


def dlq(topic: str) -> str:
    return f"{topic}{DLQ_SUFFIX}"


def undlq(name: str) -> str:
    """The topic whose dead letters these are.

    Raises:
        ValueError: it is no dead-letter topic.
    """
    if not name.endswith(DLQ_SUFFIX):
        raise ValueError(f"{name} is no dead-letter topic")
    return name.removesuffix(DLQ_SUFFIX)


def is_signals(topic: str) -> bool:
    """True for a broker's raw, validated and rejected signals."""
    broker = broker_of(topic)
    return broker is not None and topic in {signals_raw(broker), signals_validated(broker), signals_rejected(broker)}


def broker_of(topic: str) -> Broker | None:
    """The broker a topic belongs to by its name, None for a shared one."""
    head = topic.split(".", 1)[0]
    return Broker(head) if head in set(Broker) else None


def order_topics(broker: Broker) -> list[str]:
    return [orders_event(broker, kind) for kind in ORDER_EVENTS]


def consumed_topics(brokers: Iterable[Broker]) -> list[str]:
    """Every topic some service of ours consumes; each of them has a DLQ."""
    rows = [MARKET_TICKS, CONFIG_CHANGES, ALERTS]
    for broker in brokers:
        rows += [signals_raw(broker), signals_validated(broker), signals_rejected(broker), orders_updates(broker)]
        rows += [*order_topics(broker), reconciliations(broker), pnl_snapshots(broker)]
    return rows


def all_topics(partitions: int, brokers: Iterable[Broker] = tuple(Broker)) -> list[TopicSpec]:
    """Every topic to create. Order topics are kept for ever, ticks for days."""
    brokers = tuple(brokers)
    rows = [
        TopicSpec(MARKET_TICKS, partitions, TICKS_RETENTION),
        TopicSpec(CONFIG_CHANGES, 1, FOREVER),
        TopicSpec(ALERTS, 1, FOREVER),
    ]
    for broker in brokers:
        rows += [
            TopicSpec(name, partitions, FOREVER)
            for name in (
                signals_raw(broker),
                signals_validated(broker),
                signals_rejected(broker),
                orders_updates(broker),
                *order_topics(broker),
            )
        ]
        rows.append(TopicSpec(pnl_snapshots(broker), partitions, {"retention.ms": str(30 * DAY_MS)}))
        rows.append(TopicSpec(reconciliations(broker), 1, {"retention.ms": str(7 * DAY_MS)}))
    known = {row.name: row for row in rows}
    rows += [TopicSpec(dlq(name), known[name].partitions, DLQ_RETENTION) for name in consumed_topics(brokers)]
    return rows


STATUS_TOPIC = {
    OrderStatus.SUBMITTED: "submitted",
    OrderStatus.ACKED: "ack",
    OrderStatus.CANCELLED: "cancelled",
    OrderStatus.REJECTED: "rejected",
    OrderStatus.EXPIRED: "expired",
    OrderStatus.UNKNOWN: "unknown",
    OrderStatus.UNRESOLVED: "unresolved",
}
"""Which topic announces a status; fills announce themselves, one `filled` event a fill."""
