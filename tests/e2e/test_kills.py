"""kill -9 of each of our processes in turn while both brokers trade: one order an intent, none lost, no workflow left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest

from core.services import names, services
from core.temporal import connect
from core.trading.types import Broker
from tests.e2e.trading import INFY, SBIN, Market, referee, steered
from tests.fixtures.system import System

pytestmark = pytest.mark.e2e

HIGH, LOW = Decimal(1510), Decimal(1490)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    rows = [steered("steered-one", INFY), steered("steered-two", SBIN)]
    made = System.make("kills", rows, DURATION_FACTOR="20")
    try:
        made.up()
        yield made
    finally:
        made.end()


def swing(system: System, markets: list[Market], wanted: int) -> None:
    """Jump the prices up and down until each broker has `wanted` more orders than now."""

    def count() -> dict[str, int]:
        return {b: system.sql(f"SELECT count(*) AS n FROM {b}.orders")[0]["n"] for b in Broker}

    goal = {broker: number + wanted for broker, number in count().items()}

    def reached() -> bool:
        for market in markets:
            market.price = LOW if market.price == HIGH else HIGH
        seen = count()
        return all(seen[broker] >= goal[broker] for broker in goal)

    ends = 90
    while ends and not reached():
        ends -= 1
        with_pause(system)
    assert ends, f"no orders came: {count()}, wanted {goal}"


def with_pause(system: System) -> None:
    """Let a swing become bars: until the sandbox has sent some more ticks."""
    before = _ticks(system)
    system.wait(lambda: _ticks(system) >= before + 16, "ticks to flow", 30)


def _ticks(system: System) -> int:
    try:
        return int(system.admin("status")["ticks_sent"])
    except Exception:  # it is being killed or starting just now; `wait` bounds how long that may take
        return -1


def test_every_process_killed_in_turn_leaves_one_order_an_intent(system: System) -> None:
    rows = names(services(system.settings))
    with Market(system, INFY, LOW) as one, Market(system, SBIN, LOW) as two:
        swing(system, [one, two], 2)
        for name in rows:
            died = system.kill(name)
            swing(system, [one, two], 1)
            system.wait_ready(name, old_pids={name: died})
        swing(system, [one, two], 2)
    system.wait_ready()

    def settled() -> bool:
        open_rows = [
            row
            for broker in Broker
            for row in system.sql(f"SELECT order_id FROM {broker}.orders WHERE ended_at IS NULL")
        ]
        unpublished = [
            row
            for broker in Broker
            for row in system.sql(f"SELECT 1 FROM {broker}.outgoing_events WHERE published_at IS NULL")
        ]
        return not open_rows and not unpublished

    system.wait(settled, "every order to end and every event to be out", 120, lambda: _open(system))
    for broker in Broker:
        found = referee(system, broker)
        assert found["filled"] >= len(rows)
    system.wait(lambda: not running_workflows(system), "every workflow to end", 60, lambda: running_workflows(system))
    assert system.command("rebuild-portfolio").returncode == 0


def _open(system: System) -> list[dict[str, object]]:
    return [
        row
        for broker in Broker
        for row in system.sql(
            f"SELECT o.order_id, o.status, o.reason, s.state, s.answer FROM {broker}.orders o "
            f"JOIN {broker}.sends s USING (order_id, send_no) WHERE o.ended_at IS NULL"
        )
    ]


def running_workflows(system: System) -> list[str]:
    async def list_them() -> list[str]:
        client = await connect(system.settings)
        return [row.id async for row in client.list_workflows("ExecutionStatus = 'Running'")]

    return asyncio.run(list_them())


@pytest.mark.parametrize("point", ["place.after_claim", "place.after_send", "look.before_fold", "look.after_fold"])
@pytest.mark.parametrize("broker", list(Broker))
def test_a_broker_worker_that_dies_at_a_durable_step_sends_nothing_twice(
    system: System, broker: Broker, point: str
) -> None:
    """Died after the claim: proven absent, so expired. Died after the send: found by its tag, and filled."""
    service = f"broker-{broker}"
    before = {row["order_id"] for row in system.sql(f"SELECT order_id FROM {broker}.orders")}
    arm(system, service, f"{point}=kill:1")
    with Market(system, INFY, LOW) as one, Market(system, SBIN, LOW) as two:
        swing(system, [one, two], 3)
        system.wait(lambda: not _open(system), "every order to end", 150, lambda: _open(system))
    statuses = {
        row["status"]
        for row in system.sql(f"SELECT order_id, status FROM {broker}.orders")
        if row["order_id"] not in before
    }
    referee(system, broker)
    assert "FILLED" in statuses


def arm(system: System, service: str, failpoints: str) -> None:
    """Make the next start of one process carry a failpoint, and only that start."""
    env = system.home / ".env"
    plain = env.read_text()
    env.write_text(f"{plain}FAILPOINTS={failpoints}\n")
    try:
        system.wait_ready(service, old_pids={service: system.kill(service)})
    finally:
        env.write_text(plain)
