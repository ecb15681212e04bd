"""kill -9 and SIGSTOP of every process of ours and every part of the stack, and how long each takes to be well again.

Ends only processes that the home's own supervisor runs, by their pid. Whatever is frozen is thawed, whatever happens.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

import psutil

from core.errors import StopTheStart, Transient
from core.messaging.lag import lag_by_group
from core.services import names, services
from core.trading.types import Broker
from docker.native import ready
from docker.native.stack import INFRA, NativeStack
from tests.chaos.world import World, until
from tests.fixtures.system import System

WELL_S = 120.0
"""A part that is not well again after so long is a breach."""

RUNS_S = 30.0
"""A part that does not run at its turn (it ended by itself, or another one's end took it along) is waited for so long."""

LAG_STEP_S = 0.5
LAG_SLACK = 10
"""Records a group may be behind beyond what it was before: a second or two of the run's own traffic."""

FREEZE_SHORT_S, FREEZE_LONG_S = 2.0, 8.0
"""A short freeze keeps every lease (6 s); a long one loses them, and every deadline of a call."""


class Action(StrEnum):
    """What is done to a part."""

    KILL = "kill -9"
    FREEZE_SHORT = "freeze 2 s"
    FREEZE_LONG = "freeze 8 s"

    @property
    def seconds(self) -> float:
        return {Action.KILL: 0.0, Action.FREEZE_SHORT: FREEZE_SHORT_S, Action.FREEZE_LONG: FREEZE_LONG_S}[self]


@dataclass(frozen=True, slots=True)
class Blow:
    """One planned act: `pause_s` after the part before it was well again."""

    part: str
    action: Action
    pause_s: float


@dataclass(slots=True)
class Outcome:
    """What one blow did. Seconds from the kill, or from SIGCONT if frozen; None where the bound was passed."""

    blow: Blow
    ready_s: float | None
    lag_s: float | None
    moved_s: float | None
    stuck: list[str] = field(default_factory=list)

    @property
    def recovery_s(self) -> float | None:
        """Until ready, lag as before, and every order not in mid-send moved on."""
        parts = (self.ready_s, self.lag_s, self.moved_s)
        known = [one for one in parts if one is not None]
        return max(known) if len(known) == len(parts) else None


def plan(parts: list[str], seed: int) -> Iterator[Blow]:
    """Endless: in each round every part is killed once and frozen once, in an order drawn from the seed."""
    random = Random(f"{seed}:blows")
    turn = 0
    while True:
        freeze = Action.FREEZE_LONG if turn % 2 == 0 else Action.FREEZE_SHORT
        acts = [(part, action) for part in parts for action in (Action.KILL, freeze)]
        random.shuffle(acts)
        for part, action in acts:
            yield Blow(part, action, round(random.uniform(0.5, 3.0), 2))
        turn += 1


class Hand:
    """Strikes, one part after the other, until told to stop."""

    def __init__(self, world: World, blows: Iterator[Blow]) -> None:
        self._world, self._blows = world, blows
        self.outcomes: list[Outcome] = []
        self.missed = 0
        """Blows at a part that did not run: they count for nothing."""
        self.now = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Strike until asked to stop; the last blow is seen through."""
        for blow in self._blows:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), blow.pause_s)
            if stop.is_set():
                return
            self.now = f"{blow.action} {blow.part}"
            outcome = await self.strike(blow)
            if outcome is None:
                self.missed += 1
                self._world.log.write("struck nobody", part=blow.part, action=blow.action)
                continue
            self.outcomes.append(outcome)
            self._world.log.write(
                "blow", part=blow.part, action=blow.action, ready_s=outcome.ready_s, lag_s=outcome.lag_s,
                moved_s=outcome.moved_s, stuck=outcome.stuck,
            )  # fmt: skip
            self.now = ""

    async def strike(self, blow: Blow) -> Outcome | None:
        """None where there was nobody to strike."""
        world = self._world
        lag_before = await self._lag()
        moving = await _moving(world)
        await until(lambda: _runs(world, blow.part), RUNS_S)
        pid = world.pid(blow.part)
        victims = tree(pid)
        world.log.write("strike", part=blow.part, action=blow.action, pid=pid, processes=len(victims))
        if not await _dealt(blow.action, victims):
            return None
        began, wall = time.monotonic(), time.time()
        gone = pid if blow.action is Action.KILL else 0
        ready_s = await _elapsed(began, lambda: self._is_ready(blow.part, gone, wall))
        lag_s = await _elapsed(began, lambda: self._lag_is(lag_before), LAG_STEP_S)
        stuck: list[str] = []

        async def moved() -> bool:
            stuck[:] = await _not_moved(world, moving)
            return not stuck

        moved_s = await _elapsed(began, moved)
        return Outcome(blow, ready_s, lag_s, moved_s, stuck)

    async def _is_ready(self, part: str, gone: int, since: float) -> bool:
        """The part answers as another process than the dead one, and with it every service that had to wait for it."""
        pid = self._world.pid(part)
        if pid in (0, gone):
            return False
        said = self._world.health()
        if part in INFRA:
            try:
                await ready.wait(self._world.settings, timeout=0.5)
            except (StopTheStart, OSError):
                return False
            return all(row in said and said[row].ready and said[row].at > since for row in self._world.names)
        return part in said and said[part].ready and said[part].pid == pid and said[part].at > since

    async def _lag(self) -> dict[str, int] | None:
        """Records each group is behind; None while the log does not answer."""
        try:
            rows = await lag_by_group(self._world.settings)
        except Transient:
            return None
        found: Counter[str] = Counter()
        for row in rows:
            found[row.group] += row.lag
        return dict(found)

    async def _lag_is(self, before: dict[str, int] | None) -> bool:
        now = await self._lag()
        if now is None:
            return False
        return all(behind <= (before or {}).get(group, 0) + LAG_SLACK for group, behind in now.items())


async def _runs(world: World, part: str) -> bool:
    return world.pid(part) != 0


async def _dealt(action: Action, victims: Sequence[psutil.Process]) -> bool:
    """Strike these, the first of them the part itself. False where that one was gone before the blow reached it."""
    if action is Action.KILL:
        return bool(victims) and victims[0].pid in _send(victims, signal.SIGKILL)
    try:
        hit = _send(victims, signal.SIGSTOP)
        if victims and victims[0].pid in hit:
            await asyncio.sleep(action.seconds)
    finally:
        back = _send(reversed(victims), signal.SIGCONT)
    return bool(victims) and victims[0].pid in hit and victims[0].pid in back


async def _elapsed(began: float, condition: Any, step: float = 0.1) -> float | None:
    """Seconds since `began` at which the condition held; None past the bound."""
    held = await until(condition, WELL_S, step)
    return round(time.monotonic() - began, 2) if held else None


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it, itself first."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> set[int]:
    """The pids that the signal reached: psutil knows a pid that was given to another process meanwhile, a zombie feels nothing."""
    reached: set[int] = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                process.send_signal(number)
                reached.add(process.pid)
    return reached


def thaw_all(system: System) -> None:
    """SIGCONT to every process of the home: a run that was interrupted may have left one frozen."""
    stack = NativeStack(system.settings, services(system.settings))
    for name, part in stack.parts().items():
        if part.pid and name in {*names(services(system.settings)), *INFRA}:
            _send(tree(part.pid), signal.SIGCONT)


# orders ----------------------------------------------------------------------------------------------------------------

_MOVING = """SELECT o.order_id::text, o.order_seq, o.status FROM {broker}.orders o
    JOIN {broker}.sends s USING (order_id, send_no)
    WHERE o.ended_at IS NULL AND s.state NOT IN ('SENDING', 'UNKNOWN') AND o.status <> 'UNRESOLVED'"""

_STILL = """SELECT o.order_id::text, o.order_seq, o.status, o.broker_order_id, o.instrument_token
    FROM {broker}.orders o JOIN {broker}.sends s USING (order_id, send_no)
    WHERE o.ended_at IS NULL AND s.state NOT IN ('SENDING', 'UNKNOWN') AND o.order_id = ANY($1::uuid[])"""


async def _moving(world: World) -> dict[Broker, dict[str, int]]:
    """Open orders not in mid-send, with the step each stands at. Empty where the database does not answer."""
    found: dict[Broker, dict[str, int]] = {}
    for broker in Broker:
        rows = await world.try_sql(_MOVING.format(broker=broker.value)) or []
        found[broker] = {row["order_id"]: row["order_seq"] for row in rows}
    return found


async def _not_moved(world: World, before: dict[Broker, dict[str, int]]) -> list[str]:
    """Those that stand where they stood, though nothing at the broker keeps them there."""
    left: list[str] = []
    for broker, steps in before.items():
        if not steps:
            continue
        rows = await world.try_sql(_STILL.format(broker=broker.value), list(steps))
        if rows is None:
            return ["PostgreSQL does not answer"]
        still = [row for row in rows if row["order_seq"] == steps[row["order_id"]]]
        resting = await _resting(world, broker, still)
        waits = resting | world.bare
        left += [row["order_id"] for row in still if waits.isdisjoint({row["broker_order_id"], row["order_id"]})]
    return left


async def _resting(world: World, broker: Broker, rows: list[dict[str, Any]]) -> set[str]:
    """Of these, the broker orders that the broker itself still holds open: they wait for a price, not for us."""
    ids = [row["broker_order_id"] for row in rows if row["status"] in {"ACKED", "PARTIALLY_FILLED"}]
    if not ids:
        return set()
    if broker is Broker.PAPER:
        found = await world.try_sql(
            "SELECT broker_order_id FROM paper_exchange.orders WHERE NOT done AND broker_order_id = ANY($1::text[])",
            ids,
        )
        return {row["broker_order_id"] for row in found or []}
    ledger = await world.try_admin("ledger") or []
    ends = {"COMPLETE", "CANCELLED", "REJECTED"}
    return {row["order_id"] for row in ledger if row["order_id"] in ids and row.get("status") not in ends}
