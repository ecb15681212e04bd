"""What the journal has stored of the log, what the log has, and the same once more: the same bytes under the same ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from core.events import topics
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.trading.types import Broker
from tests.fixtures.system import System

Event = tuple[str, str, bytes, bytes, tuple[tuple[str, bytes], ...]]
"""Id, topic, key, bytes, headers."""


def stored(system: System) -> list[Event]:
    """Decisions and order events of every broker, as its journal has them."""
    found = []
    for broker in Broker:
        for table, prefix in (("risk_decisions", "event_"), ("outgoing_events", "")):
            columns = ", ".join(f"{prefix}{name} AS {name}" for name in ("topic", "key", "value", "headers"))
            for row in system.sql(f"SELECT {columns} FROM {broker}.{table}"):
                headers = tuple(sorted((name, value.encode()) for name, value in row["headers"]))
                event_id = dict(headers)["id"].decode()
                found.append((event_id, row["topic"], row["key"].encode(), bytes(row["value"]), headers))
    return sorted(found)


def on_log(system: System) -> list[Event]:
    """The same from the log, each as often as it is there."""
    names = [topics.signals_validated(broker) for broker in Broker] + [
        topics.signals_rejected(broker) for broker in Broker
    ]
    names += [name for broker in Broker for name in topics.order_topics(broker)]

    async def read() -> list[Event]:
        reader = LogReader(system.settings, client_id="test", topics=names)
        await reader.start("earliest")
        found: list[Event] = []
        try:
            wanted = sum((await reader.end_offsets()).values())
            while len(found) < wanted:
                for record in await reader.read(1.0):
                    headers = tuple(sorted(record.headers.items()))
                    found.append((record.headers["id"].decode(), record.topic, record.key, record.value, headers))
        finally:
            await reader.stop()
        return sorted(found)

    return asyncio.run(asyncio.wait_for(read(), 60))


def publish_stored(system: System, names: Sequence[str]) -> int:
    """Every decision of these topics; how many there were."""
    rows = [
        row
        for name in names
        for row in system.sql(
            f"SELECT * FROM {topics.broker_of(name)}.risk_decisions WHERE event_topic = :topic ORDER BY decided_at",
            topic=name,
        )
    ]

    async def send() -> None:
        producer = EventProducer(system.settings, client_id="test")
        await producer.start()
        try:
            for row in rows:
                headers = [(name, value.encode()) for name, value in row["event_headers"]]
                key, value = row["event_key"].encode(), bytes(row["event_value"])
                await producer.send_raw(row["event_topic"], key=key, value=value, headers=headers)
        finally:
            await producer.stop()

    asyncio.run(send())
    return len(rows)
