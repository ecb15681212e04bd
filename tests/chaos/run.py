"""One run from its plan to its verdict: write the plan down, trade under faults and blows, settle, judge, tell.

The plan is on disk before the first signal; what the referee finds decides the exit code, nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from core.clock import utc_now
from core.trading.types import Broker
from docker.native.layout import write_private
from tests.chaos import blows, facts, paper_check, plan, referee, saved, scoreboard
from tests.chaos.blows import Hand
from tests.chaos.drive import Driver, Watch
from tests.chaos.faults import Injector
from tests.chaos.person import Person
from tests.chaos.settle import settle
from tests.chaos.verdict import Breach
from tests.chaos.world import World
from tests.fixtures.system import System

SLOWEST = 0.5
A_CORE = 1.0
"""Intents a second that one core bears beside the market, the kills and the faults: faster, what is struck does not come back in time."""

LASTS_S = 400.0
"""A run is paced so that every part can be killed and frozen once, as far as its orders allow."""

TELL_S = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    orders: int
    seed: int
    rate: float | None
    kills: bool
    faults: bool
    parts: tuple[str, ...]
    keep: bool
    docs: bool

    @property
    def pace(self) -> float:
        """Intents a second over both brokers."""
        return self.rate or round(min(max(self.orders / LASTS_S, SLOWEST), A_CORE * (os.cpu_count() or 1)), 2)

    @property
    def command(self) -> str:
        extra = [f"--rate {self.pace:g}"]  # always: what is due when depends on it, and its default on the machine
        extra += [f"--parts {','.join(self.parts)}"] if self.parts else []
        extra += [f"--no-{name}" for name, on in (("kills", self.kills), ("faults", self.faults)) if not on]
        return f'make chaos ORDERS={self.orders} SEED={self.seed} ARGS="{" ".join(extra)}"'


class Run:
    """`go` returns the exit code."""

    def __init__(self, system: System, options: Options) -> None:
        self.world = World(system)
        self.options = options
        self.console = Console(highlight=False)
        self.watch = Watch(self.world)
        self.plan = plan.make(options.orders, options.seed, options.pace, utc_now())
        self.driver = Driver(self.world, self.plan, self.watch)
        self.hand = Hand(self.world, blows.plan(list(options.parts) or self.world.parts, options.seed))
        self.injector = Injector(self.world, options.seed, options.orders / options.pace)

    async def go(self) -> int:
        write_private(self.world.settings.home / "intents.json", self.plan.dump())
        write_private(self.world.settings.home / "faults.json", self.injector.dump())
        self.console.print(
            f"chaos: {self.options.orders} orders at {self.options.pace:g}/s, seed {self.options.seed}, "
            f"{len(plan.universe())} instruments, home {self.world.settings.home}"
        )
        began = time.monotonic()
        desk = asyncio.create_task(Person(self.world).run())
        await self._trade()
        traded_s = time.monotonic() - began
        self.console.print("settling: everything thawed, faults off, waiting for every order to end")
        left = await settle(self.world)
        desk.cancel()
        for kind, rows in left.items():
            if rows:
                self.console.print(f"[red]still open after the bound: {len(rows)} {kind}[/]: {rows[:3]}")
        told = await self._judge(traded_s)
        await self.world.close()
        return told

    async def _trade(self) -> None:
        stop = asyncio.Event()
        background = [asyncio.create_task(self.watch.run())]
        blowing = asyncio.create_task(self.hand.run(stop)) if self.options.kills else None
        injecting = asyncio.create_task(self.injector.run(stop)) if self.options.faults else None
        try:
            with self._progress():
                await self.driver.run()
                stop.set()
                for task in (blowing, injecting):
                    if task is not None:
                        await task
        finally:
            stop.set()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            blows.thaw_all(self.world.system)

    # telling ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _progress(self) -> Iterator[None]:
        task = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            task.cancel()

    async def _tell(self) -> None:
        live = self.console.is_terminal
        status = self.console.status("") if live else None
        if status is not None:
            status.start()
        began, said = time.monotonic(), 0.0
        try:
            while True:
                elapsed = time.monotonic() - began
                if status is not None:
                    status.update(self._line(elapsed))
                elif elapsed - said >= TELL_S:
                    said = elapsed
                    self.console.print(self._line(elapsed), soft_wrap=True)
                await asyncio.sleep(0.5)
        finally:
            if status is not None:
                status.stop()

    def _line(self, elapsed: float) -> str:
        watch, wanted = self.watch, self.options.orders // len(Broker)
        parts = [
            f"{broker} {watch.claimed[broker]}/{wanted} sent, {watch.open[broker]} open, {watch.unknown[broker]} unknown"
            for broker in Broker
        ]
        struck = f"{len(self.hand.outcomes)} blows{', ' + self.hand.now if self.hand.now else ''}"
        return f"{elapsed:5.0f} s  {' · '.join(parts)} · {struck} · {self.injector.given} faults given"

    # the verdict -----------------------------------------------------------------------------------------------------

    async def _judge(self, traded_s: float) -> int:
        gathered = await facts.gather(self.world)
        saved.keep(self.world.settings.home, self.plan.intents, self.driver.published, gathered)
        verdict = referee.judge(self.plan.intents, self.driver.published, gathered)
        verdict.breaches += [Breach(Broker.PAPER, told) for told in await paper_check.apart(self.world.settings.home)]
        for outcome in self.hand.outcomes:
            if outcome.recovery_s is None:
                told = f"not well {blows.WELL_S:.0f} s after {outcome.blow.action} of {outcome.blow.part}"
                verdict.breaches.append(Breach(Broker.PAPER, f"{told}: {outcome}"))
        for number, breach in enumerate(verdict.breaches):
            self.console.print(f"[red]BREACH[/] {breach.broker} {breach.order_id or ''} {breach.what}", soft_wrap=True)
            case = (self.plan.intents, self.driver.published, gathered)
            for line in saved.told(number, breach.order_id, breach.broker, *case, self.world.stack.layout.log):
                self.console.print(line, soft_wrap=True, markup=False)
        board = scoreboard.board(self, verdict, traded_s)
        self.console.print(board, markup=False, soft_wrap=True)
        if self.options.docs:
            scoreboard.write(board)
        short = [broker for broker in Broker if verdict.claimed[broker] < self.options.orders // len(Broker)]
        if short:
            self.console.print(
                f"[red]too few sends were claimed of {', '.join(short)}: the list of intents is used up[/]"
            )
        for broker in verdict.too_many_unsent:
            told = f"{verdict.beyond_plan[broker]} of {verdict.published[broker]} intents of {broker}"
            self.console.print(f"[red]{told} ended unsent beyond the plan: more than 5 %[/]")
        return 1 if verdict.breaches or short or verdict.too_many_unsent else 0
