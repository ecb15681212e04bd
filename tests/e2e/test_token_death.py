"""What holds orders back: the broker's limits under a burst, a session that dies in the middle. Nothing is refused, lost or late."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from core.clock import utc_now
from core.events.envelope import decode
from core.events.payloads import Alert
from core.events.topics import ALERTS
from core.messaging.reader import LogReader
from core.trading.types import Broker, Intent
from tests.e2e.burst import arrivals, decided, ended, fire, hold, orders_of, signals, ticking
from tests.e2e.test_lost_parts import ready
from tests.e2e.trading import INFY, SBIN, open_orders, referee, unpublished
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TCS = "NSE:TCS"
PRICES = {INFY: Decimal(1500), SBIN: Decimal(830), TCS: Decimal(3100)}
BURST = 60
ON_THE_WAY_S = 2.0
"""From the last look at the clock before the socket write to the sandbox's own, on a busy machine."""

LIMITED = {"SANDBOX_STRICT_LIMITS": "true", "SANDBOX_LOGIN_BY_HAND": "true"}


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with ticking("held", PRICES, **LIMITED) as running:
        hold(running, SBIN, 20)
        yield running


def refusals(system: System) -> dict[str, int]:
    """429 answers to orders, by limit."""
    found: dict[str, int] = system.admin("limits")["refused"]
    return {key: count for key, count in found.items() if key.startswith("order")}


def test_a_burst_of_entries_with_an_exit_among_them_never_meets_too_many_requests(system: System) -> None:
    """Each is filled by and by. How fast an exit gets ahead of them is the benchmark's to print."""
    burst = decided(system, fire(system, signals(system, [INFY, TCS], BURST)))
    assert len(burst) >= BURST // 2
    leave = fire(system, signals(system, [SBIN], 1, intent=Intent.EXIT))
    ended(system, leave, {"FILLED"})
    entries = [row["signal_id"] for row in burst]
    ended(system, entries, {"FILLED"})
    limits = system.admin("limits")
    assert limits["strict"]
    assert not refusals(system), limits


def test_an_entry_that_waits_for_its_turn_longer_than_its_age_expires_and_is_never_late(system: System) -> None:
    wanted = fire(system, signals(system, [INFY, TCS], BURST, age_limit_s=5.0))
    rows = decided(system, wanted)
    ended(system, [row["signal_id"] for row in rows], {"FILLED", "EXPIRED"})
    rows, arrived = orders_of(system, wanted), arrivals(system)
    for row in rows:
        if row["tag"] in arrived:
            age = (arrived[row["tag"]] - row["origin_at"]).total_seconds()
            assert age <= row["age_limit_s"] + ON_THE_WAY_S, f"an entry reached the broker past its age: {age:.2f} s"
        else:
            assert (row["status"], "too old to act on" in row["reason"]) == ("EXPIRED", True)
    assert sum(row["tag"] in arrived for row in rows) < BURST, "the burst was too small to hold anything back"


def test_a_session_that_dies_with_orders_under_way_holds_everything_until_a_login(system: System) -> None:
    """Entries, an exit and a look-up of an UNKNOWN order meet a dead token: none is rejected, all go on after `alpha-panda login`."""
    alerts = Ears(system)
    system.admin("faults", {"kind": "answer_lost", "symbol": SBIN, "count": 1, "delay_s": 0.1, "id": "doubt"})
    system.admin("faults", {"kind": "late_in_book", "symbol": SBIN, "count": 1, "delay_s": 60, "id": "late"})
    doubted = fire(system, signals(system, [SBIN], 1))
    system.wait(
        lambda: statuses(system, doubted) == ["UNKNOWN"], "an order in doubt", 60, lambda: statuses(system, doubted)
    )
    streaming = fire(system, signals(system, [INFY], 20))
    system.wait(lambda: any(row["state"] == "SENT" for row in orders_of(system, streaming)), "entries to flow", 60)

    system.admin("expire-token", {})
    system.wait(
        lambda: all(
            "alpha-panda login" in not_ready(system).get(name, "") for name in ("market-feed", "broker-zerodha")
        ),
        "health to name the login",
        90,
        lambda: ready(system),
    )
    before = set(arrivals(system))
    waiting = decided(system, fire(system, signals(system, [TCS], 3)))
    leaving = decided(system, fire(system, signals(system, [INFY], 1, intent=Intent.EXIT)))
    too_old = decided(system, fire(system, signals(system, [TCS], 2, age_limit_s=25.0)))
    assert len(waiting) == 3
    assert len(leaving) == 1
    assert too_old
    ended(system, ids_of(too_old), {"EXPIRED"})
    assert all("alpha-panda login" in row["reason"] for row in orders_of(system, ids_of(too_old)))
    held = orders_of(system, ids_of([*waiting, *leaving]))
    assert {(row["status"], row["state"]) for row in held} == {("PENDING", "INTENT")}, "nothing is claimed meanwhile"
    assert statuses(system, doubted) == ["UNKNOWN"]
    assert set(arrivals(system)) == before, "nothing reaches a broker that cannot be asked"

    assert "Logged in" in system.command("login").stdout
    system.wait(lambda: not not_ready(system), "health to be well", 90, lambda: ready(system))
    went_on = ids_of([*waiting, *leaving, *orders_of(system, [*doubted, *streaming])])
    ended(system, went_on, {"FILLED"})
    assert {row["tag"] for row in held} <= set(arrivals(system)) - before
    assert system.sql("SELECT count(*) AS n FROM zerodha.orders WHERE status = 'REJECTED'") == [{"n": 0}]
    dead = alerts.heard("session_dead")
    assert len(dead) == 1, dead
    assert "alpha-panda login" in dead[0].action


def test_in_the_end_every_order_is_as_its_broker_says(system: System) -> None:
    system.wait(lambda: not open_orders(system), "every order to end", 120, lambda: open_orders(system))
    system.wait(lambda: not unpublished(system), "every event to be published", 60)
    assert referee(system, Broker.ZERODHA)["accepted"] > BURST
    assert not refusals(system)


def statuses(system: System, signal_ids: Any) -> list[str]:
    return [row["status"] for row in orders_of(system, signal_ids)]


def ids_of(orders: list[dict[str, Any]]) -> list[UUID]:
    return [row["signal_id"] for row in orders]


def not_ready(system: System) -> dict[str, str]:
    """What /health/ready names as not ready, with its reason; empty: all is well."""
    return ready(system)[1]


class Ears:
    """Alerts raised since it was made."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._since = utc_now()

    def heard(self, kind: str) -> list[Alert]:
        return [alert for alert in asyncio.run(self._read()) if alert.kind == kind and alert.at >= self._since]

    async def _read(self) -> list[Alert]:
        reader = LogReader(self._system.settings, client_id="test", topics=[ALERTS])
        await reader.start("earliest")
        try:
            found = []
            while records := await reader.read(2.0):
                found += [data for record in records if isinstance(data := decode(record.value).data, Alert)]
            return found
        finally:
            await reader.stop()
