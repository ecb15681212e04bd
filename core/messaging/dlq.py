"""Dead letters: a record nobody can handle goes to its topic's DLQ with its own bytes and key, and the reason in headers.

Never drops a record: where the DLQ cannot be written, the caller waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from core import logging, metrics
from core.clock import utc_now
from core.events import topics
from core.messaging.producer import EventProducer
from core.messaging.records import Record

PREFIX = "dlq-"

NO_KEY = b"-"
"""Key of a letter whose record had none: the log takes nothing without a key, and a record without one must not hold its partition."""

MAX_MESSAGE = 500
"""Characters of an error's message kept in a header."""

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a record is dead: the error, where it failed (decode, validate, handle, publish), after how many tries."""

    record: Record
    error: Exception
    stage: str
    attempts: int


def headers(letter: DeadLetter, group: str) -> list[tuple[str, bytes]]:
    """The original headers and ours. Those of an earlier death (a replayed letter) are replaced."""
    record = letter.record
    message = " ".join(str(letter.error).split())[:MAX_MESSAGE]
    reason = {
        "original-topic": record.topic,
        "original-partition": record.partition,
        "original-offset": record.offset,
        "original-timestamp": record.timestamp_ms,
        "consumer-group": group,
        "error-type": type(letter.error).__name__,
        "error-message": message,
        "stage": letter.stage,
        "attempts": letter.attempts,
        "failed-at": utc_now().isoformat(),
    }
    kept = [(name, value) for name, value in record.headers.items() if not name.startswith(PREFIX)]
    return kept + [(PREFIX + name, str(value).encode()) for name, value in reason.items()]


async def bury(producer: EventProducer, letter: DeadLetter, group: str) -> None:
    """Write the letter to the DLQ and wait for the log's acknowledgement.

    Raises:
        Transient: it could not be written; the record is still the caller's.
    """
    record = letter.record
    await producer.send_raw(
        topics.dlq(record.topic), key=record.key or NO_KEY, value=record.value, headers=headers(letter, group)
    )
    metrics.dlq.labels(record.topic, letter.stage).inc()
    log.error(
        "record sent to the dead-letter queue",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        stage=letter.stage,
        attempts=letter.attempts,
        error=f"{type(letter.error).__name__}: {letter.error}"[:MAX_MESSAGE],
    )
