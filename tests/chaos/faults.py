"""The faults the sandbox is told to have, drawn from the seed before the run; given when their time comes, taken away at the end.

Delays are the sheet's own divided by the run's factor wherever a proof of absence waits for them. Paper has no such faults: it is
killed and frozen instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sandbox.fault_kinds import CATALOGUE, Family, FaultKind
from tests.chaos.home import FACTOR
from tests.chaos.plan import universe
from tests.chaos.world import World, until

EVERY_S = 4.0
"""Between two rules, on average."""

LATEST_IN_BOOK_S = 60.0 / FACTOR
PAST_DEADLINE_S = 9.0
"""Longer than the seven seconds a call may take, which no factor divides."""

PLANNED_REFUSAL = "chaos: planned refusal"
LOGIN_S = 3.0

LEFT_OUT = {
    FaultKind.DAY_ROLLED: "empties the book under open orders, which then wait for a person by design",
    FaultKind.FILL_RACES_CANCEL: "the run cancels nothing",
    FaultKind.FILL_AFTER_CANCELLED: "needs a cancel; given beside cancelled_in_app",
}
"""Kinds that no rule of their own is drawn for, and why."""


@dataclass(frozen=True, slots=True)
class Given:
    """One rule and when it is given, seconds from the beginning."""

    at_s: float
    rule: dict[str, Any] = field(hash=False)

    @property
    def kind(self) -> FaultKind:
        return FaultKind(self.rule["kind"])


def plan(seed: int, lasts_s: float) -> list[Given]:
    """Rules for a run of that length: every kind in turn, in an order drawn from the seed, as often as time allows."""
    random = Random(f"{seed}:faults")
    found: list[Given] = []
    at = 2.0
    for kind in _turns(random):
        at += random.uniform(0.5, 1.5) * EVERY_S
        if at >= lasts_s:
            return found
        for rule in _rules(kind, random, len(found)):
            found.append(Given(round(at, 2), rule))
    return found


def _turns(random: Random) -> Iterator[FaultKind]:
    while True:
        kinds = [kind for kind in FaultKind if kind not in LEFT_OUT]
        random.shuffle(kinds)
        yield from kinds


def _rules(kind: FaultKind, random: Random, number: int) -> Iterator[dict[str, Any]]:
    """A rule of a kind as POST /admin/faults takes it."""
    rule: dict[str, Any] = {"id": f"chaos-{number}-{kind.value}", "kind": kind.value}
    family = CATALOGUE[kind].family
    if family is Family.ANSWER:
        rule |= {"count": random.randint(1, 3), "rate": random.choice([1.0, 0.5])}
    elif family is Family.VIEW:
        rule |= {"for_s": round(random.uniform(1.0, 4.0), 1)}
    elif family is Family.ORDER:
        rule |= {"count": random.randint(1, 3)}
    elif family is Family.UPDATE:
        rule |= {"rate": 0.5, "for_s": 8.0}
    elif family is Family.SOCKET:
        rule |= {"count": 1 if kind is not FaultKind.CLOCK_SKEW else 5}
    rule |= _parameters(kind, random)
    yield rule
    if kind is FaultKind.CANCELLED_IN_APP:
        yield {
            "id": f"chaos-{number}-late-fill",
            "kind": FaultKind.FILL_AFTER_CANCELLED.value,
            "count": 1,
            "delay_s": 0.5,
        }


def _parameters(kind: FaultKind, random: Random) -> dict[str, Any]:
    some_share = random.choice(universe()).key
    fixed: dict[FaultKind, dict[str, Any]] = {
        FaultKind.ANSWER_LOST: {"delay_s": PAST_DEADLINE_S},
        FaultKind.REQUEST_LOST: {"delay_s": PAST_DEADLINE_S},
        FaultKind.SLOW_ANSWER: {"delay_s": PAST_DEADLINE_S},
        FaultKind.SLOW_ACCEPT: {"delay_s": round(random.uniform(0.5, LATEST_IN_BOOK_S), 2)},
        FaultKind.LATE_IN_BOOK: {"delay_s": 0.1, "delay_max_s": LATEST_IN_BOOK_S},
        FaultKind.STUCK_RECEIVED: {"delay_s": 90 / FACTOR},
        FaultKind.SOCKET_MUTE: {"delay_s": 8.0, "count": 1},
        FaultKind.SESSION_KILLED: {"count": 1, "rate": 1.0},
        FaultKind.SANDBOX_KILLED: {"count": 1, "rate": 1.0, "accepted": random.random() < 0.5},
        FaultKind.ERROR: {
            "error_type": random.choice(["InputException", "MarginException", "NetworkException", "GeneralException"]),
            "message": PLANNED_REFUSAL,
            "count": 1,
        },
        FaultKind.FOREIGN_ORDER: {"now": True, "symbol": some_share, "side": "BUY", "quantity": 3},
        FaultKind.FOREIGN_POSITION: {"symbol": some_share, "quantity": 7},
        FaultKind.RMS_SQUARE_OFF: {"count": 1},
    }
    if "accepted" in CATALOGUE[kind].defaults and kind not in fixed:
        return {"accepted": random.random() < 0.5}
    extra = fixed.get(kind, {})
    if kind is FaultKind.FOREIGN_ORDER:
        return extra | {"count": 1}
    return extra


class Injector:
    """Gives each rule when it is due; a sandbox that is down gets it as soon as it is up."""

    def __init__(self, world: World, seed: int, lasts_s: float) -> None:
        self._world = world
        self.rules = plan(seed, lasts_s)
        self.given = 0
        self.logins = 0

    def dump(self) -> str:
        return json.dumps([{"at_s": one.at_s, **one.rule} for one in self.rules], indent=0)

    async def run(self, stop: asyncio.Event) -> None:
        """Until all are given or the run ends; then every rule is taken away and the session is alive."""
        person = asyncio.create_task(self._log_in_again())
        try:
            await self._run(stop)
        finally:
            person.cancel()
        await self._login()

    async def _run(self, stop: asyncio.Event) -> None:
        began = time.monotonic()
        for one in self.rules:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(one.at_s - (time.monotonic() - began), 0))
            if stop.is_set():
                break
            await self._give(one)
        await stop.wait()
        await until(lambda: self._world.try_admin("faults", method="DELETE"), 60, 0.5)

    async def _give(self, one: Given) -> None:
        if await until(lambda: self._world.try_admin("faults", one.rule), 60) is None:
            self._world.log.write("fault not given: the sandbox is away", **one.rule)
            return
        self.given += 1
        self._world.log.write("fault given", **one.rule)

    async def _log_in_again(self) -> None:
        """A person who logs in a few seconds after the session died, whenever that is."""
        while True:
            status = await self._world.try_admin("status")
            if status is not None and not status["session"]["active"]:
                await asyncio.sleep(LOGIN_S)
                await self._login()
            await asyncio.sleep(1)

    async def _login(self) -> None:
        done = await asyncio.to_thread(self._world.system.command, "login", check=False)
        self.logins += 1
        self._world.log.write("login", code=done.returncode, said=(done.stdout + done.stderr)[-300:])
