"""The only limiter of order commands to a broker: how many may leave in any second, in any minute and in a day.

Never lets more than `per_second` leave in any span of one second, so it holds for the calendar second of any server clock;
entries stop earlier than exits and cancels, by the reserve.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from math import inf

from core.brokers.port import BrokerProfile
from core.clock import trading_day, utc_now

GUARD_S = 0.05
"""A window lasts a little longer than its second or minute: a command may spend unequal time on its way to the server."""

SECOND_S = 1.0 + GUARD_S
MINUTE_S = 60.0 + GUARD_S


@dataclass(slots=True)
class _Window:
    """Sends of the last `span_s` seconds, oldest first."""

    span_s: float
    limit: int | None
    reserved: int
    sent: deque[float]

    def wait(self, now: float, urgent: bool) -> float:
        """Seconds until one more fits; 0 when it does now."""
        if self.limit is None:
            return 0.0
        while self.sent and self.sent[0] <= now - self.span_s:
            self.sent.popleft()
        room = self.limit if urgent else self.limit - self.reserved
        if room <= 0:
            return inf
        if len(self.sent) < room:
            return 0.0
        return self.sent[len(self.sent) - room] + self.span_s - now


class Budget:
    """The pure core: what may leave when. Times are seconds of one monotonic clock."""

    def __init__(self, profile: BrokerProfile) -> None:
        self._profile = profile
        self._windows = (
            _Window(SECOND_S, profile.per_second, profile.per_second_reserved, deque()),
            _Window(MINUTE_S, profile.per_minute, profile.per_minute_reserved, deque()),
        )
        self._day: date | None = None
        self._day_sent = 0

    @property
    def day_sent(self) -> int:
        return self._day_sent

    def preload(self, now: float, today: date, ages_s: Iterable[float], sent_today: int) -> None:
        """Count what was sent before us: each send's age in seconds, and how many this trading day."""
        sent = sorted(min(now - age, now) for age in ages_s)
        for window in self._windows:
            if window.limit is not None:
                window.sent = deque(sent)
        self._day, self._day_sent = today, sent_today

    def take(self, now: float, today: date, *, urgent: bool) -> float:
        """Take one token and return 0, or return the seconds to wait before asking again (inf: not today)."""
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
                window.sent.append(now)
        self._day_sent += 1
        return 0.0

    def give_back(self, at: float, day: date, *, left: bool) -> None:
        """The command of the token taken `at` that moment does not count for the day; nor for its second and minute, unless it left.

        Exactly that token: were a later one forgotten instead, its own second would seem over too early.
        """
        if day == self._day:
            self._day_sent = max(self._day_sent - 1, 0)
        if left:
            return
        for window in self._windows:
            if at in window.sent:  # else its time is over
                window.sent.remove(at)


@dataclass(frozen=True, slots=True)
class Turn:
    """Leave to send one command: when it was given, in seconds of the pacer's clock, and on which trading day."""

    at: float
    day: date


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
        self._waiting: dict[bool, deque[asyncio.Future[Turn]]] = {True: deque(), False: deque()}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def day_sent(self) -> int:
        """Commands counted for the present trading day."""
        return self._budget.day_sent

    def preload(self, *, ages_s: Iterable[float], today: int) -> None:
        """On taking the lease, from the journal: the age in seconds of each send of the last minute, and how many today."""
        self._budget.preload(self._clock(), self._today(), ages_s, today)

    async def acquire(self, urgent: bool, timeout_s: float = 2.0) -> Turn | None:
        """Wait for leave to send one command. None: not within `timeout_s`, so do not send."""
        turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._waiting[urgent].append(turn)
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

    def give_back(self, turn: Turn, *, left: bool = False) -> None:
        """The command did not leave, so that another may at once. `left`: it did, but reached no order desk: the day alone does
        not count it."""
        self._budget.give_back(turn.at, turn.day, left=left)
        self._serve()

    def _serve(self) -> None:
        """Give to whoever may go now, and come back when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for urgent in (True, False):
            queue = self._waiting[urgent]
            while queue:
                if queue[0].done():
                    queue.popleft()
                    continue
                now, today = self._clock(), self._today()
                wait = self._budget.take(now, today, urgent=urgent)
                if wait > 0:
                    if wait < inf:
                        self._timer = asyncio.get_running_loop().call_later(wait, self._serve)
                    return
                queue.popleft().set_result(Turn(now, today))
