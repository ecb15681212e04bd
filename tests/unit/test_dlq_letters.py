"""Which dead letters may be replayed, which are meant by a filter, and how times are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.dlq import moment
from core.errors import Poison, StopTheStart
from core.events import topics
from core.messaging.dlq import NO_KEY, DeadLetter, bury, headers
from core.messaging.dlq_letters import Letter, Wanted, refusal
from core.messaging.records import Record
from core.trading.types import Broker, Intent
from tests.order_events import T0, make_raw_event, make_rejected_event, make_signal, make_validated_event

REAL = next(broker for broker in Broker if broker is not Broker.PAPER)
PAPER = Broker.PAPER


def dead(topic: str, value: bytes, error: Exception | None = None, stage: str = "handle", at: int = 0) -> Letter:
    """A letter as it lies on the dead-letter topic of `topic`, `at` seconds after T0."""
    first = Record(topic, 0, 7, b"key", value, {"id": b"the-id"}, 0)
    found = dict(headers(DeadLetter(first, error or KeyError("price"), stage, 3), "alpha-panda.risk-manager"))
    found["dlq-failed-at"] = (T0 + timedelta(seconds=at)).isoformat().encode()
    return Letter(Record(topics.dlq(topic), 0, 3, b"key", value, found, 1_700_000_000_000))


def raw(broker: Broker, **changes: Any) -> Letter:
    return dead(topics.signals_raw(broker), make_raw_event(broker, make_signal(broker, **changes)).encode())


def judge(letter: Letter, age: float, *, force: bool = True, limits: dict[str, float] | None = None) -> str | None:
    return refusal(letter, force=force, now=T0 + timedelta(seconds=age), age_limits=limits or {})


def test_papers_letters_may_be_replayed_at_any_age() -> None:
    assert judge(raw(PAPER), 86_400, force=False) is None


def test_a_signal_for_real_money_needs_force() -> None:
    refused = judge(raw(REAL), 1, force=False)
    assert refused is not None
    assert "--force" in refused
    assert judge(raw(REAL), 1) is None


@pytest.mark.parametrize("intent", list(Intent))
def test_a_signal_for_real_money_is_never_replayed_past_its_age(intent: Intent) -> None:
    assert judge(raw(REAL, intent=intent, age_limit_s=5), 5) is None
    refused = judge(raw(REAL, intent=intent, age_limit_s=5), 6)
    assert refused is not None
    assert "6 s old" in refused


def test_the_stricter_of_the_signals_and_the_strategys_limit_holds() -> None:
    assert judge(raw(REAL, age_limit_s=60), 30, limits={"momentum": 120}) is None
    assert judge(raw(REAL, age_limit_s=60), 30, limits={"momentum": 10}) is not None


def test_decisions_carry_the_signals_age_too() -> None:
    signal = make_signal(REAL)
    for topic, event in (
        (topics.signals_validated(REAL), make_validated_event(REAL, signal)),
        (topics.signals_rejected(REAL), make_rejected_event(REAL, signal, "LOT_SIZE")),
    ):
        assert judge(dead(topic, event.encode()), 1) is None
        assert judge(dead(topic, event.encode()), 6) is not None


def test_an_unreadable_signal_for_real_money_is_not_replayed() -> None:
    refused = judge(dead(topics.signals_raw(REAL), b"{"), 0)
    assert refused is not None
    assert "cannot be read" in refused


def test_other_events_of_that_broker_need_no_force() -> None:
    assert judge(dead(topics.orders_updates(REAL), b"{"), 86_400, force=False) is None


def test_a_letter_goes_back_by_its_queues_name_not_by_a_header() -> None:
    letter = dead(topics.signals_raw(PAPER), b"{}")
    letter.record.headers["dlq-original-topic"] = topics.signals_raw(REAL).encode()
    assert letter.topic == topics.signals_raw(PAPER)


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        (Wanted(), True),
        (Wanted(names=frozenset({"paper.signals.raw/0/3"})), True),
        (Wanted(names=frozenset({"paper.signals.raw/0/4"})), False),
        (Wanted(topic="paper.signals.raw"), True),
        (Wanted(topic="paper.signals.raw.dlq"), True),
        (Wanted(topic="market.ticks"), False),
        (Wanted(reason="not json"), True),
        (Wanted(reason="decode: poison"), True),
        (Wanted(reason="KeyError"), False),
        (Wanted(since=T0 + timedelta(seconds=10)), True),
        (Wanted(since=T0 + timedelta(seconds=11)), False),
        (Wanted(until=T0 + timedelta(seconds=10)), False),
        (Wanted(until=T0 + timedelta(seconds=11), reason="KeyError"), False),
    ],
)
def test_filters(wanted: Wanted, meant: bool) -> None:
    letter = dead(topics.signals_raw(PAPER), b"{", Poison("not JSON: x", stage="decode"), "decode", at=10)
    assert wanted.matches(letter) is meant


def test_times_are_an_age_or_a_moment_in_ist() -> None:
    now = datetime(2026, 10, 7, 12, 0, tzinfo=UTC)
    assert moment("2h", now) == datetime(2026, 10, 7, 10, 0, tzinfo=UTC)
    assert moment("2026-10-07T09:15", now) == datetime(2026, 10, 7, 3, 45, tzinfo=UTC)
    assert moment("2026-10-07T09:15+00:00", now) == datetime(2026, 10, 7, 9, 15, tzinfo=UTC)
    with pytest.raises(StopTheStart, match="no time"):
        moment("yesterday", now)


async def test_a_record_without_a_key_is_buried_too() -> None:
    sent: list[bytes] = []

    class Producer:
        async def send_raw(self, topic: str, *, key: bytes, value: bytes, headers: object) -> None:
            assert key, "the log takes nothing without a key"
            sent.append(key)

    record = Record(topics.signals_raw(PAPER), 0, 7, b"", b"{", {}, 0)
    await bury(Producer(), DeadLetter(record, Poison("x"), "decode", 1), "g")  # type: ignore[arg-type]
    assert sent == [NO_KEY]
