"""Waiting for a part that is away: seen in health, one log line a minute, and the same step tried again until it works.

Never gives up by itself and never swallows anything but Transient.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator

from core import logging
from core.errors import Transient
from core.health import HealthReporter

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 2.0
LOG_EVERY_S = 60.0

_SPELLED = {"postgresql": "postgres"}

log = logging.get(__name__)


def part_of(error: Transient) -> str:
    """The part that is away: what the error names, else the first word of its message."""
    if error.part:
        return error.part
    words = str(error).split(maxsplit=1)
    name = words[0].strip(":,.").lower() if words else "part"
    return _SPELLED.get(name, name)


def pauses() -> Iterator[float]:
    """Seconds between tries: 0.2, doubling to 2, for ever."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE_S)


async def pause(seconds: float, *wakers: asyncio.Event) -> bool:
    """Sleep, or wake early. Returns whether one of the events was set."""
    if not wakers:
        await asyncio.sleep(seconds)
        return False
    waits = [asyncio.ensure_future(event.wait()) for event in wakers]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return any(event.is_set() for event in wakers)


class Waiting:
    """Who waits for which part. A part is well again in health when the last one waiting for it goes on."""

    def __init__(self, health: HealthReporter) -> None:
        self._health = health
        self._who: dict[str, dict[str, str]] = {}
        self._since: dict[str, float] = {}
        self._logged: dict[str, float] = {}

    def on(self, part: str, reason: str, who: str = "") -> None:
        """`who` waits for `part`, or still does."""
        now = time.monotonic()
        waiters = self._who.setdefault(part, {})
        waiters[who] = reason
        self._since.setdefault(part, now)
        self._health.waiting(part, reason)
        if now - self._logged.get(part, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged[part] = now
            log.warning(
                "waiting",
                part=part,
                reason=reason,
                held=sorted(name for name in waiters if name),
                for_s=round(now - self._since[part], 1),
            )

    def over(self, part: str, who: str = "") -> None:
        """`who` goes on; does nothing if it was not waiting."""
        waiters = self._who.get(part)
        if waiters is None or waiters.pop(who, None) is None:
            return
        if waiters:
            self._health.waiting(part, next(iter(waiters.values())))
            return
        del self._who[part]
        log.info("goes on", part=part, waited_s=round(time.monotonic() - self._since.pop(part), 1))
        self._health.well(part)

    def gone(self, who: str, but: str = "") -> None:
        """`who` no longer waits for anything, except perhaps for the part `but`."""
        for part in [part for part, waiters in self._who.items() if who in waiters and part != but]:
            self.over(part, who)

    @contextlib.contextmanager
    def mended(self, part: str, who: str = "") -> Iterator[None]:
        """Run a step that proves `part` well: over when it passes, on when it raises Transient (which goes through)."""
        try:
            yield
        except Transient as error:
            self.on(part, str(error), who)
            raise
        self.over(part, who)


async def until_well(
    waiting: Waiting, part: str, probe: Callable[[], Awaitable[None]], stop: asyncio.Event, who: str = ""
) -> bool:
    """Try `probe` until it no longer raises Transient. False: `stop` was set first."""
    for seconds in pauses():
        if stop.is_set():
            break
        with contextlib.suppress(Transient), waiting.mended(part, who):
            await probe()
            return True
        await pause(seconds, stop)
    waiting.over(part, who)
    return False
