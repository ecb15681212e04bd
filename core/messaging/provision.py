"""Creates what the log needs before any service starts: topics, one SCRAM user per broker and one shared, their ACLs.

Idempotent. Never deletes a topic, never changes a topic's partitions (keys would move), never gives a broker's user
rights on another broker's topics.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from core import routing
from core.config import Settings
from core.errors import StopTheStart
from core.events import topics
from core.trading.types import Broker

ADMIN = "admin"
"""The log's superuser: made with the storage (native) or by the broker's first start (Redpanda)."""

GROUP_PREFIX = "alpha-panda."
TIMEOUT_S = 30.0

TOPICS_AT_ONCE = 8
"""Small requests: one that keeps a single-node controller busy for seconds makes it miss its own heartbeats."""

READ = ("READ", "DESCRIBE")
WRITE = ("WRITE", "DESCRIBE")
BOTH = ("READ", "WRITE", "DESCRIBE")


def admin_client(settings: Settings, on_error: Callable[[Any], None] | None = None) -> Any:
    """confluent_kafka's AdminClient as the superuser. `on_error` hears connection and login failures.

    Raises:
        StopTheStart: confluent-kafka is not installed.
    """
    return _client(settings, ADMIN, settings.kafka_admin_password.get_secret_value(), on_error)


def _client(settings: Settings, user: str, password: str, on_error: Callable[[Any], None] | None = None) -> Any:
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": user,
        "sasl.password": password,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 250,
        "log_level": 0,
        "error_cb": on_error or (lambda error: None),
    }
    return _library().AdminClient(config)


def _library() -> Any:
    """confluent_kafka.admin: loaded only where we provision, and untyped for us (it does not declare its exports)."""
    try:
        return importlib.import_module("confluent_kafka.admin")
    except ImportError as error:
        raise StopTheStart("Provisioning needs the package confluent-kafka: run `make setup`.") from error


def provision(settings: Settings) -> list[str]:
    """Make topics, users and rights what they should be. Returns the names of the topics created now.

    Raises:
        StopTheStart: the log refuses; the message says which part and why.
    """
    admin = admin_client(settings)
    created = _create_topics(admin, settings)
    _set_acls(admin, settings)
    _set_users(admin, settings)
    _wait_for_logins(settings)
    return created


def _settle(what: str, futures: Iterable[tuple[object, Future[Any]]], tolerate: str = "") -> None:
    from confluent_kafka import KafkaException

    for name, future in futures:
        try:
            future.result(timeout=TIMEOUT_S)
        except KafkaException as error:
            if tolerate and error.args[0].name() == tolerate:
                continue
            raise StopTheStart(f"Kafka refused {what} {name}: {error.args[0].str()}") from error


def _create_topics(admin: Any, settings: Settings) -> list[str]:
    lib = _library()
    wanted = topics.all_topics(settings.kafka_partitions)
    there = admin.list_topics(timeout=TIMEOUT_S).topics
    missing = [row for row in wanted if row.name not in there]
    if missing:
        rows = [
            lib.NewTopic(row.name, num_partitions=row.partitions, replication_factor=1, config=row.config)
            for row in missing
        ]
        for first in range(0, len(rows), TOPICS_AT_ONCE):
            made = admin.create_topics(rows[first : first + TOPICS_AT_ONCE], operation_timeout=TIMEOUT_S)
            _settle("topic", made.items(), tolerate="TOPIC_ALREADY_EXISTS")
    _set_topic_configs(admin, [row for row in wanted if row.name in there])
    return [row.name for row in missing]


def _set_topic_configs(admin: Any, rows: list[topics.TopicSpec]) -> None:
    """Bring retention of topics made by an earlier version to what it is now."""
    if not rows:
        return
    lib = _library()
    present = admin.describe_configs([lib.ConfigResource(lib.ResourceType.TOPIC, row.name) for row in rows])
    values = {resource.name: future.result(timeout=TIMEOUT_S) for resource, future in present.items()}
    changes = []
    for row in rows:
        entries = [
            lib.ConfigEntry(key, value, incremental_operation=lib.AlterConfigOpType.SET)
            for key, value in row.config.items()
            if values[row.name][key].value != value
        ]
        if entries:
            changes.append(lib.ConfigResource(lib.ResourceType.TOPIC, row.name, incremental_configs=entries))
    if changes:
        _settle("configuration of", admin.incremental_alter_configs(changes).items())


def _set_users(admin: Any, settings: Settings) -> None:
    """Every user gets the password in .env, so that a new one there takes effect."""
    lib = _library()
    users = [routing.kafka_credentials(settings, broker) for broker in (None, *Broker)]
    info = lib.ScramCredentialInfo(lib.ScramMechanism.SCRAM_SHA_256, 4096)
    upserts = [lib.UserScramCredentialUpsertion(name, info, password.encode()) for name, password in users]
    _settle("user", admin.alter_user_scram_credentials(upserts).items())


def _wait_for_logins(settings: Settings) -> None:
    """The broker answers before it acts on new users and rights. It takes them in order, users last: wait for their login.

    Raises:
        StopTheStart: a user cannot log in after 30 s.
    """
    from confluent_kafka import KafkaException

    end = time.monotonic() + TIMEOUT_S
    for broker in (None, *Broker):
        user, password = routing.kafka_credentials(settings, broker)
        client = _client(settings, user, password)
        while True:
            try:
                client.list_topics(topics.ALERTS, timeout=1)
                break
            except KafkaException as error:
                if time.monotonic() > end:
                    raise StopTheStart(f"Kafka does not let user {user} in: {error.args[0].str()}") from error


def rights(broker: Broker | None) -> list[tuple[str, bool, tuple[str, ...]]]:
    """(topic or prefix, is a prefix, operations) a user has: a broker's order workers', or the shared services'."""
    ticks_dlq = topics.dlq(topics.MARKET_TICKS)
    if broker is None:
        names = [
            topics.MARKET_TICKS,
            topics.CONFIG_CHANGES,
            topics.ALERTS,
            topics.dlq(topics.ALERTS),
            ticks_dlq,
            topics.dlq(topics.CONFIG_CHANGES),
        ]
        return [*((name, False, BOTH) for name in names), *((topics.prefix(each), True, BOTH) for each in Broker)]
    return [
        (topics.prefix(broker), True, BOTH),
        (topics.MARKET_TICKS, False, READ),
        (topics.CONFIG_CHANGES, False, READ),
        (ticks_dlq, False, WRITE),
        (topics.ALERTS, False, WRITE),
    ]


def _set_acls(admin: Any, settings: Settings) -> None:
    lib = _library()

    def binding(kind: Any, name: str, prefixed: bool, user: str, operation: str) -> Any:
        pattern = lib.ResourcePatternType.PREFIXED if prefixed else lib.ResourcePatternType.LITERAL
        allowed = lib.AclPermissionType.ALLOW
        return lib.AclBinding(kind, name, pattern, f"User:{user}", "*", lib.AclOperation[operation], allowed)

    bindings = []
    for broker in (None, *Broker):
        user, _ = routing.kafka_credentials(settings, broker)
        for name, prefixed, operations in rights(broker):
            bindings += [binding(lib.ResourceType.TOPIC, name, prefixed, user, operation) for operation in operations]
        bindings += [binding(lib.ResourceType.GROUP, GROUP_PREFIX, True, user, operation) for operation in READ]
    _settle("access rule", admin.create_acls(bindings).items())
