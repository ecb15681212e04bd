"""What the pages show, read once for everybody who looks: each fact again when an event says it changed, and at the latest after its
own time. Reads nothing while nobody looks, and never lets one page's trouble keep another from its figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from api.hub import RESYNC, Event, EventHub, Full
from core import logging
from core.errors import AlphaPandaError

SETTLE_S = 0.1
"""After an event: the views and the read model are written by other processes that read the same log."""
AGAIN_S = 0.8
"""And once more, for the one that was slower."""
LEAST_S = 0.25
"""Between two readings of one fact: four a second is plenty for a person."""

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a fact comes from. `events`: types (prefixes) that change it. `every_s`: read again at the latest then."""

    load: Callable[[], Awaitable[Any]]
    events: tuple[str, ...]
    every_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A fact as last read. `away`: why it could not be read just now; `value` is then the last one, None if there never was any."""

    value: Any
    away: str = ""


Shown = Callable[[Seen], None]
Watcher = tuple[object, object]
"""(the page, which of its pieces)"""


class _Fact:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen: Seen | None = None
        self.read_at = float("-inf")
        self.due = 0.0
        self.again: float | None = None
        self.watchers: dict[Watcher, Shown] = {}
        self.reading = asyncio.Lock()

    def touched(self, now: float) -> None:
        self.due = min(self.due, max(now + SETTLE_S, self.read_at + LEAST_S))
        self.again = now + AGAIN_S

    async def read(self, newer_than: float) -> bool:
        """Whether it is another than before. Whoever waits for a reading that began after `newer_than` shares it."""
        async with self.reading:
            if self.read_at > newer_than:
                return False
            began = time.monotonic()
            before = self.seen
            try:
                self.seen = Seen(await self.source.load())
            except AlphaPandaError as error:
                self.seen = Seen(before.value if before else None, str(error))
            self.read_at = began
            self.due = time.monotonic() + self.source.every_s
            if self.again is not None:
                self.due, self.again = min(self.due, self.again), None
            return self.seen != before


class Live:
    """One of these a process. A task runs while somebody watches."""

    def __init__(self, hub: EventHub, sources: dict[str, Source], rest: Callable[[], Awaitable[None]]) -> None:
        """`rest` is called when the last watcher has gone."""
        self._hub = hub
        self._rest = rest
        self._facts = {name: _Fact(source) for name, source in sources.items()}
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._rest()

    @property
    def watched(self) -> bool:
        return any(fact.watchers for fact in self._facts.values())

    async def get(self, name: str) -> Seen:
        """The fact as the pages have it now; read where nobody looked lately."""
        fact = self._facts[name]
        now = time.monotonic()
        if fact.seen is None or not fact.watchers or now > fact.due:
            await fact.read(now - LEAST_S)
        assert fact.seen is not None
        return fact.seen

    async def watch(self, name: str, key: Watcher, shown: Shown) -> None:
        """Show it now and whenever it changes, until its page leaves."""
        seen = await self.get(name)
        fact = self._facts[name]
        fact.watchers[key] = shown
        shown(seen)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="dashboard facts")

    def leave(self, owner: object) -> None:
        """The page is gone: nothing is shown to it any more."""
        for fact in self._facts.values():
            for key in [key for key in fact.watchers if key[0] is owner]:
                del fact.watchers[key]

    def touch(self, *names: str) -> None:
        """Somebody just changed these: read them soon."""
        for name in names:
            self._facts[name].touched(time.monotonic())

    async def _run(self) -> None:
        while self.watched:
            try:
                with self._hub.listening() as listener:
                    await self._follow(listener.events)
            except Full:
                await asyncio.sleep(1.0)  # the API's own streams took every place; the facts' own times still hold
                await self._read_due()
        await self._rest()

    async def _follow(self, events: asyncio.Queue[Event | None]) -> None:
        while self.watched:
            due = min(fact.due for fact in self._facts.values() if fact.watchers)
            try:
                async with asyncio.timeout(max(due - time.monotonic(), 0)):
                    event = await events.get()
            except TimeoutError:
                await self._read_due()
                continue
            if event is None:
                return
            self._touched_by(event)

    def _touched_by(self, event: Event) -> None:
        now = time.monotonic()
        for fact in self._facts.values():
            if fact.watchers and (event.type == RESYNC or event.type.startswith(fact.source.events)):
                fact.touched(now)

    async def _read_due(self) -> None:
        now = time.monotonic()
        await asyncio.gather(*(self._tell(fact) for fact in self._facts.values() if fact.watchers and fact.due <= now))

    async def _tell(self, fact: _Fact) -> None:
        try:
            changed = await fact.read(fact.read_at)
        except Exception as error:
            log.error("a fact of the dashboard cannot be read", error=repr(error))
            fact.due = time.monotonic() + 5.0
            return
        if not changed or fact.seen is None:
            return
        for key, shown in list(fact.watchers.items()):
            with contextlib.suppress(KeyError):
                try:
                    shown(fact.seen)
                except Exception as error:  # one page's own mistake, told in the log; the others go on
                    log.error("a page cannot show a fact", error=repr(error))
                    del fact.watchers[key]
