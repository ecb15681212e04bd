"""Between the WebSocket and the log: a bounded buffer that never makes the socket wait. Full, it drops the oldest and counts.

Whatever is dropped is announced as a gap before the next tick goes out, so nobody takes the rest for complete.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from core import logging, metrics
from core.clock import utc_now
from core.errors import Transient
from core.events.envelope import Envelope
from core.events.topics import MARKET_TICKS
from core.messaging.producer import Delivery, EventProducer
from core.waiting import Waiting
from streams.feed_codec import Encoded, encode_tick, gap_event

CAPACITY = 20_000
"""Ticks held while the log is slow or away (four seconds of the fastest feed)."""

HINT_CAPACITY = 5_000
MAX_OPEN = 5_000
"""Messages handed to the producer and not yet acknowledged."""

STALL_S = 3.0
RETRY_S = 0.5
FLUSH_S = 4.0
PART = "kafka"

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class _TickItem:
    instrument_token: int
    packet: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class _Ready:
    """A message that is complete already. `tick` is what a failure would lose; `gap` what a drop would hide."""

    topic: str
    encoded: Encoded
    tick: _TickItem | None = None
    gap: tuple[int, datetime, datetime] | None = None


class Outbox:
    """One publisher task (`run`) empties what the socket's callbacks put in."""

    def __init__(self, producer: EventProducer, waiting: Waiting, *, capacity: int = CAPACITY) -> None:
        self._producer = producer
        self._waiting = waiting
        self._capacity = capacity
        self._ticks: deque[_TickItem | _Ready] = deque()
        self._hints: deque[_Ready] = deque(maxlen=HINT_CAPACITY)
        self._dropped: dict[int, tuple[datetime, datetime]] = {}
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._next: _Ready | None = None
        self._open = 0
        self._last_ack = time.monotonic()
        self.published = 0
        self.dropped = 0

    def put_tick(self, instrument_token: int, packet: bytes, received_at: datetime) -> None:
        """A full packet with an exchange timestamp. Never waits."""
        self._put(_TickItem(instrument_token, packet, received_at))

    def put_gap(self, instrument_token: int, since: datetime, until: datetime, reason: str) -> None:
        """A gap, in its place among the ticks."""
        encoded = _encoded(gap_event(instrument_token, since, until, reason))
        self._put(_Ready(MARKET_TICKS, encoded, gap=(instrument_token, since, until)))
        metrics.feed_gaps.inc()

    def put_hint(self, topic: str, event: Envelope) -> None:
        """An order update: goes before ticks; the oldest is lost when thousands wait (hints may be lost)."""
        if len(self._hints) == HINT_CAPACITY:
            log.error("order update dropped: the log is away and too many wait", kept=HINT_CAPACITY)
        self._hints.append(_Ready(topic, _encoded(event)))
        self._wake.set()

    def _put(self, item: _TickItem | _Ready) -> None:
        if len(self._ticks) >= self._capacity:
            self._lose(self._ticks.popleft())
        self._ticks.append(item)
        self._wake.set()

    def _lose(self, item: _TickItem | _Ready) -> None:
        """Remember what was lost; it becomes a gap."""
        if isinstance(item, _Ready):
            if item.gap is None:
                return
            token, since, until = item.gap
        else:
            token, since, until = item.instrument_token, item.received_at, item.received_at
            self.dropped += 1
            metrics.ticks_dropped.inc()
        before = self._dropped.get(token)
        self._dropped[token] = (since, until) if before is None else (min(since, before[0]), max(until, before[1]))

    # The publisher -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish until cancelled. Waits, and says so, while the log is away."""
        watch = asyncio.create_task(self._watch(), name="feed-acks")
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._empty()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def flush(self, timeout_s: float = FLUSH_S) -> None:
        """At a clean stop (after `run` was cancelled): deliver what is held, for at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty()
                while self._open:
                    self._space.clear()
                    await self._space.wait()
        except TimeoutError:
            log.error("stopped with ticks not acknowledged", held=len(self._ticks), unacknowledged=self._open)

    async def _empty(self) -> None:
        while True:
            self._next = self._next or self._pick()
            if self._next is None:
                return
            while self._open >= MAX_OPEN:
                self._space.clear()
                await self._space.wait()
            if await self._hand_over(self._next):
                self._next = None

    def _pick(self) -> _Ready | None:
        """Hints first, then what was lost, then the stream in its order."""
        if self._hints:
            return self._hints.popleft()
        if self._dropped:
            token, (since, until) = self._dropped.popitem()
            metrics.feed_gaps.inc()
            event = gap_event(token, since, until, "ticks dropped: the log was slow or away")
            return _Ready(MARKET_TICKS, _encoded(event), gap=(token, since, until))
        while self._ticks:
            item = self._ticks.popleft()
            ready = item if isinstance(item, _Ready) else _ready(item)
            if ready is not None:
                return ready
        return None

    async def _hand_over(self, ready: _Ready) -> bool:
        """Give one message to the producer; False when the log would not take it now."""
        encoded = ready.encoded
        try:
            delivery = await self._producer.enqueue(
                ready.topic, key=encoded.key, value=encoded.value, headers=encoded.headers
            )
        except Transient as error:
            self._waiting.on(PART, str(error), "outbox")
            await asyncio.sleep(RETRY_S)
            return False
        self._open += 1
        delivery.add_done_callback(functools.partial(self._settled, ready))
        return True

    def _settled(self, ready: _Ready, delivery: Delivery) -> None:
        self._open -= 1
        self._space.set()
        error = None if delivery.cancelled() else delivery.exception()
        if delivery.cancelled() or error is not None:
            log.error("event not delivered", topic=ready.topic, error=repr(error) if error else "cancelled")
            self._lose(ready.tick or ready)
            self._wake.set()
            return
        self._last_ack = time.monotonic()
        self._waiting.over(PART, "outbox")
        if ready.tick is not None:
            self.published += 1
            metrics.ticks.inc()
            metrics.tick_age_seconds.observe(max(0.0, ready.encoded.age_s))

    async def _watch(self) -> None:
        """A producer that takes but never acknowledges (idempotent batches do not expire) is a log that is away."""
        while True:
            await asyncio.sleep(1)
            silent_s = time.monotonic() - self._last_ack
            if not self._open:
                self._last_ack = time.monotonic()
            elif silent_s > STALL_S:
                self._waiting.on(PART, f"Kafka has not acknowledged a tick for {silent_s:.0f} s", "outbox")


def _ready(item: _TickItem) -> _Ready | None:
    encoded = encode_tick(item.packet, item.received_at)
    return None if encoded is None else _Ready(MARKET_TICKS, encoded, tick=item)


def _encoded(event: Envelope) -> Encoded:
    age_s = (utc_now() - event.ts).total_seconds()
    return Encoded(event.key.encode(), event.encode(), event.headers(), age_s)
