"""Each broker's order workers can touch what is theirs alone: proven against the real log and the real database."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError

from core import routing
from core.config import Settings
from core.events import topics
from core.messaging.security import client_options
from core.storage.roles import connect_admin
from core.trading.types import Broker

pytestmark = pytest.mark.stack

PAIRS = list(permutations(Broker, 2))


async def _produce(settings: Settings, broker: Broker | None, topic: str) -> None:
    producer = AIOKafkaProducer(**client_options(settings, broker), acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"{}", key=b"rights")
    finally:
        await producer.stop()


async def _connect(settings: Settings, broker: Broker | None) -> asyncpg.Connection:
    user, password = routing.postgres_credentials(settings, broker)
    return await asyncpg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=user,
        password=password,
        database=settings.postgres_database,
    )


@pytest.mark.parametrize("broker", list(Broker))
async def test_a_brokers_user_writes_its_own_topics(settings: Settings, broker: Broker) -> None:
    await _produce(settings, broker, topics.dlq(topics.signals_raw(broker)))


@pytest.mark.parametrize(("broker", "other"), PAIRS)
async def test_a_brokers_user_is_refused_on_the_other_brokers_topics(
    settings: Settings, broker: Broker, other: Broker
) -> None:
    for topic in (topics.signals_raw(other), topics.orders_event(other, "filled"), topics.pnl_snapshots(other)):
        with pytest.raises(TopicAuthorizationFailedError):
            await _produce(settings, broker, topic)


@pytest.mark.parametrize(("broker", "other"), PAIRS)
async def test_a_brokers_user_cannot_read_the_other_brokers_topics(
    settings: Settings, broker: Broker, other: Broker
) -> None:
    topic = topics.orders_event(other, "filled")
    consumer = AIOKafkaConsumer(topic, group_id="alpha-panda.rights", **client_options(settings, broker))

    async def read() -> None:
        async with asyncio.timeout(30):
            await consumer.start()
            await consumer.getone()

    try:
        with pytest.raises(TopicAuthorizationFailedError):
            await read()
    finally:
        await consumer.stop()


@pytest.mark.parametrize("broker", list(Broker))
async def test_no_brokers_user_can_write_ticks(settings: Settings, broker: Broker) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await _produce(settings, broker, topics.MARKET_TICKS)


@pytest.mark.parametrize(("broker", "other"), PAIRS)
async def test_a_brokers_role_is_refused_on_the_other_brokers_schema(
    settings: Settings, broker: Broker, other: Broker
) -> None:
    connection = await _connect(settings, broker)
    try:
        await connection.fetch(f'SELECT * FROM "{routing.schema(broker)}".orders LIMIT 1')
        for statement in (
            f'SELECT * FROM "{routing.schema(other)}".orders LIMIT 1',
            f'DELETE FROM "{routing.schema(other)}".orders',
            f'CREATE TABLE "{routing.schema(other)}".mine (id int)',
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_shared_services_read_journals_and_write_only_their_views(settings: Settings) -> None:
    connection = await _connect(settings, None)
    try:
        for broker in Broker:
            schema = routing.schema(broker)
            await connection.fetch(f'SELECT * FROM "{schema}".orders LIMIT 1')
            await connection.execute(f'DELETE FROM "{schema}".view_orders WHERE false')
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f'DELETE FROM "{schema}".orders WHERE false')
    finally:
        await connection.close()


async def test_a_role_with_a_wrong_password_stays_out(settings: Settings) -> None:
    user, _ = routing.postgres_credentials(settings, None)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=settings.postgres_host, port=settings.postgres_port, user=user, password="wrong", database="postgres"
        )


async def test_the_namespace_keeps_a_month_and_knows_our_search_attributes(settings: Settings) -> None:
    from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

    from core import temporal_provision
    from core.temporal import connect

    client = await connect(settings)
    found = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=settings.temporal_namespace)
    )
    assert found.config.workflow_execution_retention_ttl.seconds == 30 * 86_400
    there = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=settings.temporal_namespace)
    )
    assert set(temporal_provision.SEARCH_ATTRIBUTES) <= set(there.custom_attributes)


async def test_every_topic_has_the_partitions_and_retention_it_is_named_with(settings: Settings) -> None:
    from core.messaging.provision import admin_client

    admin: Any = admin_client(settings)
    there = admin.list_topics(timeout=10).topics
    for row in topics.all_topics(settings.kafka_partitions):
        assert len(there[row.name].partitions) == row.partitions


async def test_provisioning_again_changes_nothing(settings: Settings) -> None:
    from cli.provision import provision

    said: list[str] = []
    connection = await connect_admin(settings)
    try:
        count = "SELECT count(*) FROM information_schema.tables"
        before = await connection.fetchval(count)
        await provision(settings, said.append)
        assert await connection.fetchval(count) == before
    finally:
        await connection.close()
    assert "topics there" in said
