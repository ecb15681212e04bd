"""A dead letter's headers: exactly what a person and the replay need."""

from __future__ import annotations

from datetime import datetime

from core.errors import Poison
from core.messaging.dlq import MAX_MESSAGE, DeadLetter, headers
from core.messaging.records import Record


def make_record(**changed: object) -> Record:
    fields: dict[str, object] = {
        "topic": "market.ticks",
        "partition": 3,
        "offset": 41,
        "key": b"256265",
        "value": b"{",
        "headers": {"id": b"abc", "traceparent": b"00-1-2-01"},
        "timestamp_ms": 1_700_000_000_123,
    }
    return Record(**{**fields, **changed})  # type: ignore[arg-type]


def test_headers_are_the_original_ones_and_the_reason() -> None:
    letter = DeadLetter(make_record(), Poison("not JSON:\n line 1"), "decode", 1)
    found = dict(headers(letter, "alpha-panda.risk-manager"))
    failed_at = datetime.fromisoformat(found.pop("dlq-failed-at").decode())
    assert failed_at.utcoffset() is not None
    assert found == {
        "id": b"abc",
        "traceparent": b"00-1-2-01",
        "dlq-original-topic": b"market.ticks",
        "dlq-original-partition": b"3",
        "dlq-original-offset": b"41",
        "dlq-original-timestamp": b"1700000000123",
        "dlq-consumer-group": b"alpha-panda.risk-manager",
        "dlq-error-type": b"Poison",
        "dlq-error-message": b"not JSON: line 1",
        "dlq-stage": b"decode",
        "dlq-attempts": b"1",
    }


def test_a_replayed_letter_that_dies_again_carries_one_reason() -> None:
    record = make_record(headers={"id": b"abc", "dlq-stage": b"decode", "dlq-attempts": b"9"})
    found = headers(DeadLetter(record, KeyError("x"), "handle", 3), "g")
    assert [value for name, value in found if name == "dlq-stage"] == [b"handle"]
    assert len({name for name, _ in found}) == len(found)


def test_a_long_message_is_cut() -> None:
    found = dict(headers(DeadLetter(make_record(), ValueError("x" * 10_000), "handle", 3), "g"))
    assert len(found["dlq-error-message"]) == MAX_MESSAGE
