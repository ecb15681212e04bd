"""How a client reaches the log: SCRAM user and password of its role, and a check before the start that says what is wrong.

aiokafka hides why a connection failed; the check finds out. Passwords never appear in a message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    KafkaError,
    SaslAuthenticationFailed,
)

from core.config import Settings
from core.errors import StopTheStart, Transient
from core.messaging.bounded import closed
from core.routing import kafka_credentials
from core.trading.types import Broker
from core.waiting import pauses

PART = "kafka"
"""The log's name in health."""

MECHANISM = "SCRAM-SHA-256"

_REFUSED = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    SaslAuthenticationFailed,
)

CONNECT_S = 5.0

REFUSED_FOR_S = 5.0
"""A log that was provisioned this moment takes its users up a little later: a refusal counts once it lasts this long."""

PATIENCE_S = 20.0
"""A log that does not answer for this long when a service starts stops the start; a short restart of it does not."""


def client_options(settings: Settings, broker: Broker | None = None) -> dict[str, Any]:
    """What every aiokafka client is built with: address and credentials of a broker's user, or of the shared one."""
    user, password = kafka_credentials(settings, broker)
    return {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": MECHANISM,
        "sasl_plain_username": user,
        "sasl_plain_password": password,
    }


async def probe(settings: Settings, broker: Broker | None = None) -> None:
    """Connect and log in once.

    Raises:
        StopTheStart: the log answers and refuses our user.
        Transient: nothing answers.
    """
    user, password = kafka_credentials(settings, broker)
    try:
        async with asyncio.timeout(CONNECT_S):
            connection = await create_conn(
                settings.kafka_host,
                settings.kafka_port,
                request_timeout_ms=int(CONNECT_S * 1000),
                security_protocol="SASL_PLAINTEXT",
                sasl_mechanism=MECHANISM,
                sasl_plain_username=user,
                sasl_plain_password=password,
            )
    except _REFUSED as error:
        raise StopTheStart(
            f"Kafka at {settings.kafka_bootstrap} refuses the user {user!r}: its password in .env "
            f"(KAFKA_{user.upper()}_PASSWORD) is not the one Kafka has. `make up` sets Kafka's users from .env."
        ) from error
    except (OSError, KafkaError, TimeoutError) as error:
        raise Transient(
            f"Kafka at {settings.kafka_bootstrap} does not answer: {type(error).__name__}", part=PART
        ) from error
    connection.close()


async def topics_seen(settings: Settings, broker: Broker | None = None) -> set[str]:
    """Every topic this user may see.

    Raises:
        Transient: the log does not answer.
    """
    consumer = AIOKafkaConsumer(**client_options(settings, broker), request_timeout_ms=int(CONNECT_S * 1000))
    try:
        async with asyncio.timeout(2 * CONNECT_S):
            await consumer.start()
            return set(await consumer.topics())
    except (OSError, KafkaError, TimeoutError) as error:
        raise Transient(
            f"Kafka at {settings.kafka_bootstrap} does not answer: {type(error).__name__}", part=PART
        ) from error
    finally:
        await closed(consumer.stop(), "log-check-close")


async def check_once(settings: Settings, topics: Iterable[str], broker: Broker | None = None) -> None:
    """One look: the log answers, knows our user and has these topics.

    Raises:
        StopTheStart: it refuses our user, or misses a topic.
        Transient: it does not answer.
    """
    await probe(settings, broker)
    missing = set(topics) - await topics_seen(settings, broker)
    if missing:
        user, _ = kafka_credentials(settings, broker)
        raise MissingTopics(
            f"Kafka at {settings.kafka_bootstrap} has no topic {', '.join(sorted(missing))} that user {user!r} may see: "
            "`make up` creates every topic."
        )


class MissingTopics(StopTheStart):
    """The log lacks topics this process reads or writes."""


async def check_log(
    settings: Settings, topics: Iterable[str], *, broker: Broker | None = None, patience_s: float = PATIENCE_S
) -> None:
    """Make sure, before a service starts, that the log answers, knows our user and has these topics.

    Raises:
        StopTheStart: naming the address, the user or the topics, and what to do.
    """
    wanted = set(topics)
    began = time.monotonic()
    for pause in pauses():
        waited = time.monotonic() - began + pause
        try:
            return await check_once(settings, wanted, broker)
        except MissingTopics:
            raise
        except StopTheStart:
            if waited > min(patience_s, REFUSED_FOR_S):
                raise
        except Transient as error:
            if waited > patience_s:
                raise StopTheStart(f"{error} (tried for {patience_s:.0f} s). Start it: `make up`.") from error
        await asyncio.sleep(pause)
