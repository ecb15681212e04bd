"""`alpha-panda up` with a changed workflow while orders are open: refused where they could not go on, let through where they can."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from cli.record import PACKAGES
from core.config import PROJECT_ROOT
from core.routing import order_workflow_id
from core.services import names, services
from core.temporal import connect
from core.trading.types import Broker
from tests.e2e.test_commands import act, order, resting, until
from tests.e2e.trading import (
    INFY,
    Market,
    let_ticks_flow,
    open_orders,
    referee,
    running_workflows,
    steered,
    unpublished,
)
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

BEFORE = "        if order.resumed is None:\n"
STEP = "await asyncio.sleep(0.01)\n"
CHANGED = f"        {STEP}{BEFORE}"
PATCHED = f'        if workflow.patched("settle-first"):\n            {STEP}{BEFORE}'
"""A timer that orders begun before know nothing of."""

PATCH_MARK = "core_patch"
"""What Temporal's SDK calls the mark of `workflow.patched` in a history."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project whose code every process of this module runs, so that a test can change it as a pull does."""
    copy = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(PROJECT_ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT_ROOT / file, copy)
    (copy / ".tools").symlink_to(PROJECT_ROOT / ".tools")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(copy)
    yield copy
    del os.environ["PYTHONPATH"]
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def system(project: Path) -> Iterator[System]:
    with System.running("upgrade", [steered("by-hand", INFY)], DURATION_FACTOR="20") as running:
        yield running


def pull(project: Path, instead: str) -> None:
    """Change the workflow of the running copy."""
    original = (PROJECT_ROOT / "workflows" / "order.py").read_text()
    assert original.count(BEFORE) == 1
    (project / "workflows" / "order.py").write_text(original.replace(BEFORE, instead))


def pids(system: System) -> dict[str, int]:
    return {name: system.pid(name) for name in names(services(system.settings))}


def patches(system: System, broker: Broker, order_id: str) -> int:
    """How many `workflow.patched` marks an order's history has."""

    async def count() -> int:
        client = await connect(system.settings)
        history = await client.get_workflow_handle(order_workflow_id(broker, UUID(order_id))).fetch_history()
        return sum(event.marker_recorded_event_attributes.marker_name == PATCH_MARK for event in history.events)

    return asyncio.run(count())


def test_open_orders_refuse_code_that_would_lose_them_and_end_under_code_that_knows_them(
    system: System, project: Path
) -> None:
    with Market(system, INFY):
        let_ticks_flow(system)
        opened = {broker: resting(system, broker) for broker in Broker}
        ran = pids(system)

        pull(project, CHANGED)
        refused = system.command("up", check=False)
        assert refused.returncode == 1, refused.stdout
        said = refused.stdout + refused.stderr
        assert "do not replay" in said
        for broker, order_id in opened.items():
            assert f"{broker}-order-{order_id}" in said.replace("\n", ""), said
        assert "Nothing was changed" in said
        assert pids(system) == ran, "a refused start must leave every process as it was"
        for broker, order_id in opened.items():
            assert order(system, broker, order_id)["status"] == "ACKED"

        pull(project, PATCHED)
        system.up()
        now = pids(system)
        assert not {name for name in ran if name.startswith("orders-") and now[name] == ran[name]}
        for broker, order_id in opened.items():
            code, told = act(system, "cancel", order_id, "--wait", "60")
            assert (code, told["outcome"]) == (0, "APPLIED"), told
            until(system, broker, order_id, "CANCELLED")
            assert patches(system, broker, order_id) == 0, "begun before: it goes the old way"
        begun = resting(system, Broker.PAPER)
        assert patches(system, Broker.PAPER, begun) == 1, "begun after: the new code runs"
        act(system, "cancel", begun, "--wait", "60")
    system.wait(lambda: not open_orders(system), "every order to end", 60, lambda: open_orders(system))
    system.wait(lambda: not unpublished(system), "every event to be out", 60)
    system.wait(lambda: not running_workflows(system), "every workflow to end", 60, lambda: running_workflows(system))
    for broker in Broker:
        referee(system, broker)
