"""The table of our processes: one row a process, used by the supervisor, `make status` and health. Names no broker by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.config import Settings
from core.trading.types import Broker, KiteTarget


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """`name` is what `alpha-panda service NAME` takes; `broker` is set for processes that serve one broker alone.

    `nice` (0 to 19, as nice(1)) is how far it steps back where the machine is busy. In containers, which share a machine by
    other means, docker/compose.yaml says the same as `cpu_shares`.
    """

    name: str
    what: str
    broker: Broker | None = None
    nice: int = 0


SANDBOX = ServiceSpec("sandbox", "stand-in for Zerodha's servers (simulated prices)")

SHARED: tuple[ServiceSpec, ...] = (
    ServiceSpec("market-feed", "ticks from the Kite WebSocket to market.ticks"),
    ServiceSpec("strategy-runner", "ticks and bars to signals"),
    ServiceSpec("risk-manager", "signals to decisions"),
    ServiceSpec("order-gateway", "validated signals to workflows"),
    ServiceSpec("order-updates", "what brokers say to the orders' workflows"),
    ServiceSpec("paper-exchange", "matches paper orders against live ticks", Broker.PAPER),
    ServiceSpec("portfolio", "fills and marks to positions and PnL"),
    ServiceSpec("order-views", "the log to the tables people read"),
    ServiceSpec("alert-sender", "alerts to people: chat, mail, webhooks"),
    ServiceSpec("api", "FastAPI: health, orders, positions, metrics", nice=5),  # who looks never delays who trades
)


def order_parts(broker: Broker) -> tuple[ServiceSpec, ServiceSpec]:
    """The two worker processes of a broker: order workflows, and the leased process that talks to the broker."""
    return (
        ServiceSpec(f"orders-{broker}", f"order workflows and journal of {broker}", broker),
        ServiceSpec(f"broker-{broker}", f"calls to {broker}: place, cancel, look up", broker),
    )


def services(settings: Settings) -> tuple[ServiceSpec, ...]:
    """Every process of ours that runs with these settings, in start order."""
    rows: list[ServiceSpec] = [SANDBOX] if settings.kite_target is KiteTarget.LOCAL else []
    rows += SHARED
    for broker in settings.active_brokers:
        rows += order_parts(broker)
    return tuple(rows)


def names(rows: Iterable[ServiceSpec]) -> list[str]:
    return [row.name for row in rows]
