"""A part goes away for half a minute while both brokers trade: the system waits, says so, and goes on by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from core.order_work import SA_BROKER
from core.routing import order_workflow_id, orders_queue
from core.temporal import connect
from core.trading.types import Broker
from docker.native.stack import NativeStack
from tests.e2e.trading import INFY, SBIN, Market, referee, running_workflows, settle, steered, swing, unpublished
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

AWAY_S = 30.0


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    rows = [steered("steered-one", INFY), steered("steered-two", SBIN)]
    with System.running("lost", rows, DURATION_FACTOR="20") as running:
        yield running


def ready(system: System) -> tuple[int, dict[str, str]]:
    """Status of /health/ready, and each sick part with its reason."""
    answer = httpx.get(f"http://127.0.0.1:{system.settings.api_port}/health/ready", timeout=15)
    parts = answer.json()["parts"]
    return answer.status_code, {part["name"]: part["reason"] for part in parts if not part["ready"]}


@pytest.mark.parametrize("part", ["redis", "temporal", "kafka", "postgres"])
def test_a_part_lost_for_half_a_minute_delays_but_loses_nothing(system: System, part: str) -> None:
    stack = NativeStack(system.settings)
    with Market(system, INFY) as one, Market(system, SBIN) as two:
        swing(system, [one, two], 2)
        stack.supervisor.stop_parts([part])
        gone = time.monotonic()
        system.wait(lambda: part in ready(system)[1], f"/health/ready to name {part}", 30, lambda: ready(system))
        status, _ = ready(system)
        assert status == 503
        system.wait(lambda: time.monotonic() - gone > AWAY_S, "half a minute to pass", AWAY_S + 5)
        stack.supervisor.start_parts([part])
        system.wait(lambda: ready(system)[0] == 200, "the system to be ready again", 90, lambda: ready(system))
        swing(system, [one, two], 2)
        settle(system, [one, two])
    system.wait(lambda: not unpublished(system), "every event to be out", 60, lambda: unpublished(system))
    for broker in Broker:
        referee(system, broker)
    system.wait(lambda: not running_workflows(system), "every workflow to end", 60, lambda: running_workflows(system))
    assert system.command("rebuild-portfolio").returncode == 0


@pytest.mark.parametrize(("held", "flows"), [(Broker.ZERODHA, Broker.PAPER), (Broker.PAPER, Broker.ZERODHA)])
def test_a_broker_that_hangs_does_not_hold_the_other(system: System, held: Broker, flows: Broker) -> None:
    """Freeze one broker's workers: the other's orders go on to their fills."""
    frozen = [system.pid(f"orders-{held}"), system.pid(f"broker-{held}")]

    def filled() -> int:
        rows = system.sql(f"SELECT count(*) AS n FROM {flows}.orders WHERE status = 'FILLED'")
        return int(rows[0]["n"])

    with Market(system, INFY) as one, Market(system, SBIN) as two:
        swing(system, [one, two], 1)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            before = filled()
            for _ in range(12):  # an order that rests away from the price fills at a later swing
                swing(system, [one, two], 1, brokers=[flows])
                if filled() >= before + 3:
                    break
            assert filled() >= before + 3, f"{flows} does not fill while {held} hangs"
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        settle(system, [one, two])
    referee(system, held)


def test_workflows_carry_their_broker_in_their_id(system: System) -> None:
    """In Temporal itself: each order of a journal has its workflow under its broker's name and queue, and no broker has another's."""
    with Market(system, INFY) as one, Market(system, SBIN) as two:
        swing(system, [one, two], 1)
        settle(system, [one, two])
    wanted = {
        order_workflow_id(broker, row["order_id"]): (broker.value, orders_queue(broker))
        for broker in Broker
        for row in system.sql(f"SELECT order_id FROM {broker}.orders")
    }
    assert {broker for broker, _ in wanted.values()} == {broker.value for broker in Broker}
    system.wait(lambda: set(order_workflows(system)) >= set(wanted), "every order's workflow to be listed", 30)
    assert order_workflows(system) == wanted


def order_workflows(system: System) -> dict[str, tuple[str, str]]:
    """Workflow id → what it says of its broker, and the queue it runs on."""

    async def list_them() -> dict[str, tuple[str, str]]:
        client = await connect(system.settings)
        return {
            row.id: (str(row.typed_search_attributes.get(SA_BROKER)), row.task_queue)
            async for row in client.list_workflows("WorkflowType = 'OrderWorkflow'")
        }

    return asyncio.run(list_them())
