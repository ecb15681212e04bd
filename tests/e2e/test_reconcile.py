"""Reconciliation in the whole system: what was lost is started again, what came late is booked, what is not ours is left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from core.routing import order_workflow_id, reconcile_workflow_id
from core.temporal import connect
from core.trading.types import Broker
from tests.e2e.trading import INFY, Market, arm, referee, running_workflows, settle, steered, swing, unpublished
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ZERODHA = Broker.ZERODHA


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with System.running("reconcile", [steered("steered-one", INFY)], DURATION_FACTOR="20") as running:
        yield running


def run_of(system: System, workflow_id: str) -> str:
    """The id of the workflow's last run."""

    async def describe() -> str:
        client = await connect(system.settings)
        return str((await client.get_workflow_handle(workflow_id).describe()).run_id)

    return asyncio.run(describe())


def terminate(system: System, workflow_id: str) -> str:
    """End it as a person would in Temporal UI; returns the run that was ended."""
    run = run_of(system, workflow_id)

    async def end() -> None:
        client = await connect(system.settings)
        await client.get_workflow_handle(workflow_id).terminate("a test")

    asyncio.run(end())
    return run


def open_at_broker(system: System, broker: Broker) -> list[UUID]:
    rows = system.sql(f"SELECT order_id FROM {broker}.orders WHERE ended_at IS NULL AND broker_order_id IS NOT NULL")
    return [row["order_id"] for row in rows]


def open_order(system: System, market: Market) -> UUID:
    """An order that stays open at the paused broker. On a busy machine an entry may be too old before it is sent: then another."""
    query = "SELECT 1 FROM zerodha.orders WHERE ended_at IS NULL AND broker_order_id IS NULL"
    for _ in range(5):
        swing(system, [market], 1, [ZERODHA])
        system.wait(lambda: not system.sql(query), "every order to be sent or ended")
        found = open_at_broker(system, ZERODHA)
        if found:
            return found[0]
    raise AssertionError("five times no order stayed open")


def reconcile(system: System, *, expect: int = 0) -> dict[str, Any]:
    """A round asked for by a person; what the command says of zerodha."""
    done = system.command("reconcile", "--broker", "zerodha", "--json", check=False)
    assert done.returncode == expect, f"exit {done.returncode}: {done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def opened(system: System) -> None:
    """Two rounds have seen the day: what comes from now on is not what it began with."""
    for _ in range(2):
        reconcile(system)


def line(found: dict[str, Any], symbol: str) -> dict[str, Any]:
    return next((row for row in found["lines"] if row["tradingsymbol"] == symbol), {})


def test_a_terminated_workflow_of_an_open_order_is_started_again_and_the_order_ends(system: System) -> None:
    system.admin("pause", {})
    with Market(system, INFY) as market:
        order_id = open_order(system, market)
        workflow = order_workflow_id(ZERODHA, order_id)
        ended = terminate(system, workflow)
        system.wait(lambda: run_of(system, workflow) != ended, "its workflow to run again", 60)
        system.admin("resume", {})
        settle(system, [market])
    system.wait(lambda: not running_workflows(system), "every workflow to end", 60, lambda: running_workflows(system))
    referee(system, ZERODHA)
    rows = system.sql("SELECT status FROM zerodha.orders WHERE order_id = :id", id=order_id)
    assert rows[0]["status"] == "FILLED"


def count_starts(system: System, service: str) -> int:
    """How often the process was started so far."""
    return (system.settings.var / "log" / f"{service}.log").read_text().count('"event": "starts"')


def test_a_round_that_dies_at_a_durable_step_is_done_by_the_next(system: System) -> None:
    """With an order open whose workflow is gone: it is started again, and nothing is sent twice. Other steps: test_crash_points.py."""
    service, point = f"orders-{ZERODHA}", "reconcile.after_start"
    system.admin("pause", {})
    with Market(system, INFY) as market:
        order_id = open_order(system, market)
        starts = count_starts(system, service)
        arm(system, service, f"{point}=kill:1")
        workflow = order_workflow_id(ZERODHA, order_id)
        ended = terminate(system, workflow)
        system.wait(lambda: count_starts(system, service) >= starts + 2, f"{point} to be reached", 60)
        system.wait(lambda: run_of(system, workflow) != ended, "its workflow to run again", 60)
        system.admin("resume", {})
        settle(system, [market])
    system.wait(lambda: not unpublished(system), "every event to be out", 60, lambda: unpublished(system))
    referee(system, ZERODHA)
    found = reconcile(system)
    assert found["judged"]
    assert line(found, "INFY").get("drift", 0) == 0


def test_a_reconciliation_that_somebody_ended_comes_back(system: System) -> None:
    name = reconcile_workflow_id(ZERODHA)
    ended = terminate(system, name)
    system.wait(lambda: run_of(system, name) != ended, "reconciliation to run again", 60)
    assert reconcile(system)["judged"]


def test_a_fill_after_the_workflow_closed_is_booked(system: System) -> None:
    """Half of the order fills, the rest is cancelled: it ends. Seconds later the rest fills after all."""
    system.admin("faults", [
        {"id": "half", "kind": "partial_then_cancel", "symbol": INFY, "count": 1},
        {"id": "late", "kind": "fill_after_cancelled", "symbol": INFY, "count": 1, "delay_s": 8},
    ])  # fmt: skip
    before = {row["order_id"] for row in system.sql("SELECT order_id FROM zerodha.orders")}
    with Market(system, INFY) as market:
        swing(system, [market], 1, [ZERODHA])

        def cancelled() -> list[dict[str, Any]]:
            rows = system.sql("SELECT order_id, filled_quantity FROM zerodha.orders WHERE status = 'CANCELLED'")
            return [row for row in rows if row["order_id"] not in before]

        (order,) = system.wait(cancelled, "the order to end half filled")
        assert order["filled_quantity"] == 5
        workflow = order_workflow_id(ZERODHA, order["order_id"])
        system.wait(lambda: workflow not in running_workflows(system), "its workflow to close", 30)

        def booked() -> bool:
            query = "SELECT filled_quantity FROM zerodha.orders WHERE order_id = :id"
            return bool(system.sql(query, id=order["order_id"])[0]["filled_quantity"] == 10)

        system.wait(booked, "the late fill to be booked", 60)
        settle(system, [market])
    query = "SELECT count(*) AS n FROM zerodha.outgoing_events WHERE order_id = :id AND published_at IS NULL"
    system.wait(lambda: system.sql(query, id=order["order_id"])[0]["n"] == 0, "its news to be out", 30)
    referee_of_all(system)
    assert line(reconcile(system), "INFY").get("drift", 0) == 0


def referee_of_all(system: System) -> None:
    for broker in Broker:
        referee(system, broker)


def test_what_is_not_ours_is_listed_counted_and_left_alone(system: System) -> None:
    opened(system)
    bought = {"kind": "foreign_order", "symbol": "NSE:SBIN", "now": True, "quantity": 3}
    system.admin("faults", [bought, bought | {"quantity": 4, "price": 805}])

    def seen() -> dict[str, Any]:
        found = reconcile(system)
        return found if line(found, "SBIN").get("foreign") == 3 and found["foreign_orders_count"] == 2 else {}

    found = system.wait(seen, "FOREIGN to be counted", 60)
    assert (line(found, "SBIN")["ours"], line(found, "SBIN")["drift"]) == (0, 0)
    rests = [row for row in found["foreign_orders"] if row["quantity"] == 4]
    assert [(row["status"], row["filled_quantity"]) for row in rests] == [("OPEN", 0)]
    rounds = system.api("/reconciliation?broker=zerodha&limit=500")["rounds"]
    assert rounds[0]["lines"]
    assert {row["broker"] for row in rounds} == {"zerodha"}
    again = reconcile(system)
    assert [row["status"] for row in again["foreign_orders"] if row["quantity"] == 4] == ["OPEN"], "never touched"


def test_units_from_nowhere_are_drift_and_a_person_is_told(system: System) -> None:
    """Once the broker has listed some position: before, units may be of an opening that its answers lacked."""
    opened(system)
    system.admin("faults", [{"kind": "foreign_order", "symbol": "NSE:WIPRO", "now": True, "quantity": 1}])
    system.wait(
        lambda: line(reconcile(system), "WIPRO").get("drift") == 0, "a position of the trader's own to be seen", 60
    )
    system.admin("faults", [{"kind": "foreign_position", "symbol": "NSE:TCS", "quantity": 5}])
    log = system.settings.var / "log" / "orders-zerodha.log"

    def told() -> bool:
        return any('"ALERT"' in row and '"drift"' in row and "TCS" in row for row in log.read_text().splitlines())

    system.wait(told, "the alert of drift", 60)
    found = reconcile(system, expect=1)
    assert (line(found, "TCS")["broker"], line(found, "TCS")["drift"]) == (5, 5)
    paper = system.api("/reconciliation?broker=paper")["rounds"][0]
    assert paper["judged"]
    assert all(row["foreign"] == 0 and row["drift"] == 0 for row in paper["lines"]), "paper has no FOREIGN"
    assert paper["foreign_orders_count"] == 0
