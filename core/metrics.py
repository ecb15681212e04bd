"""Every Prometheus metric of the project, by name, in one place; each process writes its own files, the API gathers them.

The files of a process are named after its service, not its pid: counters go on over a restart and nothing piles up. Gauges of a
process that is gone are dropped. Without `core.service.prepare` (tests, command line) metrics stay inside the process.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Final

import prometheus_client as prometheus
from prometheus_client import Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector

from core import slots

METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"
METRICS_NAME = "ALPHA_PANDA_SERVICE"

_LIVE: Final = "livemostrecent"


def _gauge_file(folder: Path, name: str) -> Path:
    return folder / f"gauge_{_LIVE}_{name}.db"


def _share() -> slots.Slot | None:
    """Write this process's metrics where `core.service.prepare` said, under a name no living process has."""
    folder = os.environ.get(METRICS_DIR)
    if not folder:
        return None
    slot = slots.claim(Path(folder), os.environ.get(METRICS_NAME, "process").replace("_", "-"))
    _gauge_file(Path(folder), slot.name).unlink(missing_ok=True)  # what a killed predecessor last saw
    values.ValueClass = values.MultiProcessValue(lambda: slot.name)  # type: ignore[no-untyped-call]
    atexit.register(slot.release)
    return slot


_slot = _share()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def _counter(name: str, what: str, *labels: str) -> Counter:
    return Counter(f"alpha_panda_{name}", what, labels)


def _histogram(name: str, what: str, *labels: str) -> Histogram:
    return Histogram(f"alpha_panda_{name}", what, labels, buckets=_SECONDS)


def _gauge(name: str, what: str, *labels: str) -> Gauge:
    """The last value any living process set for these labels."""
    return Gauge(f"alpha_panda_{name}", what, labels, multiprocess_mode=_LIVE)


# The log
events_published = _counter("events_published_total", "Events acknowledged by the log", "topic")
events_consumed = _counter("events_consumed_total", "Records handled (or sent to the DLQ)", "service", "topic")
dlq = _counter("dlq_total", "Records sent to the dead-letter queue", "topic", "stage")
handler_seconds = _histogram("handler_seconds", "Time one record took to handle", "service")
partitions_waiting = _gauge("partitions_waiting", "Partitions held by a part that is away", "service")
consumer_lag = _gauge("consumer_lag", "Records of a topic a group has not committed yet", "group", "topic")
dlq_depth = _gauge("dlq_depth", "Dead letters neither replayed nor dropped", "topic")

# Market data
ticks = _counter("ticks_total", "Ticks published")
ticks_dropped = _counter("ticks_dropped_total", "Ticks dropped because the log was too slow or away")
tick_age_seconds = _histogram("tick_age_seconds", "Receive time minus exchange time of a tick (1 s resolution)")
feed_gaps = _counter("feed_gap_total", "Gaps announced after the feed was interrupted")
feed_connected = _gauge("feed_connected", "1 while the market data WebSocket delivers")

# Decisions
signals = _counter("signals_total", "Signals published by strategies", "broker", "strategy")
strategy_failed = _gauge("strategy_failed", "1 while a strategy instance is stopped by its own error", "strategy")
decisions = _counter("decisions_total", "Risk decisions", "broker", "outcome", "code")
decision_seconds = _histogram("decision_seconds", "From a signal read to its decision published", "broker")

# Orders
orders = _counter("orders_total", "Orders that reached a status", "broker", "status")
order_step_seconds = _histogram("order_step_seconds", "Time one step of an order took", "broker", "step")
orders_by_status = _gauge("orders_by_status", "Orders in the views, by their present status", "broker", "status")
open_orders = _gauge("open_orders", "Orders that are not at an end", "broker")

# Reconciliation
drift = _gauge(
    "drift", "Units the broker holds that neither our fills nor FOREIGN explain", "broker", "instrument", "product"
)
foreign = _gauge("foreign", "Units the broker holds that are not ours", "broker", "instrument", "product")
foreign_orders = _gauge("foreign_orders", "Today's orders at the broker that are not ours", "broker")
reconciled_at = _gauge("reconciled_at_seconds", "Unix time of the last judged comparison with the broker", "broker")
reconcile_mended = _counter(
    "reconcile_mended_total",
    "Late fills booked, rows adopted, workflows started again, events published late",
    "broker",
    "what",
)

# Paper exchange
paper_orders_working = _gauge("paper_orders_working", "Orders the paper exchange holds that are not at an end")
paper_fills = _counter("paper_fills_total", "Fills booked by the paper exchange")
paper_ticks_unreadable = _counter("paper_ticks_unreadable_total", "Ticks the paper exchange could not decode")
paper_hints_dropped = _counter("paper_hints_dropped_total", "Order hints dropped because the log was away too long")

# People
alerts = _counter("alerts_total", "Alerts raised", "kind")
alert_deliveries = _counter(
    "alert_deliveries_total", "Alerts told, tried or given up on a channel", "channel", "outcome"
)
alert_channel_failing = _gauge("alert_channel_failing", "1 while a channel does not take messages", "channel")
heartbeats = _counter("heartbeats_total", "Pings of the dead-man heartbeat address", "outcome")


def _drop_gauges_of_the_dead(folder: Path) -> None:
    for path in folder.glob("gauge_live*_*.db"):
        if not slots.is_held(folder, path.stem.split("_", 2)[2]):
            path.unlink(missing_ok=True)


def render() -> bytes:
    """All processes' metrics in Prometheus' text format; this process's alone where none are shared."""
    folder = os.environ.get(METRICS_DIR)
    if _slot is None or not folder:
        return prometheus.generate_latest()
    _drop_gauges_of_the_dead(Path(folder))
    registry = prometheus.CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return prometheus.generate_latest(registry)


CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
