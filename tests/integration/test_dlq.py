"""Dead letters through the command, on the real log and database: dry-run first, sent again as they were, closed once."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from core.clock import utc_now
from core.config import Settings
from core.errors import Poison
from core.events import topics
from core.events.envelope import decode
from core.messaging.dlq import DeadLetter, bury
from core.messaging.dlq_depth import dlq_depth
from core.messaging.records import Record
from core.storage.db import config_engine
from core.storage.dlq_actions import ACTIONS
from core.trading.types import Broker
from tests.integration.messaging import producing, read_back
from tests.integration.test_portfolio_cli import run
from tests.order_events import make_raw_event, make_signal

pytestmark = [pytest.mark.stack]

PAPER = Broker.PAPER
REAL = next(broker for broker in Broker if broker is not Broker.PAPER)


@pytest.fixture
def mark() -> str:
    return f"t{uuid4().hex[:10]}"


async def die(settings: Settings, broker: Broker, mark: str, **changes: Any) -> Record:
    """A raw signal that died, its reason marked so that other tests' letters are told apart."""
    signal = make_signal(broker, strategy_id=mark, name=mark, **changes)
    event = make_raw_event(broker, signal)
    record = Record(
        topics.signals_raw(broker), 0, 41, event.key.encode(), event.encode(), dict(event.headers()), 1_700_000_000_000
    )
    async with producing(settings) as producer:
        await bury(producer, DeadLetter(record, Poison(f"broken by {mark}"), "handle", 3), "alpha-panda.test")
    return record


async def depth(settings: Settings, broker: Broker) -> int:
    engine = config_engine(settings, pool_size=1)
    try:
        return (await dlq_depth(settings, engine))[topics.dlq(topics.signals_raw(broker))]
    finally:
        await engine.dispose()


async def listed(mark: str, *more: str) -> list[dict[str, Any]]:
    ran = await run("dlq", "list", "--reason", mark, "--json", *more)
    assert ran.exit_code == 0, ran.stderr
    return list(json.loads(ran.stdout))


async def on_topic(settings: Settings, topic: str, value: bytes) -> list[Record]:
    return await read_back(settings, topic, lambda record: record.value == value)


async def actions(settings: Settings, event_id: str) -> list[tuple[str, str, str]]:
    engine = config_engine(settings, pool_size=1)
    try:
        async with engine.connect() as connection:
            query = select(ACTIONS).where(ACTIONS.c.event_id == event_id).order_by(ACTIONS.c.at)
            rows = (await connection.execute(query)).mappings().all()
    finally:
        await engine.dispose()
    return [(row["action"], row["done_by"], row["note"]) for row in rows]


async def test_a_replay_is_dry_first_then_the_same_bytes_once_and_on_record(
    stack: Settings, settings: Settings, mark: str
) -> None:
    record = await die(settings, PAPER, mark)
    open_before = await depth(settings, PAPER)
    (row,) = await listed(mark)
    assert (row["state"], row["topic"], row["stage"]) == ("OPEN", record.topic, "handle")
    shown = await run("dlq", "show", row["letter"])
    assert f"broken by {mark}" in shown.stdout

    dry = await run("dlq", "replay", row["letter"])
    assert "would be replayed" in dry.stdout
    assert "--yes" in dry.stdout
    assert await on_topic(settings, record.topic, record.value) == []

    done = await run("dlq", "replay", row["letter"], "--yes", "--by", "ann", "--note", "mended")
    assert done.exit_code == 0, done.stderr
    (again,) = await on_topic(settings, record.topic, record.value)
    assert (again.key, again.headers) == (record.key, record.headers)
    assert await listed(mark) == []
    assert [each["state"] for each in await listed(mark, "--closed")] == ["REPLAYED"]
    assert await depth(settings, PAPER) == open_before - 1
    assert await actions(settings, record.headers["id"].decode()) == [
        ("REPLAYING", "ann", "mended"),
        ("REPLAYED", "ann", "mended"),
    ]

    twice = await run("dlq", "replay", row["letter"], "--yes")
    assert twice.exit_code == 1
    assert "REPLAYED by ann already" in twice.stderr
    assert len(await on_topic(settings, record.topic, record.value)) == 1


async def test_a_drop_closes_without_sending(stack: Settings, settings: Settings, mark: str) -> None:
    record = await die(settings, PAPER, mark)
    open_before = await depth(settings, PAPER)
    assert "would be dropped" in (await run("dlq", "drop", "--reason", mark)).stdout
    assert len(await listed(mark)) == 1
    assert (await run("dlq", "drop", "--reason", mark, "--yes", "--by", "ann")).exit_code == 0
    assert await listed(mark) == []
    assert await depth(settings, PAPER) == open_before - 1
    assert await on_topic(settings, record.topic, record.value) == []


async def test_real_moneys_signals_need_force_and_youth(stack: Settings, settings: Settings, mark: str) -> None:
    young = await die(settings, REAL, mark, origin_at=utc_now(), age_limit_s=600)
    old = await die(settings, REAL, f"{mark}old")
    unforced = await run("dlq", "replay", "--reason", f"{mark}", "--yes", "--json")
    assert unforced.exit_code == 1
    assert all(row["outcome"].startswith("refused") for row in json.loads(unforced.stdout))
    forced = await run("dlq", "replay", "--reason", f"{mark}", "--yes", "--force", "--json")
    assert forced.exit_code == 1
    outcomes = {row["event_id"]: row["outcome"] for row in json.loads(forced.stdout)}
    assert outcomes[young.headers["id"].decode()] == "replayed"
    assert "never replayed for real money" in outcomes[old.headers["id"].decode()]
    assert len(await on_topic(settings, young.topic, young.value)) == 1
    assert await on_topic(settings, old.topic, old.value) == []
    assert decode(young.value).broker is REAL
    assert [row["state"] for row in await listed(f"{mark}old")] == ["OPEN"]


async def test_nothing_said_nothing_done(stack: Settings, settings: Settings) -> None:
    ran = await run("dlq", "drop", "--yes")
    assert ran.exit_code == 1
    assert "Say which letters" in ran.stderr
