"""How many ticks a second go from a WebSocket frame to an acknowledged record of `market.ticks`. Prints; asserts no time."""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.brokers.kite_wire import FULL, packets
from core.brokers.zerodha_session import Session
from core.config import Settings
from core.health import HealthReporter
from core.messaging.producer import EventProducer
from core.waiting import Waiting
from streams.feed_outbox import Outbox
from streams.feed_socket import KiteSocket, SocketEvents
from tests.integration.sandbox_support import free_port

pytestmark = [pytest.mark.stack, pytest.mark.bench]

TICKS = 50_000
PER_FRAME = 50
INSTRUMENTS = 1_000


def frames() -> list[bytes]:
    """TICKS full packets, all different, of INSTRUMENTS shares."""
    now = int(time.time())
    bodies = [
        FULL.pack((1_000 + n % INSTRUMENTS) << 8 | 1, 150_000 + n // INSTRUMENTS, *[500] * 13, now, *[1_500] * 30)
        for n in range(TICKS)
    ]
    return [
        struct.pack(">H", PER_FRAME)
        + b"".join(struct.pack(">H", len(body)) + body for body in bodies[at : at + PER_FRAME])
        for at in range(0, TICKS, PER_FRAME)
    ]


async def push(port: int) -> None:
    """The other process: sends every frame to the first client, then heartbeats."""
    from websockets.asyncio.server import ServerConnection, serve

    ready = frames()

    async def client(socket: ServerConnection) -> None:
        await socket.recv()
        for frame in ready:
            await socket.send(frame)
        while True:
            await socket.send(b"\x00")
            await asyncio.sleep(1)

    async with serve(client, "127.0.0.1", port, compression=None):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


async def test_ticks_per_second_from_frame_to_topic(settings: Settings, stack: Settings, tmp_path: Path) -> None:
    port = free_port()
    code = f"import asyncio; from tests.performance.test_bench_feed import push; asyncio.run(push({port}))"
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
    )
    producer = EventProducer(settings, client_id="bench-feed")
    try:
        assert server.stdout is not None
        await asyncio.wait_for(server.stdout.readline(), 60)
        await producer.start()
        outbox = Outbox(producer, Waiting(HealthReporter("bench", tmp_path)), capacity=TICKS)
        client = KiteSocket(settings.model_copy(update={"sandbox_port": port}), _events(outbox))
        client.want([256_257])
        began, cpu = time.perf_counter(), time.process_time()
        jobs = [asyncio.create_task(client.run()), asyncio.create_task(outbox.run())]
        async with asyncio.timeout(240):
            while outbox.published < TICKS:  # noqa: ASYNC110 - counted, not announced
                await asyncio.sleep(0.01)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
    finally:
        await producer.stop()
        server.kill()
        await server.wait()
    sys.stdout.write(
        f"\nfeed: {TICKS} ticks from frame to acknowledged record in {seconds:.2f} s = {TICKS / seconds:,.0f} ticks/s "
        f"(the feed's own CPU {cpu:.2f} s; dropped {outbox.dropped}; load {os.getloadavg()[0]:.1f}; aim 5,000)\n"
    )


def _events(outbox: Outbox) -> SocketEvents:
    now = datetime.now(UTC)
    session = Session("AP0001", "benchkey", "benchtoken", now, now + timedelta(hours=1))

    def frame(data: bytes, received_at: datetime) -> None:
        for packet in packets(data):
            outbox.put_tick(int.from_bytes(packet[:4], "big"), packet, received_at)

    async def give() -> Session:
        return session

    async def refused(_: Session) -> None:
        raise AssertionError("the bench server refuses nobody")

    return SocketEvents(
        frame=frame, text=lambda *_: None, gap=lambda *_: None, up=lambda _: None, session=give, refused=refused
    )
