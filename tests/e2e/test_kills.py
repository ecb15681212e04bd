"""kill -9 of each of our processes in turn while both brokers trade: one order an intent, none lost, no workflow left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.services import names, services
from core.trading.types import Broker
from tests.e2e.trading import INFY, SBIN, Market, referee, running_workflows, settle, steered, swing, unpublished
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    rows = [steered("steered-one", INFY), steered("steered-two", SBIN)]
    with System.running("kills", rows, DURATION_FACTOR="20") as running:
        yield running


def test_every_process_killed_in_turn_leaves_one_order_an_intent(system: System) -> None:
    rows = names(services(system.settings))
    with Market(system, INFY) as one, Market(system, SBIN) as two:
        swing(system, [one, two], 2)
        for name in rows:
            died = system.kill(name)
            swing(system, [one, two], 1)
            system.wait_ready(name, old_pids={name: died})
        swing(system, [one, two], 2)
        system.wait_ready()
        settle(system, [one, two])
    system.wait(lambda: not unpublished(system), "every event to be out", 60, lambda: unpublished(system))
    for broker in Broker:
        found = referee(system, broker)
        assert found["filled"] >= len(rows)
    system.wait(lambda: not running_workflows(system), "every workflow to end", 60, lambda: running_workflows(system))
    assert system.command("rebuild-portfolio").returncode == 0
