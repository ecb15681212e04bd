"""The crash-point matrix: kill -9 (and, in `make chaos`, a freeze) before and after every durable step, with the ledgers as referee.

One system runs throughout. Each round arms one point in each of several processes, then lets an entry, an exit and a cancel run at both
brokers at once. A point that is not passed fails its round. Rounds and their grouping: crash_rounds.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import psutil
import pytest

from core import failpoints
from core.services import services
from core.trading.commands import CommandKind
from core.trading.types import Broker
from docker.native.stack import NativeStack
from tests.e2e.crash_rounds import Round, rounds
from tests.e2e.crash_trades import PRICES, Trades, by_hand
from tests.e2e.test_kill_switch import assert_flat, kill_on, release
from tests.e2e.trading import SBIN, Market, open_orders, referee, running_workflows, settle, steered, unpublished
from tests.fixtures.system import System

pytestmark = [pytest.mark.timeout(1200)]

FROZEN_S = 8.0
"""Longer than a lease (6 s), a membership of a consumer group (6 s) and every deadline of a call as the system runs here."""

PASSED_S = 300.0
JUMP_EVERY_S = 5.0
PERIODIC = frozenset(
    f"{step}.{when}_{place}"
    for step, place in (("reconcile", "keep"), ("reconcile", "finish"), ("runner", "checkpoint"))
    for when in ("before", "after")
)
"""Points that are passed by the clock: armed only once the orders are on their way."""

ROUNDS = list(rounds())


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    rows = [by_hand(), steered("steered", SBIN)]
    with System.running("crash", rows, DURATION_FACTOR="20", FAILPOINTS=failpoints.FROM_FILES) as running:
        yield running


@pytest.mark.parametrize("one", ROUNDS, ids=str)
def test_kill_9_at_each_step_leaves_each_intent_one_effect(system: System, one: Round) -> None:
    _play(system, one, "kill")


@pytest.mark.freeze
@pytest.mark.parametrize("one", ROUNDS, ids=str)
def test_a_freeze_at_each_step_leaves_each_intent_one_effect(system: System, one: Round) -> None:
    _play(system, one, "freeze")


@pytest.mark.freeze
@pytest.mark.parametrize("point", [point for point in failpoints.POINTS if point.startswith("kill.")])
def test_a_kill_switch_frozen_at_each_step_ends_flat(system: System, point: str) -> None:
    """Its deaths by kill -9 are in test_kill_switch.py."""
    system.wait_ready()
    trades = Trades(system, number=0)
    acting = {f"orders-{broker}": point for broker in Broker}
    with ExitStack() as markets, ThreadPoolExecutor(1) as beside:
        for instrument, price in PRICES.items():
            markets.enter_context(Market(system, instrument, price))
        markets.enter_context(Market(system, SBIN))
        trades.prepare()
        struck = markets.enter_context(Struck(system, acting, "freeze"))
        struck.arm(acting)
        done = beside.submit(kill_on, system)
        struck.see_through(None)
        done.result()
        assert_flat(system)
    release(system)
    system.wait(lambda: not unpublished(system), "every event to be out", 90, lambda: unpublished(system))
    for broker in Broker:
        referee(system, broker)


def _play(system: System, one: Round, action: str) -> None:
    system.wait_ready()
    trades = Trades(system, one.number)
    with ExitStack() as markets:
        for instrument, price in PRICES.items():
            markets.enter_context(Market(system, instrument, price))
        steering = markets.enter_context(Market(system, SBIN))
        trades.prepare()
        struck = markets.enter_context(Struck(system, one.points, action))
        _trade(trades, one, struck)
        struck.see_through(steering if one.has("runner.before_publish", "runner.after_publish") else None)
        if one.has("modify.before_send", "modify.after_send"):
            trades.await_outcome(CommandKind.MODIFY)
            trades.ask(CommandKind.CANCEL)
        trades.await_ends()
        settle(system, [steering])
        assert set(trades.await_outcome(CommandKind.CANCEL).values()) == {"APPLIED"}
        system.wait(lambda: not open_orders(system), "every order to end", 60, lambda: open_orders(system))
    _in_the_end(system, trades, one)


def _trade(trades: Trades, one: Round, struck: Struck) -> None:
    """Points of the clock are armed last, all others first."""
    modify = one.has("modify.before_send", "modify.after_send")
    struck.arm({service: point for service, point in one.points.items() if point not in PERIODIC})
    if one.has("reconcile.before_start", "reconcile.after_start"):
        trades.lose_workflows()
    trades.begin()
    trades.ask(CommandKind.MODIFY if modify else CommandKind.CANCEL)
    struck.arm({service: point for service, point in one.points.items() if point in PERIODIC})


def _in_the_end(system: System, trades: Trades, one: Round) -> None:
    absent = [broker for broker in Broker if one.at_broker(broker).startswith("place.")]
    trades.judge(may_be_absent=absent)
    system.wait(lambda: not unpublished(system), "every event to be out", 90, lambda: unpublished(system))
    for broker in Broker:
        referee(system, broker)
    system.wait(lambda: not running_workflows(system), "every workflow to end", 90, lambda: running_workflows(system))


@dataclass(slots=True)
class Struck:
    """Arms the points and sees each process die and come back, or freeze and thaw. Leaves nothing armed and nothing frozen."""

    system: System
    points: dict[str, str]
    action: str
    before: dict[str, int] = field(default_factory=dict)
    hit_at: dict[str, float] = field(default_factory=dict)
    thawed: set[str] = field(default_factory=set)

    def __enter__(self) -> Struck:
        self._disarm()
        parts = NativeStack(self.system.settings, services(self.system.settings)).parts()
        self.before = {service: parts[service].pid for service in self.points}
        return self

    def __exit__(self, *_: object) -> None:
        self._disarm()
        if self.action == "freeze":
            for service in self.points.keys() - self.thawed:
                with suppress(ProcessLookupError):
                    self._thaw(service)

    def arm(self, points: dict[str, str]) -> None:
        for service, point in points.items():
            folder = failpoints.folder(self.system.settings, service)
            folder.mkdir(parents=True, exist_ok=True)
            laid = folder / f"{point}.new"
            laid.write_text(self.action)
            laid.rename(folder / point)

    def see_through(self, steering: Market | None) -> None:
        """Until every point was passed, and each process is there and well again. `steering` is jumped until strategies decide."""
        jumped = time.monotonic()

        def all_passed() -> bool:
            nonlocal jumped
            self._look()
            undecided = "strategy-runner" not in self.hit_at
            if steering is not None and undecided and time.monotonic() - jumped > JUMP_EVERY_S:
                steering.jump()
                jumped = time.monotonic()
            return not self._not_passed() and (self.action == "kill" or self.thawed == set(self.points))

        self.system.wait(all_passed, "every failpoint to be passed", PASSED_S, self._not_passed)
        if self.action == "kill":
            self.system.wait_ready(*self.points, old_pids=self.before)
        else:
            self.system.wait_ready(*self.points)

    def _not_passed(self) -> dict[str, str]:
        return {service: point for service, point in self.points.items() if service not in self.hit_at}

    def _look(self) -> None:
        """Note what was passed; thaw what was frozen for long enough."""
        now = time.monotonic()
        for service, point in self.points.items():
            hit = failpoints.folder(self.system.settings, service) / (point + failpoints.HIT)
            if service not in self.hit_at and hit.exists():
                self.hit_at[service] = now
            at = self.hit_at.get(service)
            if self.action == "freeze" and at is not None and service not in self.thawed and now - at >= FROZEN_S:
                assert psutil.Process(self.before[service]).status() == psutil.STATUS_STOPPED, (
                    f"{service} did not freeze"
                )
                self._thaw(service)

    def _thaw(self, service: str) -> None:
        os.kill(self.before[service], signal.SIGCONT)
        self.thawed.add(service)

    def _disarm(self) -> None:
        for service, point in self.points.items():
            for name in (point, point + failpoints.HIT):
                (failpoints.folder(self.system.settings, service) / name).unlink(missing_ok=True)
