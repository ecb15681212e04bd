"""Metrics of several processes: counters add up and outlive a restart, gauges of the dead are gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.config import PROJECT_ROOT
from core.slots import claim, is_held

WRITER = """
import sys
from core import metrics
metrics.orders.labels("paper", "FILLED").inc(int(sys.argv[1]))
metrics.feed_connected.set(int(sys.argv[2]))
metrics.handler_seconds.labels("portfolio").observe(0.02)
print("written", flush=True)
sys.stdin.read()
"""


def _environment(folder: Path, name: str) -> dict[str, str]:
    return {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "ALPHA_PANDA_SERVICE": name}


@contextmanager
def writer(folder: Path, name: str, filled: int, connected: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(filled), str(connected)],
        env=_environment(folder, name), cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def render(folder: Path) -> dict[str, float]:
    """What the API process would answer."""
    done = subprocess.run(
        [sys.executable, "-c", "from core import metrics; print(metrics.render().decode())"],
        env=_environment(folder, "api"), cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


FILLED = 'alpha_panda_orders_total{broker="paper",status="FILLED"}'
CONNECTED = "alpha_panda_feed_connected"
HANDLED = 'alpha_panda_handler_seconds_count{service="portfolio"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_counters_of_all_processes_add_up(folder: Path) -> None:
    with writer(folder, "orders-paper", 3, 1), writer(folder, "portfolio", 4, 1):
        found = render(folder)
    assert found[FILLED] == 7
    assert found[HANDLED] == 2
    assert found[CONNECTED] == 1


def test_counters_outlive_kill_minus_nine_and_gauges_of_the_dead_do_not(folder: Path) -> None:
    with writer(folder, "market-feed", 3, 1) as process:
        process.kill()
        process.wait()
        found = render(folder)
        assert found[FILLED] == 3
        assert CONNECTED not in found
    with writer(folder, "market-feed", 2, 0):
        found = render(folder)
    assert found[FILLED] == 5, "the restarted process goes on counting"
    assert found[CONNECTED] == 0


def test_restarts_do_not_pile_up_files(folder: Path) -> None:
    for _ in range(3):
        with writer(folder, "market-feed", 1, 1):
            pass
    assert len(list(folder.glob("counter_*.db"))) == 1


def test_two_processes_of_one_service_write_apart(folder: Path) -> None:
    with writer(folder, "portfolio", 1, 1), writer(folder, "portfolio", 2, 1):
        assert {path.name for path in folder.glob("counter_*.db")} == {"counter_portfolio.db", "counter_portfolio-2.db"}
        assert render(folder)[FILLED] == 3


def test_a_slot_is_free_again_once_released(tmp_path: Path) -> None:
    first, second = claim(tmp_path, "name"), claim(tmp_path, "name")
    assert (first.name, second.name) == ("name", "name-2")
    assert is_held(tmp_path, "name")
    first.release()
    assert not is_held(tmp_path, "name")
    assert claim(tmp_path, "name").name == "name"
    second.release()


def test_every_metric_is_named_for_the_project() -> None:
    from prometheus_client import REGISTRY

    import core.metrics  # noqa: F401

    ours = [metric.name for metric in REGISTRY.collect() if not metric.name.startswith(("python_", "process_"))]
    assert ours
    assert all(name.startswith("alpha_panda_") for name in ours)
