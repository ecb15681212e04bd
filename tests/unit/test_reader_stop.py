"""Closing a reader of the log is bounded, whatever the client library does with a cancel: a lost lease waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import pytest

from core.messaging import reader


class Stubborn:
    """Awaits a task that ends by no cancel, as a fetcher does that swallowed it."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def _fetch(self) -> None:
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()

    async def stop(self) -> None:
        await asyncio.create_task(self._fetch())


async def test_a_close_that_ignores_its_cancel_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "ASK_S", 0.2)
    stubborn = Stubborn()
    closing = asyncio.create_task(reader._stop(cast(Any, stubborn)))
    done, _ = await asyncio.wait({closing}, timeout=20)
    stubborn.let_go.set()
    assert done
    closing.result()
