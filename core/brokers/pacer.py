"""The only limiter of order commands to a broker: how many may leave in any second, in any minute and in a day.

Never lets more than `per_second` reach the broker in any span of one second, so it holds for the calendar second of any server clock;
entries stop earlier than exits and cancels, by the reserve.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from math import inf

from core.brokers.port import BrokerProfile
from core.clock import trading_day, utc_now

GUARD_S = 0.05
"""A window lasts a little longer than its second or minute: a command may spend unequal time on its way to the server."""

SECOND_S = 1.0 + GUARD_S
MINUTE_S = 60.0 + GUARD_S


REACH_S = 0.5
"""A command whose first byte has left reaches the broker within this, or before its answer."""

LOOK_AGAIN_S = 0.02
"""How soon it is looked again where room depends on commands that have not left yet."""


@dataclass(slots=True, eq=False)
class Turn:
    """Leave to send one command, given `at` that moment of the pacer's clock (seconds) and on that trading day.

    `reached` is when the command is at the broker at the latest. None: its asker holds it and has not sent yet; it counts all the while,
    for a machine that stalls in between would else let the commands of several seconds leave in one.
    """

    at: float
    day: date
    reached: float | None

    def leaves(self) -> None:
        """The command's first byte leaves now. From any thread."""
        self.reached = time.monotonic() + REACH_S


NEVER_LEFT = frozenset({"NOT_SENT", "UNREACHABLE"})
"""Refusals of our own side of the wire: not a byte reached the broker, so its limits did not count it."""


@dataclass(slots=True, eq=False)
class Held:
    """A turn held until its command has left or will not (`Pacer.held`). `used`: a command may have left under it."""

    pacer: Pacer
    turn: Turn
    used: bool = False

    def refused(self, code: str) -> None:
        """The command was certainly not placed: how far it came, its code says (core.errors.NotPlaced)."""
        if code in NEVER_LEFT:
            self.used = False
        elif code != "RATE_LIMITED":  # it reached no order desk: trying again for hours must not use up the day
            self.pacer.give_back(self.turn, left=True)

    def end(self) -> None:
        if self.used:
            self.pacer.answered(self.turn)
        else:
            self.pacer.give_back(self.turn)


@dataclass(slots=True)
class _Window:
    """Sends of the last `span_s` seconds."""

    span_s: float
    limit: int | None
    reserved: int
    sent: list[Turn]

    def wait(self, now: float, urgent: bool) -> float:
        """Seconds until one more fits; 0 when it does now."""
        if self.limit is None:
            return 0.0
        self.sent = [turn for turn in self.sent if turn.reached is None or turn.reached > now - self.span_s]
        room = self.limit if urgent else self.limit - self.reserved
        if room <= 0:
            return inf
        if len(self.sent) < room:
            return 0.0
        ends = sorted(inf if turn.reached is None else turn.reached + self.span_s - now for turn in self.sent)
        wait = ends[len(self.sent) - room]
        return LOOK_AGAIN_S if wait == inf else wait


class Budget:
    """The pure core: what may leave when. Times are seconds of one monotonic clock."""

    def __init__(self, profile: BrokerProfile) -> None:
        self._profile = profile
        self._windows = (
            _Window(SECOND_S, profile.per_second, profile.per_second_reserved, []),
            _Window(MINUTE_S, profile.per_minute, profile.per_minute_reserved, []),
        )
        self._day: date | None = None
        self._day_sent = 0

    @property
    def day_sent(self) -> int:
        return self._day_sent

    def preload(self, now: float, today: date, ages_s: Iterable[float], sent_today: int) -> None:
        """Count what was sent before us: each send's age in seconds, and how many this trading day."""
        sent = [Turn(moment, today, moment) for moment in sorted(min(now - age, now) for age in ages_s)]
        for window in self._windows:
            if window.limit is not None:
                window.sent = list(sent)
        self._day, self._day_sent = today, sent_today

    def take(self, now: float, today: date, *, urgent: bool, turn: Turn | None = None) -> float:
        """Take one token and return 0, or return the seconds to wait before asking again (inf: not today). `turn` stands for it."""
        if today != self._day:
            self._day, self._day_sent = today, 0
        profile = self._profile
        if profile.per_day is not None:
            room = profile.per_day if urgent else profile.per_day - profile.per_day_reserved
            if self._day_sent >= room:
                return inf
        wait = max(window.wait(now, urgent) for window in self._windows)
        if wait > 0:
            return wait
        for window in self._windows:
            if window.limit is not None:
                window.sent.append(turn or Turn(now, today, now))
        self._day_sent += 1
        return 0.0

    def give_back(self, turn: Turn, *, left: bool) -> None:
        """This token's command does not count for the day; nor for its second and minute, unless it left.

        Exactly that token: were a later one forgotten instead, its own second would seem over too early.
        """
        if turn.day == self._day:
            self._day_sent = max(self._day_sent - 1, 0)
        if left:
            return
        for window in self._windows:
            window.sent = [one for one in window.sent if one is not turn]


@dataclass(frozen=True, slots=True)
class _Asker:
    turn: asyncio.Future[Turn]
    holds: bool


class Pacer:
    """Hands out the budget to those who wait, urgent ones first, then in the order they came."""

    def __init__(
        self,
        profile: BrokerProfile,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], date] = lambda: trading_day(utc_now()),
    ) -> None:
        self._budget = Budget(profile)
        self._clock = clock
        self._today = today
        self._waiting: dict[bool, deque[_Asker]] = {True: deque(), False: deque()}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def day_sent(self) -> int:
        """Commands counted for the present trading day."""
        return self._budget.day_sent

    def preload(self, *, ages_s: Iterable[float], today: int) -> None:
        """On taking the lease, from the journal: the age in seconds of each send of the last minute, and how many today."""
        self._budget.preload(self._clock(), self._today(), ages_s, today)

    async def acquire(self, urgent: bool, timeout_s: float = 2.0, *, holds: bool = False) -> Turn | None:
        """Wait for leave to send one command. None: not within `timeout_s`, so do not send.

        `holds`: the asker says when the command leaves (`Turn.leaves`), and must end its turn with `answered` or `give_back`; without,
        it is taken to leave at once.
        """
        turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._waiting[urgent].append(_Asker(turn, holds))
        self._serve()
        if turn.done():
            return turn.result()
        try:
            await asyncio.wait({turn}, timeout=timeout_s)
        except asyncio.CancelledError:
            if turn.done():
                self.give_back(turn.result())
            raise
        finally:
            if not turn.done():
                turn.cancel()
                self._serve()
        return None if turn.cancelled() else turn.result()

    @asynccontextmanager
    async def held(self, *, urgent: bool, timeout_s: float = 2.0) -> AsyncIterator[Held | None]:
        """A turn for one command, counted until that has reached the broker: set `used` before it may leave. None: as `acquire`."""
        turn = await self.acquire(urgent, timeout_s, holds=True)
        if turn is None:
            yield None
            return
        held = Held(self, turn)
        try:
            yield held
        finally:
            held.end()

    def give_back(self, turn: Turn, *, left: bool = False) -> None:
        """The command did not leave, so that another may at once. `left`: it did, but reached no order desk: the day alone does
        not count it."""
        self._budget.give_back(turn, left=left)
        self._serve()

    def answered(self, turn: Turn) -> None:
        """What became of a held turn's command is known, or will be no better known: it is at the broker by now, if it left."""
        now = self._clock()
        turn.reached = now if turn.reached is None else min(turn.reached, now)
        self._serve()

    def _serve(self) -> None:
        """Give to whoever may go now, and come back when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for urgent in (True, False):
            queue = self._waiting[urgent]
            while queue:
                if queue[0].turn.done():
                    queue.popleft()
                    continue
                now, today = self._clock(), self._today()
                turn = Turn(now, today, None if queue[0].holds else now)
                wait = self._budget.take(now, today, urgent=urgent, turn=turn)
                if wait > 0:
                    if wait < inf:
                        self._timer = asyncio.get_running_loop().call_later(wait, self._serve)
                    return
                queue.popleft().turn.set_result(turn)
