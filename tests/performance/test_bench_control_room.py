"""What open dashboards and readers of the events cost the order path: the same orders without them, with them, without them. Prints."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psutil
import pytest

from core.people.roles import Role, Scope
from core.storage.strategies import StrategyConfig
from docker.prerequisites import ROOT
from tests.fixtures.people import make_key, make_user
from tests.fixtures.system import System
from tests.performance.test_bench_orders import (
    INSTRUMENTS,
    PACE,
    STRATEGY,
    make_signal,
    producing,
    publish,
    token_table,
)

pytestmark = [pytest.mark.e2e, pytest.mark.bench, pytest.mark.timeout(1200)]

ORDERS = int(os.environ.get("ROOM_ORDERS", "200"))
DASHBOARDS, READERS = 20, 200


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    quiet = {"bar_s": 3600, "fast": 199, "slow": 200, "quantity": 1}  # never warm: the bench itself signals
    with System.running("bench-room", [StrategyConfig(STRATEGY, "Momentum", quiet, INSTRUMENTS, True)]) as running:
        yield running


def test_the_order_path_with_and_without_people_who_look(live: System) -> None:
    print(
        f"\n{ORDERS} paper orders at {PACE:.0f}/s, from signal to the broker's book; the API's niceness is {_nice(live)}"
    )
    asyncio.run(orders(live, 20))  # warm
    before = measured(live, "nobody looks")
    with looking(live) as told:
        during = measured(live, f"{DASHBOARDS} dashboards open, {READERS} programs on /api/v1/events")
    after = measured(live, "nobody looks again")
    print(f"they were told: {told}")
    print("(a dashboard is a client that speaks NiceGUI's socket.io on a page it fetched; no browser draws it)")
    quiet = max(before[1], after[1])
    print(
        f"p99 with them is {during[1] / before[1]:.2f} of the first, {during[1] / quiet:.2f} of the worse without (aim 1.5)"
    )


def _nice(system: System) -> int:
    return int(psutil.Process(system.pid("api")).nice())


def measured(system: System, what: str) -> tuple[float, float]:
    """p50 and p99 in milliseconds, printed with what the API took of a core meanwhile."""
    api = psutil.Process(system.pid("api"))
    spent, began = sum(api.cpu_times()[:2]), time.monotonic()
    took = asyncio.run(orders(system, ORDERS))
    share = (sum(api.cpu_times()[:2]) - spent) / (time.monotonic() - began)
    p50, p99 = statistics.median(took), took[max(int(len(took) * 0.99) - 1, 0)]
    print(
        f"{what}: {len(took)} of {ORDERS} orders, p50 {p50:.0f} ms, p99 {p99:.0f} ms; the API takes {share:.0%} of a core"
    )
    return p50, p99


async def orders(system: System, count: int) -> list[float]:
    """Milliseconds of each order that reached the book, sorted."""
    tokens = await asyncio.to_thread(token_table, system)
    run, sent = uuid4().hex[:8], []
    async with producing(system) as producer:
        for number in range(count):
            began = time.perf_counter()
            signal = make_signal(INSTRUMENTS[number % len(INSTRUMENTS)], tokens, f"{run}-{number}")
            await publish(producer, signal)
            sent.append(signal.signal_id)
            await asyncio.sleep(max(0.0, 1 / PACE - (time.perf_counter() - began)))
    query = (
        "SELECT extract(epoch FROM e.accepted_at - o.origin_at) AS seconds FROM paper.orders o "
        "JOIN paper.sends s USING (order_id) JOIN paper_exchange.orders e ON e.tag = s.tag "
        "WHERE o.signal_id = ANY(:ids)"
    )

    decided = "SELECT count(*) AS decided, count(*) FILTER (WHERE accepted) AS orders FROM paper.risk_decisions WHERE signal_id = ANY(:ids)"

    def found() -> list[dict[str, Any]] | None:
        (row,) = system.sql(decided, ids=sent)
        there = system.sql(query, ids=sent)
        return there if row["decided"] == count and len(there) == row["orders"] else None

    rows = await asyncio.to_thread(system.wait, found, "every accepted order to reach the book", 120)
    return sorted(float(row["seconds"]) * 1000 for row in rows)


@contextmanager
def looking(system: System) -> Iterator[dict[str, int]]:
    """DASHBOARDS and READERS, all open; what they were told is in the dictionary after the block."""
    name, password = asyncio.run(make_user(system.settings, Role.VIEWER))
    key = asyncio.run(make_key(system.settings, Role.VIEWER, [Scope.READ]))
    base = f"http://127.0.0.1:{system.settings.api_port}"
    load = subprocess.Popen(
        [sys.executable, "-m", "tests.performance.room_load", base, str(DASHBOARDS), str(READERS)],
        env=os.environ | {"ROOM_NAME": name, "ROOM_PASSWORD": password, "ROOM_KEY": key},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert load.stdout is not None
    told: dict[str, int] = {}
    try:
        assert load.stdout.readline() == "open\n", f"the load did not open, exit code {load.poll()}"
        yield told
        told |= json.loads(load.communicate(timeout=60)[0])
    finally:
        if load.poll() is None:
            load.kill()
            load.wait(30)
