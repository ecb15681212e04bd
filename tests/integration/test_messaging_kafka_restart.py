"""Producer and consumer over a Kafka that is killed, frozen and started again, on a broker of this test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from core.config import Settings
from core.errors import StopTheStart, Transient
from core.events import topics
from core.messaging import security
from core.messaging.producer import EventProducer
from core.messaging.provision import admin_client, provision
from core.messaging.records import Record
from core.trading.types import Broker
from docker.native import kafka
from docker.native.layout import KAFKA_JARS, Layout
from tests.integration.messaging import fresh, number_of, producing, publish, read_back, running, until

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not KAFKA_JARS.is_dir(), reason="needs the native stack's Kafka jars: make setup"),
]

RAW = topics.signals_raw(Broker.PAPER)


class OwnKafka:
    """A broker that this test alone may kill."""

    def __init__(self, settings: Settings, home: Path) -> None:
        ports = {"kafka_port": _free_port(), "kafka_controller_port": _free_port(), "kafka_host": "127.0.0.1"}
        self.settings = settings.model_copy(update=ports)
        self._layout = Layout(home)
        self._layout.make()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = kafka.prepare(self.settings, self._layout)
        with (self._layout.log / "kafka.log").open("ab") as out:
            self._process = subprocess.Popen(program.command, stdout=out, stderr=out)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait(timeout=20)
        if number is signal.SIGSTOP:
            end = time.monotonic() + 20
            while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
                assert time.monotonic() < end, "Kafka does not stop"

    def wait_ready(self, bound_s: float = 240) -> None:
        from confluent_kafka import KafkaException

        end = time.monotonic() + bound_s
        while True:
            try:
                admin_client(self.settings).list_topics(timeout=2)
                return
            except KafkaException:
                if time.monotonic() > end:
                    raise

    def wait_login(self, bound_s: float = 60) -> None:
        """A broker that is busy creating its topics takes new users up a little later."""
        end = time.monotonic() + bound_s
        with ThreadPoolExecutor(1) as apart:  # has an event loop of its own
            while True:
                try:
                    return apart.submit(asyncio.run, security.probe(self.settings)).result()
                except StopTheStart:
                    if time.monotonic() > end:
                        raise

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)
            self._process.kill()
            self._process.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnKafka]:
    broker = OwnKafka(settings, tmp_path_factory.mktemp("kafka-home"))
    broker.start()
    try:
        broker.wait_ready()
        provision(broker.settings)
        broker.wait_login()
        yield broker
    finally:
        broker.close()


async def _send_all(producer: EventProducer, run: str, total: int) -> int:
    """Send one after the other, each until it is acknowledged, as a handler does. Returns how often it had to wait."""
    waited = 0
    for number in range(total):
        headers = [("id", f"{run}/{number}".encode()), ("run", run.encode()), ("number", str(number).encode())]
        while True:
            try:
                await producer.send_raw(RAW, key=f"k{number % 4}".encode(), value=b"{}", headers=headers)
                break
            except Transient:
                waited += 1
    return waited


async def test_producer_and_consumer_go_on_after_kafka_is_killed_and_nothing_is_lost_or_doubled(
    own: OwnKafka, tmp_path: Path
) -> None:
    run, service = fresh("restart"), fresh("test")
    seen: list[int] = []

    async def handler(record: Record) -> None:
        number = number_of(record, run)
        if number is not None:
            seen.append(number)

    total = 800
    async with (
        producing(own.settings) as producer,
        running(own.settings, tmp_path, service, [RAW], handler, producer) as (_, health),
    ):
        sending = asyncio.create_task(_send_all(producer, run, total))
        await until(lambda: len(seen) > 100)
        own.send(signal.SIGKILL)
        await until(
            lambda: "kafka" in health._parts and bool(health._parts["kafka"]), why="health says that Kafka is away"
        )
        assert not sending.done()
        # Long enough for a send to run out of its time, so that its retry must not append it twice.
        await until(lambda: bool(producer._late), why="a send runs out of its time")
        own.start()
        await asyncio.to_thread(own.wait_ready, 240)
        waited = await asyncio.wait_for(sending, 120)
        assert waited > 0, "no send ran out of its time: the test does not test"
        await until(lambda: set(seen) == set(range(total)), why="the consumer goes on by itself")
        await until(lambda: health.ready, why="health is well again")
    found = await read_back(own.settings, RAW, lambda each: number_of(each, run) is not None)
    numbers = [number_of(each, run) for each in found]
    assert sorted(numbers) == list(range(total)), "each acknowledged once on the log"
    print(f"sends that ran out of time: {waited}; handled twice: {len(seen) - len(set(seen))}")  # noqa: T201


async def test_a_frozen_kafka_bounds_the_send_and_is_taken_up_again(own: OwnKafka) -> None:
    run = fresh("frozen")
    async with producing(own.settings) as producer:
        await publish(producer, RAW, run, range(4))
        own.send(signal.SIGSTOP)
        try:
            with pytest.raises(Transient, match=r"did not acknowledge|did not take"):
                await asyncio.wait_for(
                    producer.send_raw(
                        RAW, key=b"k", value=b"{}", headers=[("id", b"late"), ("run", run.encode()), ("number", b"4")]
                    ),
                    60,
                )
        finally:
            own.send(signal.SIGCONT)
        async with asyncio.timeout(60):
            while True:
                try:
                    await producer.send_raw(
                        RAW, key=b"k", value=b"{}", headers=[("id", b"late"), ("run", run.encode()), ("number", b"4")]
                    )
                    break
                except Transient:
                    continue
    found = await read_back(own.settings, RAW, lambda each: number_of(each, run) is not None)
    assert sorted(number_of(each, run) or 0 for each in found) == [0, 1, 2, 3, 4]


async def test_stopping_a_producer_whose_kafka_is_dead_is_bounded(own: OwnKafka) -> None:
    producer = EventProducer(own.settings, client_id="test")
    await producer.start()
    await producer.send_raw(RAW, key=b"k", value=b"{}", headers=[("id", b"x")])
    own.send(signal.SIGKILL)
    sending = asyncio.create_task(producer.send_raw(RAW, key=b"k", value=b"{}", headers=[("id", b"y")]))
    await asyncio.sleep(0)
    began = time.monotonic()
    await producer.stop()
    with pytest.raises(Transient):
        await sending
    assert time.monotonic() - began < 20
    other = EventProducer(own.settings, client_id="test")
    with pytest.raises(Transient, match="does not answer"):
        await other.start()
    await other.stop()
