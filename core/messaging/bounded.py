"""Waits for what the log's client library does, for a bounded time, in a task of its own.

The library swallows a cancel now and then (asyncio.wait_for does, where what it waits for ends in the same moment): whoever awaits it in
person may then wait for ever, whatever timeout lies around.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka.errors import KafkaError

from core import logging

CLOSE_S = 5.0
"""Longest wait for a connection to close."""

AGAIN_S = 1.0
"""What was left behind is cancelled again so often, until it ends."""

T = TypeVar("T")

log = logging.get(__name__)


async def within(seconds: float, doing: Coroutine[Any, Any, T], what: str) -> T:
    """What it returns, or raises.

    Raises:
        TimeoutError: it did not end within `seconds`. It is cancelled and left behind; the caller goes on.
    """
    task = asyncio.create_task(doing, name=what)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _leave_behind(task)
        raise
    if not done:
        _leave_behind(task)
        raise TimeoutError(f"{what}: not within {seconds:g} s")
    return task.result()


async def closed(closing: Coroutine[Any, Any, None], what: str, seconds: float = CLOSE_S) -> None:
    """Close something that holds nothing to lose: what goes wrong is told in the log, and the caller goes on."""
    try:
        await within(seconds, closing, what)
    except (KafkaError, OSError, TimeoutError) as error:
        log.warning("not closed cleanly", what=what, error=repr(error))


def _leave_behind(task: asyncio.Task[Any]) -> None:
    task.add_done_callback(_told)
    _cancel(task)


def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        task.get_loop().call_later(AGAIN_S, _cancel, task)


def _told(task: asyncio.Task[Any]) -> None:
    """How it ended at last: read, so that nobody is told it was never retrieved."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("what was left behind has ended", what=task.get_name(), error=repr(error))
