"""What becomes of work whose lease is lost."""

from __future__ import annotations

import asyncio

import pytest

from core.storage import leases


async def test_work_that_ends_when_cancelled_is_let_go_whatever_it_raises() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("on the way out")

    task = asyncio.ensure_future(stubborn())
    await asyncio.sleep(0)
    await leases._end(task, "feed")
    assert task.done()


async def test_work_that_swallows_its_cancel_takes_the_process_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "CANCELLED_S", 0.05)
    free = asyncio.Event()

    async def deaf() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.ensure_future(deaf())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="lease feed did not end"):
        await leases._end(task, "feed")
    free.set()
    await task
