"""The control room lets old rows go, each kind for itself: what one cannot do now keeps no other waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from api import housekeeping
from api.housekeeping import Housekeeping
from api.reads import Reads
from core.errors import Transient
from core.storage import tidy
from tests.strategy_world import make_settings


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kinds were let go; sessions cannot be now, answers fail."""
    found: list[str] = []

    def work(name: str, problem: Exception | None = None) -> None:
        async def one(*_: Any) -> int:
            found.append(name)
            if problem is not None:
                raise problem
            return 1

        monkeypatch.setattr(tidy, name, one)

    work("sessions", Transient("PostgreSQL is away"))
    work("answers", ValueError("a mistake of ours"))
    work("alerts")
    work("minutes")
    return found


class Log:
    """Keeps how loud each line about a kind was."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def __getattr__(self, level: str) -> Callable[..., None]:
        def line(_: str, *, what: str, **more: Any) -> None:
            self.said[what] = level

        return line


async def test_what_cannot_be_let_go_now_keeps_nothing_else_waiting(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, log = Reads(make_settings()), Log()
    monkeypatch.setattr(housekeeping, "log", log)
    await Housekeeping(reads).once()
    brokers = len(make_settings().active_brokers)
    assert done == ["sessions", "answers", "alerts", *["minutes"] * brokers]
    told = (log.said["sessions"], log.said["answers"], log.said["alerts"])
    assert told == ("warning", "exception", "info")
    await reads.close()


async def test_it_begins_again_and_again_and_ends_when_it_is_closed(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "FIRST_S", 0.0)
    monkeypatch.setattr(housekeeping, "EVERY_S", 0.0)
    reads, third = Reads(make_settings()), asyncio.Event()

    async def alerts(*_: Any) -> int:
        done.append("alerts")
        if done.count("alerts") == 3:
            third.set()
        return 0

    monkeypatch.setattr(tidy, "alerts", alerts)
    keeping = Housekeeping(reads)
    keeping.start()
    await asyncio.wait_for(third.wait(), 10)
    await keeping.close()
    rounds = len(done)
    await asyncio.sleep(0)
    assert len(done) == rounds
    await reads.close()
