"""Under a burst of zerodha entries: how fast an exit overtakes them to the broker, and what Zerodha's limits answer. Asserts no time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from core.trading.types import Intent
from tests.e2e.burst import arrivals, decided, fire, hold, orders_of, signals, ticking, to_broker_s
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.bench, pytest.mark.timeout(900)]

PRICES = {"NSE:INFY": Decimal(1500), "NSE:SBIN": Decimal(830), "NSE:TCS": Decimal(3100), "NSE:RELIANCE": Decimal(1400)}
ENTERED, LEFT = ("NSE:INFY", "NSE:SBIN", "NSE:TCS"), "NSE:RELIANCE"
ENTRIES = 500
EXITS = 12
EVERY_S = 3.0
SHORT = 60


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with ticking("pace", PRICES, SANDBOX_STRICT_LIMITS="true") as running:
        hold(running, LEFT, EXITS + 1)
        yield running


def test_an_exit_overtakes_five_hundred_entries(system: System) -> None:
    began = time.monotonic()
    entries = fire(system, signals(system, ENTERED, ENTRIES))
    first = fire(system, signals(system, [LEFT], 1, intent=Intent.EXIT))
    entries = [row["signal_id"] for row in decided(system, entries, 240)]
    print(f"\n{len(entries)} of {ENTRIES} zerodha entries decided by risk in {time.monotonic() - began:.1f} s")
    exits = []
    for _ in range(EXITS):
        due = time.monotonic() + EVERY_S
        exits += fire(system, signals(system, [LEFT], 1, intent=Intent.EXIT))
        system.wait(lambda due=due: time.monotonic() >= due, "the next exit", EVERY_S + 5)  # type: ignore[misc]
    system.wait(lambda: len(to_broker_s(system, [*first, *exits])) == EXITS + 1, "the exits at the broker", 60)
    waiting = len(entries) - len(to_broker_s(system, entries))
    took = sorted(seconds * 1000 for seconds in to_broker_s(system, exits))
    print(f"exit fired right behind the burst: to the broker in {to_broker_s(system, first)[0] * 1000:.0f} ms")
    print(
        f"{EXITS} exits while entries wait ({waiting} still do after the last): median {statistics.median(took):.0f} ms, "
        f"longest {took[-1]:.0f} ms (aim ≤ 300 ms)"
    )
    short = [
        row["signal_id"] for row in decided(system, fire(system, signals(system, ENTERED, SHORT, age_limit_s=5.0)))
    ]
    ended = "SELECT count(*) AS n FROM zerodha.orders WHERE signal_id = ANY(:ids) AND ended_at IS NOT NULL"
    system.wait(lambda: system.sql(ended, ids=short)[0]["n"] == len(short), "entries of 5 s to end", 120)
    late = [seconds for seconds in to_broker_s(system, short) if seconds > 5.0]
    expired = sum(row["status"] == "EXPIRED" for row in orders_of(system, short))
    print(
        f"{len(short)} of {SHORT} entries of 5 s passed risk behind them: {expired} expired, {len(late)} sent past their age"
    )
    system.wait(lambda: len(to_broker_s(system, entries)) == len(entries), "every entry at the broker", 240)
    print(f"all {len(entries)} entries at the broker after {time.monotonic() - began:.0f} s")
    limits = system.admin("limits")
    print(
        f"429 answers to orders: {sum(n for key, n in limits['refused'].items() if key.startswith('order'))}; "
        f"most in a calendar second {limits['most_orders_in_second']} (10 allowed), "
        f"in a minute {limits['most_orders_in_minute']} (400 allowed); all refusals: {limits['refused'] or 'none'}"
    )
    assert not late
    assert len(arrivals(system)) >= len(entries)
