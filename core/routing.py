"""The one place that maps a broker to its schema, keys, queues, users and ids. Nothing else builds these names.

Topics are in core/events/topics.py. Routing follows these names, never the `broker` field of an envelope.
"""

from __future__ import annotations

from uuid import UUID

from core.config import Settings
from core.trading.types import Broker

CONFIG_SCHEMA = "config"
PEOPLE_SCHEMA = "people"
"""Users, sessions, API keys and the audit table: the shared services' alone, unlike `config`, which brokers' roles read."""

PAPER_EXCHANGE_SCHEMA = "paper_exchange"

JOURNAL = "journal"
"""Placeholder schema in the SQLAlchemy models; translated to the broker's own schema per engine."""


def schema(broker: Broker) -> str:
    """PostgreSQL schema of a broker's journal."""
    return broker.value


def redis_prefix(broker: Broker) -> str:
    return f"{broker.value}:"


def orders_queue(broker: Broker) -> str:
    """Temporal queue of a broker's order workflows and journal activities."""
    return f"orders-{broker.value}"


def broker_queue(broker: Broker) -> str:
    """Temporal queue of entries."""
    return f"broker-{broker.value}"


def urgent_queue(broker: Broker) -> str:
    """Temporal queue of exits, cancels and look-ups."""
    return f"broker-{broker.value}-urgent"


def order_workflow_id(broker: Broker, order_id: UUID) -> str:
    return f"{broker.value}-order-{order_id}"


def reconcile_workflow_id(broker: Broker) -> str:
    """The one long-lived workflow that compares a broker's account with its journal."""
    return f"{broker.value}-reconcile"


def kill_workflow_id(broker: Broker, kill_id: UUID) -> str:
    return f"{broker.value}-kill-{kill_id}"


def broker_lease(broker: Broker) -> str:
    """Name of the lease of the one process that talks to this broker's account."""
    return f"broker-{broker.value}"


FEED_LEASE = "market-feed"


def postgres_credentials(settings: Settings, broker: Broker | None) -> tuple[str, str]:
    """PostgreSQL role and password: a broker's own, or the shared services' when `broker` is None."""
    if broker is None:
        return "app", settings.postgres_app_password.get_secret_value()
    return broker.value, {
        Broker.PAPER: settings.postgres_paper_password,
        Broker.ZERODHA: settings.postgres_zerodha_password,
    }[broker].get_secret_value()


def kafka_credentials(settings: Settings, broker: Broker | None) -> tuple[str, str]:
    """Kafka SCRAM user and password: a broker's order workers', or the shared services' when `broker` is None."""
    if broker is None:
        return "app", settings.kafka_app_password.get_secret_value()
    return broker.value, {
        Broker.PAPER: settings.kafka_paper_password,
        Broker.ZERODHA: settings.kafka_zerodha_password,
    }[broker].get_secret_value()


def account(settings: Settings, broker: Broker) -> str:
    """The account orders of this broker are booked in: Zerodha's user id, or the paper account."""
    return settings.kite_user_id if broker is Broker.ZERODHA else "PAPER"


def target(settings: Settings, broker: Broker) -> str:
    """Where this broker's orders end up, as an opt-in names it: `paper`, `local`, `zerodha-sandbox`, `production`."""
    return settings.kite_target.value if broker is Broker.ZERODHA else broker.value
