"""The consumer runner on a real log: poison, faults, rebalances, kill -9. Nothing is lost, nobody waits for another's fault."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from core.config import PROJECT_ROOT, Settings
from core.errors import Poison, StopTheStart, Transient
from core.events import topics
from core.events.envelope import decode
from core.messaging.consumer import ConsumerRunner, group_of
from core.messaging.dlq_depth import dlq_depth
from core.messaging.lag import lag_by_group
from core.messaging.records import Record
from core.storage.db import config_engine
from core.trading.types import Broker
from tests.integration.messaging import fresh, number_of, producing, publish, read_back, running, until

pytestmark = pytest.mark.stack

RAW = topics.signals_raw(Broker.PAPER)
OTHER = topics.signals_raw(Broker.ZERODHA)


async def test_poison_goes_to_the_dlq_with_its_reason_and_the_partition_goes_on(
    settings: Settings, tmp_path: Path
) -> None:
    run, service = fresh("poison"), fresh("test")
    handled: list[bytes] = []

    async def handler(record: Record) -> None:
        if record.headers.get("run") == run.encode():
            if record.value != b"{}":
                decode(record.value)
            handled.append(record.value)

    async with producing(settings) as producer, running(settings, tmp_path, service, [RAW], handler, producer):
        engine = config_engine(settings, pool_size=1)
        before = await dlq_depth(settings, engine)
        sent = {"id": b"1", "run": run.encode(), "traceparent": b"00-x"}
        for value in (b"\xff{not json", b'{"type":"no.such"}', b"{}"):
            await producer.send_raw(RAW, key=b"one key", value=value, headers=[*sent.items(), ("value", value)])
        await until(lambda: handled == [b"{}"], why="the record after the poison")
        letters = await read_back(settings, topics.dlq(RAW), lambda each: each.headers.get("run") == run.encode())
        after = await dlq_depth(settings, engine)
        await engine.dispose()

    originals = {
        each.value: each for each in await read_back(settings, RAW, lambda r: r.headers.get("run") == run.encode())
    }
    assert [letter.value for letter in letters] == [b"\xff{not json", b'{"type":"no.such"}']
    assert after[topics.dlq(RAW)] - before[topics.dlq(RAW)] >= 2
    for letter in letters:
        assert letter.key == b"one key"
        original = originals[letter.value]
        rest = dict(letter.headers)
        assert rest.pop("dlq-failed-at")
        assert b"JSON" in rest["dlq-error-message"] or b"unknown event type" in rest["dlq-error-message"]
        del rest["dlq-error-message"]
        assert rest == {
            **original.headers,
            "dlq-original-topic": RAW.encode(),
            "dlq-original-partition": str(original.partition).encode(),
            "dlq-original-offset": str(original.offset).encode(),
            "dlq-original-timestamp": str(original.timestamp_ms).encode(),
            "dlq-consumer-group": group_of(service).encode(),
            "dlq-error-type": b"Poison",
            "dlq-stage": b"decode",
            "dlq-attempts": b"1",
        }


async def test_a_transient_fault_holds_its_own_partition_alone_and_loses_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    run, service = fresh("transient"), fresh("test")
    away = True
    seen: dict[tuple[str, int], list[int]] = defaultdict(list)

    async def handler(record: Record) -> None:
        number = number_of(record, run)
        if number is None:
            return
        if away and record.topic == RAW:
            raise Transient("PostgreSQL is away while testing")
        seen[record.topic, record.partition].append(number)

    def count(topic: str) -> int:
        return sum(len(numbers) for (name, _), numbers in seen.items() if name == topic)

    async with (
        producing(settings) as producer,
        running(settings, tmp_path, service, [RAW, OTHER], handler, producer) as (
            _,
            health,
        ),
    ):
        await publish(producer, RAW, run, range(3000))
        await publish(producer, OTHER, run, range(3000))
        await until(lambda: count(OTHER) == 3000, bound_s=20, why="the other broker's topic must not wait")
        assert count(RAW) == 0
        assert health._parts["postgres"] == "PostgreSQL is away while testing"
        away = False
        await until(lambda: count(RAW) == 3000, bound_s=20, why="everything held is handled")
        await until(lambda: health.ready)

    for numbers in seen.values():
        by_key = defaultdict(list)
        for number in numbers:
            by_key[number % 16].append(number)
        assert all(each == sorted(each) for each in by_key.values()), "order within a key"
    assert all(sum(numbers.count(n) for numbers in seen.values()) == 2 for n in range(0, 3000, 97)), "once per topic"
    rows = [row for row in await lag_by_group(settings) if row.group == group_of(service)]
    assert rows
    assert [row.lag for row in rows] == [0] * len(rows), "a clean stop commits all that was handled"


async def test_a_rebalance_between_two_runners_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    run, service = fresh("rebalance"), fresh("test")
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def handler_of(name: str):  # type: ignore[no-untyped-def]
        async def handler(record: Record) -> None:
            number = number_of(record, run)
            if number is not None:
                await asyncio.sleep(0.001)
                seen[name].append(number)

        return handler

    async with producing(settings) as producer:
        total = 6000
        flow = asyncio.create_task(_flow(producer, run, total))
        async with running(settings, tmp_path, service, [RAW], handler_of("a"), producer):
            await until(lambda: len(seen["a"]) > 200)
            async with running(settings, tmp_path, service, [RAW], handler_of("b"), producer):
                await until(lambda: len(seen["b"]) > 200, why="the second runner gets its share")
            await flow
            await until(lambda: set(seen["a"]) | set(seen["b"]) >= set(range(500, total)), why="all are handled")
    handled = set(seen["a"]) | set(seen["b"])
    first = min(handled)
    assert handled == set(range(first, total)), "a fresh group begins at its end; after that, none is missing"


async def _flow(producer, run: str, total: int) -> None:  # type: ignore[no-untyped-def]
    for start in range(0, total, 50):
        await publish(producer, RAW, run, range(start, start + 50))
        await asyncio.sleep(0.05)


CHILD = """
import asyncio, os, sys
from pathlib import Path
from core.config import Settings
from core.health import HealthReporter
from core.messaging.consumer import ConsumerRunner
from core.messaging.producer import EventProducer

async def main():
    settings = Settings.model_validate_json(sys.stdin.readline())
    service, topic, run, path = sys.argv[1:]
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async def handler(record):
        if record.headers.get("run") == run.encode():
            await asyncio.sleep(0.001)
            os.write(out, record.headers["number"] + b"\\n")
    producer = EventProducer(settings, client_id="child")
    await producer.start()
    runner = ConsumerRunner(settings, HealthReporter(service, Path(path).parent), service=service, topics=[topic],
                            handler=handler, producer=producer, from_latest=True)
    async def say():
        await runner.ready.wait()
        print("ready", flush=True)
    saying = asyncio.create_task(say())
    await runner.run(asyncio.Event())
asyncio.run(main())
"""


async def test_kill_minus_nine_of_a_consumer_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    run, service, path = fresh("kill"), fresh("test"), tmp_path / "handled"

    def handled() -> list[int]:
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async def child() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, service, RAW, run, str(path),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=PROJECT_ROOT,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_plain(settings).encode() + b"\n")
        await process.stdin.drain()
        async with asyncio.timeout(30):
            while (await process.stdout.readline()).strip() != b"ready":
                assert process.returncode is None
        return process

    process = await child()
    try:
        async with producing(settings) as producer:
            for round_ in range(3):
                numbers = range(round_ * 2000, (round_ + 1) * 2000)
                await publish(producer, RAW, run, numbers)
                await until(lambda at=numbers[300]: len(set(handled())) > at, why="under way")  # type: ignore[misc]
                process.send_signal(signal.SIGKILL)
                await process.wait()
                assert len(set(handled())) < numbers[-1] + 1, "killed in the middle"
                process = await child()
                await until(lambda upto=numbers[-1] + 1: len(set(handled())) == upto, why="all handled")  # type: ignore[misc]
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    again = len(handled()) - len(set(handled()))
    print(f"handled 6000, of which twice after three kills: {again}")  # noqa: T201


def _plain(settings: Settings) -> str:
    """Settings with their passwords, for a child's standard input (never its command line)."""
    import json

    from pydantic import SecretStr

    fields = {name: getattr(settings, name) for name in Settings.model_fields}
    return json.dumps(
        {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in fields.items()},
        default=str,
    )


async def test_a_missing_topic_and_a_wrong_password_stop_the_start_by_name(settings: Settings, tmp_path: Path) -> None:
    from pydantic import SecretStr

    from core.health import HealthReporter
    from core.messaging.producer import EventProducer

    async def handler(record: Record) -> None:
        raise Poison("never called")

    async def start(chosen: Settings, topic: str) -> str:
        producer = EventProducer(chosen, client_id="test")
        runner = ConsumerRunner(
            chosen, HealthReporter("t", tmp_path), service="test", topics=[topic], handler=handler, producer=producer
        )
        with pytest.raises(StopTheStart) as caught:
            await runner.run(asyncio.Event())
        return str(caught.value)

    assert "no topic no.such.topic, no.such.topic.dlq" in await start(settings, "no.such.topic")
    wrong = settings.model_copy(update={"kafka_app_password": SecretStr("not the password")})
    message = await start(wrong, RAW)
    assert "KAFKA_APP_PASSWORD" in message
    assert "not the password" not in message
