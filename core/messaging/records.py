"""One message as it was read from the log. Bytes are never changed on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

EAGER_MS = 100
"""How long the log may sit on a fetch that found nothing; a partition left out of it waits as long."""

PATIENT_MS = 200
PATIENT_BYTES = 64 * 1024


def fetching(patient: bool) -> dict[str, int]:
    """aiokafka's options for how eagerly the log answers a fetch: at the first record, or when there is something to fold."""
    if patient:
        return {"fetch_max_wait_ms": PATIENT_MS, "fetch_min_bytes": PATIENT_BYTES}
    return {"fetch_max_wait_ms": EAGER_MS, "fetch_min_bytes": 1}


@dataclass(frozen=True, slots=True)
class Record:
    """`timestamp_ms`: Unix milliseconds, as the producer set it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]
    timestamp_ms: int


Handler = Callable[[Record], Awaitable[None]]
"""Raise Poison: DLQ at once. Transient: the partition waits, the same record again. Any other error: a few tries, then DLQ."""


def record_of(message: Any) -> Record:
    """Ours from aiokafka's; a missing key or value reads as empty bytes."""
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key or b"",
        value=message.value or b"",
        headers={name: value or b"" for name, value in message.headers},
        timestamp_ms=message.timestamp,
    )
