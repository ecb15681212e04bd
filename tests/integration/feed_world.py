"""What tests of market-feed and login use: the sandbox under the stack's own settings, a feed process, a cuttable wire, the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import structlog

from core.config import Settings
from core.events.envelope import Envelope, decode
from core.health import HealthReporter
from core.messaging.reader import LogReader
from core.service import ServiceContext
from core.storage.db import config_engine
from core.storage.models import StrategyRow, table_of
from core.storage.strategies import StrategyConfig, save_strategy
from streams import market_feed
from tests.integration.sandbox_support import SandboxProcess, free_port

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 20.0
INFY, NIFTY = 408065, 256265
WIPRO, TITAN, LT = 969473, 897537, 2939649
"""Instruments no demo strategy trades."""

_RUN = "from core.service import prepare, run; prepare('market-feed'); from streams.market_feed import main; run('market-feed', main)"


async def until(condition: Callable[[], Any], what: str, seconds: float = WAIT_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        await asyncio.sleep(0.02)


def start_sandbox(settings: Settings, folder: Path, *flags: str, port: int | None = None) -> SandboxProcess:
    """The sandbox with the deployment's own key, secret and user, on its port unless told another."""
    return SandboxProcess(
        folder,
        f"--api-key={settings.kite_api_key}",
        f"--api-secret={settings.kite_api_secret.get_secret_value()}",
        "--user-id", settings.kite_user_id,
        *flags,
        port=port or settings.sandbox_port,
    )  # fmt: skip


def context(settings: Settings, name: str = "market-feed") -> ServiceContext:
    return ServiceContext(
        name=name,
        settings=settings,
        health=HealthReporter(name, settings.run_dir),
        stop=asyncio.Event(),
        log=structlog.stdlib.get_logger(name),
    )


@contextlib.asynccontextmanager
async def feeding(settings: Settings) -> AsyncIterator[ServiceContext]:
    """A feed inside this process, its socket up. Fails the test when it ended by itself with an error."""
    ctx = context(settings)
    task = asyncio.create_task(market_feed.main(ctx))
    try:
        await until(lambda: task.done() or ("kite" in _parts(ctx) and ctx.health.ready), "the feed to be ready")
        if task.done():
            task.result()
        yield ctx
    finally:
        ctx.stop.set()
        await asyncio.wait_for(task, 10)


def _parts(ctx: ServiceContext) -> dict[str, str]:
    return ctx.health._parts


class FeedProcess:
    """A feed as the process it is in real life."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, "-c", _RUN], cwd=ROOT, stdout=out, stderr=out)

    def said(self, event: str) -> bool:
        """True once it logged this event."""
        return any(row.get("event") == event for row in self.rows())

    def rows(self) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(12)

    def __enter__(self) -> FeedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


class Watch:
    """Collects what reaches topics from now on."""

    def __init__(self, settings: Settings, *topics: str) -> None:
        self._reader = LogReader(settings, client_id="test-watch", topics=topics)
        self.events: list[Envelope] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watch:
        await self._reader.start("latest")
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._reader.stop()

    async def _run(self) -> None:
        while True:
            for record in await self._reader.read(0.1):
                event = decode(record.value)
                assert record.key == event.key.encode()
                self.events.append(event)

    def of(self, kind: str, token: int | None = None) -> list[Envelope]:
        return [
            event
            for event in self.events
            if event.type == kind and (token is None or getattr(event.data, "instrument_token", None) == token)
        ]


class Wire:
    """A TCP relay to the sandbox that can fall silent: connections stay open and say nothing."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target = target_port
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def mute(self) -> None:
        self._flows.clear()

    def unmute(self) -> None:
        self._flows.set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        pumps = [
            asyncio.ensure_future(self._pump(reader, there_writer)),
            asyncio.ensure_future(self._pump(there_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            there_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()


async def add_strategy(settings: Settings, strategy_id: str, *instruments: str, active: bool = True) -> StrategyConfig:
    engine = config_engine(settings)
    try:
        row = StrategyConfig(strategy_id, "Test", {}, instruments, active)
        return await save_strategy(engine, row)
    finally:
        await engine.dispose()


async def forget_strategies(settings: Settings, *strategy_ids: str) -> None:
    engine = config_engine(settings)
    table = table_of(StrategyRow)
    try:
        async with engine.begin() as connection:
            await connection.execute(table.delete().where(table.c.strategy_id.in_(strategy_ids)))
    finally:
        await engine.dispose()
