"""Signals on their way to one broker's log, in order, by a task and a connection of their own: one broker never waits for another.

What is not yet acknowledged stays in the checkpoint and is sent again after a crash, under the same ids. Nothing is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from core import failpoints, logging, metrics
from core.clock import utc_now
from core.config import Settings
from core.errors import Poison, Transient
from core.events import topics
from core.events.envelope import Envelope, EventType, decode, make
from core.messaging.producer import EventProducer
from core.trading.types import Broker
from core.waiting import Waiting, until_well
from streams.runner_engine import Decided

SOURCE = "strategy-runner"
BATCH = 100

log = logging.get(__name__)


class Outbox:
    """One broker's signals. `put` never waits; `run` sends until cancelled."""

    def __init__(self, settings: Settings, broker: Broker, waiting: Waiting, stop: asyncio.Event) -> None:
        self.broker = broker
        self._topic = topics.signals_raw(broker)
        self._producer = EventProducer(settings, client_id=f"{SOURCE}-{broker}")
        self._waiting = waiting
        self._stop = stop
        self._open: deque[Envelope] = deque()
        self._news = asyncio.Event()
        self._sending = asyncio.Lock()

    def put(self, decided: Decided) -> None:
        signal = decided.signal
        self._append(
            make(
                EventType.SIGNAL_RAW,
                signal,
                id=signal.signal_id,
                key=f"{signal.instance}:{signal.instrument}",
                source=SOURCE,
                correlation_id=decided.correlation_id,
                causation_id=decided.causation_id,
                broker=self.broker,
                ts=utc_now(),
            )
        )
        metrics.signals.labels(self.broker.value, signal.strategy_id).inc()

    def _append(self, event: Envelope) -> None:
        self._open.append(event)
        self._news.set()

    async def run(self) -> None:
        """Send what comes, in order; while the log is away, wait and send the same again. Ends when told to stop."""
        who = f"signals of {self.broker}"
        if not await until_well(self._waiting, "kafka", self._producer.start, self._stop, who):
            return
        while not self._stop.is_set():
            await self._news.wait()
            self._news.clear()
            while self._open:
                if not await until_well(self._waiting, "kafka", self._send, self._stop, who):
                    return

    async def _send(self) -> None:
        """The oldest open signals, acknowledged.

        Raises:
            Transient: not all of them; send them again.
        """
        async with self._sending:
            batch = [self._open[n] for n in range(min(BATCH, len(self._open)))]
            if not batch:
                return
            await failpoints.reached("runner.before_publish")
            await self._producer.send_many([(self._topic, event) for event in batch])
            await failpoints.reached("runner.after_publish")
            for _ in batch:
                self._open.popleft()

    async def flush(self, timeout_s: float) -> None:
        """Before the end: one more try for what is open. What stays is in the checkpoint."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._open:
                    await self._send()
        except (Transient, TimeoutError) as error:
            log.warning("signals left for the next start", broker=self.broker, count=len(self._open), reason=str(error))

    async def close(self) -> None:
        await self._producer.stop()

    @property
    def waiting_count(self) -> int:
        return len(self._open)

    def snapshot(self) -> list[str]:
        return [event.encode().decode() for event in self._open]

    def restore(self, rows: list[Any]) -> None:
        """Send again what the last run had not seen acknowledged.

        Raises:
            Poison: the checkpoint holds something that is no signal.
        """
        for row in rows:
            event = decode(str(row).encode())
            if event.type is not EventType.SIGNAL_RAW:
                raise Poison(f"the checkpoint of {SOURCE} holds a {event.type} among its signals")
            self._append(event)
