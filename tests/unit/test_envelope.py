"""What every message carries beside its body: its ids again, and a W3C traceparent that joins all that began with one tick."""

from __future__ import annotations

import json
import re

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from core import ids
from core.errors import Poison
from core.events.envelope import Envelope, EventType, decode, make
from core.events.payloads import Alert
from core.trading.types import Broker
from tests.order_events import make_raw_event, make_signal, make_validated_event

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01")


def raw() -> Envelope:
    return make_raw_event(Broker.PAPER, make_signal())


def header(event: Envelope, name: str) -> str:
    return dict(event.headers())[name].decode()


def test_headers_repeat_what_routers_and_people_look_for() -> None:
    event = raw()
    assert [name for name, _ in event.headers()] == ["id", "type", "version", "correlation_id", "traceparent"]
    assert (header(event, "id"), header(event, "type")) == (str(event.id), "signal.raw")
    assert (header(event, "version"), header(event, "correlation_id")) == ("1", str(event.correlation_id))


def test_one_trace_joins_what_began_with_one_tick_and_each_event_is_a_span() -> None:
    signal = make_signal()
    first = make_raw_event(Broker.PAPER, signal)
    validated = make_validated_event(Broker.PAPER, signal)
    assert first.correlation_id == validated.correlation_id
    traces = []
    for event in (first, validated):
        found = header(event, "traceparent")
        assert TRACEPARENT.fullmatch(found), found
        traces.append(found.split("-"))
    assert traces[0][1] == traces[1][1] == first.correlation_id.hex
    assert traces[0][2] != traces[1][2]


def test_a_span_that_is_recorded_wins() -> None:
    context = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with trace.use_span(NonRecordingSpan(context)):
        assert header(raw(), "traceparent") == f"00-{0xABC:032x}-{0xDEF:016x}-01"


def test_fields_of_a_later_version_are_ignored() -> None:
    event = raw()
    body = json.loads(event.encode()) | {"later": 1}
    body["data"] |= {"later": 2}
    assert decode(json.dumps(body).encode()) == event


@pytest.mark.parametrize(
    ("value", "stage"),
    [(b"", "decode"), (b"[]", "decode"), (b"not JSON", "decode"), (b'{"type": "nonsense"}', "decode")],
)
def test_what_is_no_event_is_poison_with_its_stage(value: bytes, stage: str) -> None:
    with pytest.raises(Poison) as poison:
        decode(value)
    assert poison.value.stage == stage


def test_a_bad_field_is_poison_that_names_it_and_not_its_value() -> None:
    identity = ids.new_id()
    alert = Alert(kind="ready", subject="s", message="m", action="a", at=raw().ts)
    event = make(EventType.ALERT, alert, id=identity, key="ready", source="test", correlation_id=identity)
    body = json.loads(event.encode())
    body["data"]["at"] = "a secret word"
    with pytest.raises(Poison, match="alert: at:") as poison:
        decode(json.dumps(body).encode())
    assert poison.value.stage == "validate"
    assert "a secret word" not in str(poison.value)
