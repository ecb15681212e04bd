"""The native stack on a home of its own: what was written survives a stop and a killed supervisor; nothing is left running."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from cli.setup import ensure_env
from core.config import Settings, load_settings
from core.storage.roles import connect_admin
from docker import prerequisites
from docker.native.stack import INFRA, NativeStack
from docker.native.supervisor import ours, wait_until

pytestmark = pytest.mark.stack

BEYOND = 300
"""Ports of this second stack lie this far above the test stack's API port."""


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A second home beside the test home, with ports of its own, removed at the end."""
    base = prerequisites.test_ports()["API_PORT"] + BEYOND
    home = prerequisites.ROOT / f".test-home-{base}"
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(home))
    shutil.rmtree(home, ignore_errors=True)
    ensure_env(home, {name: str(base + offset) for name, offset in prerequisites.TEST_OFFSETS.items()})
    settings = load_settings()
    yield settings
    NativeStack(settings).stop()
    shutil.rmtree(home)


def _start(stack: NativeStack) -> None:
    with ThreadPoolExecutor(1) as thread:  # start_infra runs an event loop of its own
        thread.submit(stack.start_infra).result()


async def _remember(settings: Settings) -> None:
    connection = await connect_admin(settings, "postgres")
    await connection.execute("CREATE TABLE kept (value int)")
    await connection.execute("INSERT INTO kept VALUES (42)")
    await connection.close()


async def _recall(settings: Settings) -> int:
    connection = await connect_admin(settings, "postgres")
    try:
        return int(await connection.fetchval("SELECT value FROM kept"))
    finally:
        await connection.close()


def _private(path: Path) -> bool:
    return path.stat().st_mode & 0o077 == 0


async def test_data_survives_stop_and_a_killed_supervisor_and_no_process_stays(apart: Settings) -> None:
    stack = NativeStack(apart)
    _start(stack)
    assert stack.infra_running()
    await _remember(apart)
    pids = {stack.parts()[name].pid for name in INFRA} | {stack.supervisor.pid() or 0}
    assert {process.pid for process in ours(stack.layout)} >= pids
    for secret in ("supervisor.conf", "kafka.properties", "valkey.conf"):
        assert _private(stack.layout.run / secret)

    await asyncio.to_thread(stack.stop)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert ours(stack.layout) == []

    _start(stack)
    assert await _recall(apart) == 42
    supervisor = stack.supervisor.pid()
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    assert wait_until(lambda: not stack.running, 5)
    assert len(ours(stack.layout)) >= len(INFRA)  # they live on without it

    _start(stack)  # ends what lost its supervisor, then starts anew on the same data
    assert await _recall(apart) == 42
    await asyncio.to_thread(stack.stop)
    assert ours(stack.layout) == []


async def test_a_part_that_is_killed_comes_back_by_itself(apart: Settings) -> None:
    stack = NativeStack(apart)
    _start(stack)
    before = stack.parts()["redis"].pid
    os.kill(before, signal.SIGKILL)
    assert await asyncio.to_thread(wait_until, lambda: stack.parts()["redis"].pid not in {0, before}, 30)
