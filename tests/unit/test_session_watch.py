"""A broker process says in health that it waits for a login, and is well again only when the broker took a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from activities import broker_worker
from core.errors import SessionExpired, Transient
from core.health import HealthReporter
from core.waiting import Waiting

LOGIN = "no valid Zerodha session: run `alpha-panda login`"


class Told:
    """A trader whose session and answers the test sets."""

    def __init__(self) -> None:
        self.why: str | None = None
        self.refusal: Exception | None = None
        self.asked = 0

    def waits_for(self) -> str | None:
        return self.why

    async def funds(self) -> None:
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - within a bound
            await asyncio.sleep(0.002)


async def test_health_waits_for_the_login_until_the_broker_takes_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_worker, "SESSION_EVERY_S", 0.005)
    health = HealthReporter("broker", tmp_path)
    health.started()
    trader: Any = Told()
    async with broker_worker.session_watched(trader, Waiting(health)):
        await until(lambda: health.ready)
        assert trader.asked == 0, "what is well is not asked"
        trader.why = LOGIN
        await until(lambda: not health.ready)
        assert "alpha-panda login" in health._parts["session"]
        for refusal in (SessionExpired("refused again; run `alpha-panda login`"), Transient("away", part="zerodha")):
            trader.why, trader.refusal, asked = None, refusal, trader.asked
            await until(lambda asked=asked: trader.asked > asked + 2)  # type: ignore[misc]
            assert not health.ready, "a session nobody has tried is not known to work"
        trader.refusal = None
        await until(lambda: health.ready)
