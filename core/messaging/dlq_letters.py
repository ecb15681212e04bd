"""Dead letters as people meet them: read from the dead-letter topics, judged before a replay, sent again as they were.

Never changes a letter: a replay has the original key, bytes and id. Never replays real money's signals without being forced to,
and never once they are too old to act on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from core.config import Settings
from core.errors import Poison, Transient
from core.events import topics
from core.events.envelope import decode
from core.events.payloads import SignalRejected, SignalValidated
from core.messaging import lag
from core.messaging.dlq import NO_KEY, PREFIX
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.messaging.records import Record
from core.storage import dlq_actions
from core.storage.dlq_actions import Closed, DlqAction, Place
from core.trading.signals import Signal
from core.trading.types import Broker

QUIET_READS = 20
"""Reads of half a second without a record after which the log is taken for away: what is missing was promised by its end offsets."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; `closed` tells what became of it, None while it is open."""

    record: Record
    closed: Closed | None = None

    @property
    def name(self) -> str:
        """What people type: `paper.signals.raw/3/41`, by the place on the dead-letter topic."""
        return f"{self.topic}/{self.record.partition}/{self.record.offset}"

    @property
    def place(self) -> Place:
        return place_of(self.record)

    @property
    def topic(self) -> str:
        """Where it came from and goes again: by the queue's name, never by a header."""
        return topics.undlq(self.record.topic)

    @property
    def event_id(self) -> str | None:
        found = self.record.headers.get("id")
        return found.decode(errors="replace") if found is not None else None

    def why(self, field: str) -> str:
        """One of the reason's headers (core/messaging/dlq.py): error-type, error-message, stage, attempts, …; "" without it."""
        return self.record.headers.get(PREFIX + field, b"").decode(errors="replace")

    @property
    def reason(self) -> str:
        return f"{self.why('stage')}: {self.why('error-type')}: {self.why('error-message')}"

    @property
    def failed_at(self) -> datetime:
        """When it was given up (UTC); the log's own time where the header is missing or odd."""
        try:
            found = datetime.fromisoformat(self.why("failed-at"))
        except ValueError:
            found = datetime.fromtimestamp(self.record.timestamp_ms / 1000, UTC)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: every field that is given must match. `reason` is looked for in stage, error and message."""

    names: frozenset[str] = frozenset()
    topic: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def everything(self) -> bool:
        return self == Wanted()

    def matches(self, letter: Letter) -> bool:
        return (
            (not self.names or letter.name in self.names)
            and (self.topic is None or self.topic in {letter.topic, letter.record.topic})
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )


def place_of(record: Record) -> Place:
    return Place(record.topic, record.partition, record.offset, record.timestamp_ms)


async def read_letters(settings: Settings, engine: AsyncEngine) -> list[Letter]:
    """Every letter of the active brokers' and the shared topics that the log still has, the oldest first.

    Raises:
        Transient: the log or the database is away.
    """
    names = [topics.dlq(topic) for topic in topics.consumed_topics(settings.active_brokers)]
    closed = await dlq_actions.closed(engine, names)
    first, end = await lag.bounds(settings, names)
    missing = {
        (where.topic, where.partition): offset
        for where, offset in end.items()
        if offset > first[where]
    }  # fmt: skip
    letters: list[Letter] = []
    if missing:
        for record in await read_records(settings, missing):
            letters.append(Letter(record, closed.get(place_of(record))))
    return sorted(letters, key=lambda letter: (letter.failed_at, letter.name))


async def read_records(settings: Settings, ends: Mapping[tuple[str, int], int]) -> list[Record]:
    """Every record before these end offsets.

    Raises:
        Transient: the log is away.
    """
    reader = LogReader(settings, client_id="dlq", topics=sorted({topic for topic, _ in ends}))
    await reader.start("earliest")
    try:
        missing, found, quiet = dict(ends), [], 0
        while missing:
            records = await reader.read(0.5)
            quiet = 0 if records else quiet + 1
            if quiet >= QUIET_READS:
                raise Transient(f"Kafka does not deliver {', '.join(f'{t}[{n}]' for t, n in missing)}", part="kafka")
            for record in records:
                where = (record.topic, record.partition)
                if record.offset < ends.get(where, 0):
                    found.append(record)
                if record.offset + 1 >= ends.get(where, 0):
                    missing.pop(where, None)
        return found
    finally:
        await reader.stop()


def refusal(letter: Letter, *, force: bool, now: datetime, age_limits: Mapping[str, float]) -> str | None:
    """Why this letter must not be replayed; None when it may. `age_limits` (seconds) by strategy, as configured now.

    A signal's age runs from the tick or command it all began with, and the stricter of its own and its strategy's limit holds. It
    binds exits here too: the position they were meant for may be another one by now.
    """
    broker = topics.broker_of(letter.topic)
    if broker in (None, Broker.PAPER) or not topics.is_signals(letter.topic):
        return None
    try:
        data = decode(letter.record.value).data
    except Poison as error:
        return f"it cannot be read ({error}), so its age cannot be judged, and it would only die again: drop it"
    signal = data.signal if isinstance(data, SignalValidated | SignalRejected) else data
    if not isinstance(signal, Signal):
        return "it is no signal: drop it"
    limit = min(signal.age_limit_s, age_limits.get(signal.strategy_id, signal.age_limit_s))
    age = (now - signal.origin_at).total_seconds()
    if age > limit:
        return (
            f"it is {age:.0f} s old and {signal.strategy_id} acts on signals up to {limit:g} s: never replayed for real money; "
            "drop it, the strategy decides anew"
        )
    return None if force else "a signal for real money is replayed only with --force"


async def replay(producer: EventProducer, engine: AsyncEngine, letter: Letter, *, by: str, note: str) -> None:
    """Send the letter to its topic as it was, and record it. A replay that died in between is harmless to repeat: same id.

    Raises:
        Transient: the log or the database is away; the letter is still open.
    """
    record = letter.record
    await dlq_actions.record(
        engine, DlqAction.REPLAYING, letter.place, event_id=letter.event_id, by=by, note=note
    )  # fmt: skip
    headers = [(name, value) for name, value in record.headers.items() if not name.startswith(PREFIX)]
    await producer.send_raw(letter.topic, key=record.key or NO_KEY, value=record.value, headers=headers)
    await dlq_actions.record(engine, DlqAction.REPLAYED, letter.place, event_id=letter.event_id, by=by, note=note)


async def drop(engine: AsyncEngine, letters: Iterable[Letter], *, by: str, note: str) -> None:
    """Close letters without sending them; the log keeps their bytes until its retention ends.

    Raises:
        Transient: the database is away; those not recorded yet are still open.
    """
    for letter in letters:
        await dlq_actions.record(
            engine, DlqAction.DROPPED, letter.place, event_id=letter.event_id, by=by, note=note
        )  # fmt: skip
