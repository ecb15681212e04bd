"""Waiting for a part: health as long as anyone waits, one log line a minute."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path

import pytest
import structlog

from core import waiting
from core.errors import Transient
from core.health import HealthReporter
from core.waiting import Waiting, part_of, pauses, until_well


@pytest.fixture
def health(tmp_path: Path) -> HealthReporter:
    reporter = HealthReporter("test", tmp_path)
    reporter.started()
    return reporter


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (Transient("PostgreSQL is away while deciding: X"), "postgres"),
        (Transient("Temporal at 127.0.0.1:27233 does not answer"), "temporal"),
        (Transient("anything", part="redis"), "redis"),
        (Transient(), "part"),
    ],
)
def test_the_part_is_what_the_error_names_or_its_first_word(error: Transient, part: str) -> None:
    assert part_of(error) == part


def test_pauses_double_up_to_two_seconds() -> None:
    assert list(islice(pauses(), 6)) == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_part_is_well_when_the_last_one_waiting_goes_on(health: HealthReporter) -> None:
    held = Waiting(health)
    held.on("postgres", "away", "a[0]")
    held.on("postgres", "away", "a[1]")
    held.over("postgres", "a[0]")
    assert not health.ready
    held.over("postgres", "a[1]")
    assert health.ready


def test_one_log_line_a_minute_and_part(health: HealthReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now)
    held = Waiting(health)
    with structlog.testing.capture_logs() as lines:
        monkeypatch.setattr(waiting, "log", structlog.get_logger())
        for second in range(125):
            now = 1000.0 + second
            held.on("postgres", "away", "a[0]")
            held.on("postgres", "away", "a[1]")
    assert [line["for_s"] for line in lines] == [0, 60, 120]


async def test_until_well_tries_again_until_the_probe_passes(health: HealthReporter) -> None:
    tries = 0

    async def probe() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Transient("Redis is away")

    assert await until_well(Waiting(health), "redis", probe, asyncio.Event())
    assert tries == 3
    assert health.ready


async def test_until_well_ends_when_asked_to_stop(health: HealthReporter) -> None:
    stop = asyncio.Event()

    async def probe() -> None:
        stop.set()
        raise Transient("Redis is away")

    assert not await until_well(Waiting(health), "redis", probe, stop)


async def test_until_well_lets_other_errors_through(health: HealthReporter) -> None:
    async def probe() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await until_well(Waiting(health), "redis", probe, asyncio.Event())
