"""What happens, as it happens: follows the log and hands every event to whoever listens, with a tail for those who come back.

Never waits for a slow listener: it is told to begin anew. Holds a bounded tail in memory and commits nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from api.models import Part
from api.probes import Prober
from core import logging
from core.clock import utc_now
from core.config import Settings
from core.errors import AlphaPandaError
from core.events import topics
from core.ids import new_id
from core.messaging import lag
from core.messaging.reader import LogReader
from core.messaging.records import Record

KEPT = 5_000
"""Events for those who come back with the last id they saw."""
KEPT_ALERTS = 500
BEFORE = 200
"""Records a partition read again at the start, so that a restart of ours is no gap for them."""
MOST_LISTENERS = 300
WAITING = 2_000
"""Events a listener may be behind."""
OVERLAP = timedelta(seconds=2)
"""Partitions have no order among each other: whoever comes back gets these seconds again, and knows events by their id."""
RETRY_S = 2.0
HEALTH_S = 2.0

HEALTH, RESYNC = "health", "resync"

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it is sent: `data` is one line of JSON."""

    event_id: str
    type: str
    at: datetime
    data: str


class Full(AlphaPandaError):
    """As many listen as may."""


class Listener:
    """One subscription. `types` are prefixes (`order.`, `alert`); none means all."""

    def __init__(self, types: tuple[str, ...]) -> None:
        self.types = types
        self.events: asyncio.Queue[Event | None] = asyncio.Queue(WAITING)
        self.lost = False

    def wants(self, event: Event) -> bool:
        return not self.types or event.type.startswith(self.types)

    def offer(self, event: Event) -> None:
        if self.lost or not self.wants(event):
            return
        try:
            self.events.put_nowait(event)
        except asyncio.QueueFull:
            self.lost = True


class EventHub:
    """One of these an API process."""

    def __init__(self, settings: Settings, prober: Prober) -> None:
        self._settings = settings
        self._prober = prober
        self._tail: deque[Event] = deque(maxlen=KEPT)
        self._alerts: deque[Event] = deque(maxlen=KEPT_ALERTS)
        self._known: set[str] = set()
        self._listeners: set[Listener] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.following = False

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._follow(), name="follow the log"),
            asyncio.create_task(self._watch_health(), name="watch health"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            with contextlib.suppress(asyncio.QueueFull):
                listener.events.put_nowait(None)

    def alerts(self) -> list[Event]:
        """The last alerts, newest first."""
        return sorted(self._alerts, key=lambda event: event.at, reverse=True)

    @contextlib.contextmanager
    def listening(self, types: Iterable[str] = (), last_id: str | None = None) -> Iterator[Listener]:
        """A subscription from now on, or from the event seen last. An id too old to know begins with `resync`.

        Raises:
            Full: too many listen.
        """
        if len(self._listeners) >= MOST_LISTENERS:
            raise Full(f"{MOST_LISTENERS} listen already: try again later")
        listener = Listener(tuple(types))
        if last_id:
            for event in self._after(last_id):
                listener.offer(event)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _after(self, last_id: str) -> list[Event]:
        seen = next((event for event in self._tail if event.event_id == last_id), None)
        if seen is None:
            return [_own(RESYNC, {"why": "the event you saw last is no longer here: read everything anew"})]
        return [event for event in self._tail if event.at >= seen.at - OVERLAP and event.event_id != last_id]

    def tell(self, event: Event) -> None:
        """Keep it and hand it to everyone who wants it; an event told before is not told again."""
        if event.event_id in self._known:
            return
        if len(self._tail) == KEPT:
            self._known.discard(self._tail[0].event_id)
        self._known.add(event.event_id)
        self._tail.append(event)
        if event.type == "alert":
            self._alerts.append(event)
        for listener in self._listeners:
            listener.offer(event)

    # the log -------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """For ever: what is away now is followed again once it is back."""
        offsets: dict[tuple[str, int], int] | None = None
        while True:
            reader = LogReader(self._settings, client_id="api-events", topics=_topics(self._settings))
            try:
                offsets = offsets if offsets is not None else await self._begin()
                await reader.start(offsets)
                self.following = True
                while True:
                    for record in await reader.read(1.0):
                        offsets[record.topic, record.partition] = record.offset + 1
                        self._told(record)
            except AlphaPandaError as error:
                if self.following:
                    log.warning("not following the log", reason=str(error))
                self.following = False
            except Exception:
                # Told whole, shown as not following, tried again: one bad moment ends no live page for good.
                log.exception("following the log failed; trying again")
                self.following = False
            finally:
                await reader.stop()
            await asyncio.sleep(RETRY_S)

    async def _begin(self) -> dict[tuple[str, int], int]:
        """A little before the end of each partition; alerts from further back."""
        first, end = await lag.bounds(self._settings, _topics(self._settings))
        before = {topics.ALERTS: KEPT_ALERTS}
        return {
            (where.topic, where.partition): max(first[where], offset - before.get(where.topic, BEFORE))
            for where, offset in end.items()
        }

    def _told(self, record: Record) -> None:
        """By its headers: whoever listens reads the body, and what cannot be read is a dead letter by now."""
        name, kind = record.headers.get("id", b"").decode(), record.headers.get("type", b"").decode()
        if name and kind:
            at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
            self.tell(Event(name, kind, at, record.value.decode(errors="replace")))

    # health --------------------------------------------------------------------------------------------------------

    async def _watch_health(self) -> None:
        """While somebody listens, say when what is ready changes."""
        before: list[Part] | None = None
        while True:
            if self._listeners:
                found = await self._prober.ready()  # never raises: what goes wrong is the part's reason
                now = found.parts
                if before is not None and now != before:
                    self.tell(_own(HEALTH, found.model_dump(mode="json")))
                before = now
            await asyncio.sleep(HEALTH_S)


def _own(kind: str, data: object) -> Event:
    """An event of this process, not of the log."""
    now = utc_now()
    event_id = str(new_id())
    body = {"id": event_id, "type": kind, "ts": now.isoformat(), "data": data}
    return Event(event_id, kind, now, json.dumps(body))


def _topics(settings: Settings) -> list[str]:
    rows = [topics.ALERTS, topics.CONFIG_CHANGES]
    for broker in settings.active_brokers:
        rows += [topics.signals_validated(broker), topics.signals_rejected(broker), *topics.order_topics(broker)]
        rows += [topics.pnl_snapshots(broker), topics.reconciliations(broker)]
    return rows


async def wire(listener: Listener, keep_alive_s: float) -> AsyncIterator[bytes]:
    """The subscription as server-sent events (html.spec.whatwg.org, section 9.2), a comment where nothing happens."""
    yield b"retry: 2000\n\n"
    while True:
        if listener.lost:
            yield _lines(_own(RESYNC, {"why": "you were too slow: read everything anew"}))
            return
        try:
            async with asyncio.timeout(keep_alive_s):
                event = await listener.events.get()
        except TimeoutError:
            yield b": alive\n\n"
            continue
        if event is None:
            return
        yield _lines(event)


def _lines(event: Event) -> bytes:
    data = event.data.replace("\r", " ").replace("\n", " ")
    return f"id: {event.event_id}\nevent: {event.type}\ndata: {data}\n\n".encode()
