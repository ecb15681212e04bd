"""Runs a service of ours inside a test, against the real stack, and waits for what it should bring about."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from core import logging
from core.config import Settings
from core.health import HealthReporter
from core.service import ServiceContext

T = TypeVar("T")


async def eventually(
    probe: Callable[[], T | Awaitable[T]], holds: Callable[[T], bool] = bool, *, within_s: float = 20.0
) -> T:
    """Ask until the answer holds; fails with the last answer. Bounded, never a sleep for luck."""
    deadline = time.monotonic() + within_s
    while True:
        answer: Any = probe()
        if inspect.isawaitable(answer):
            answer = await answer
        if holds(answer):
            return answer  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, f"not within {within_s} s; last seen: {answer!r}"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def running(
    name: str, main: Callable[[ServiceContext], Awaitable[None]], settings: Settings, folder: Path
) -> AsyncIterator[ServiceContext]:
    """The service until the block ends; what it raises fails the test."""
    ctx = ServiceContext(name, settings, HealthReporter(name, folder), asyncio.Event(), logging.get(name))
    task = asyncio.ensure_future(main(ctx))
    try:
        await eventually(lambda: ctx.health.ready or task.done(), within_s=30)
        if task.done():
            task.result()
        yield ctx
    finally:
        ctx.stop.set()
        await asyncio.wait_for(task, 10)
