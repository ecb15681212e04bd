"""Events as they happen: who comes back gets what came after, who is too slow or away too long is told to begin anew."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from api import hub as module
from api.hub import Event, EventHub, Full, Listener, wire
from api.probes import Prober
from tests.strategy_world import make_settings

BEGAN = datetime(2026, 10, 7, 4, 0, tzinfo=UTC)


@pytest.fixture
def hub() -> EventHub:
    return EventHub(make_settings(), cast(Prober, None))


def make_event(number: int, kind: str = "order.filled") -> Event:
    at = BEGAN + timedelta(seconds=10 * number)
    return Event(f"e{number}", kind, at, json.dumps({"id": f"e{number}", "data": {"kind": "k"}}))


def waiting(listener: Listener) -> list[str]:
    found = []
    while not listener.events.empty():
        event = listener.events.get_nowait()
        assert event is not None
        found.append(event.event_id if event.type != module.RESYNC else module.RESYNC)
    return found


def test_a_listener_gets_what_it_wants_and_each_event_once(hub: EventHub) -> None:
    with hub.listening(["order."]) as listener:
        for event in (make_event(1), make_event(1), make_event(2, "alert"), make_event(3, "order.ack")):
            hub.tell(event)
        assert waiting(listener) == ["e1", "e3"]
    hub.tell(make_event(4))
    assert waiting(listener) == []


def test_who_comes_back_gets_what_came_after(hub: EventHub) -> None:
    for number in range(5):
        hub.tell(make_event(number))
    with hub.listening((), "e2") as listener:
        assert waiting(listener) == ["e3", "e4"]


def test_partitions_have_no_order_so_the_last_seconds_come_again(hub: EventHub) -> None:
    late = Event("late", "order.ack", BEGAN + timedelta(seconds=19), "{}")
    for event in (late, make_event(2)):  # `late` is older and came first: whoever saw e2 may have missed it
        hub.tell(event)
    with hub.listening((), "e2") as listener:
        assert waiting(listener) == ["late"]


def test_an_id_too_old_to_know_begins_anew(hub: EventHub) -> None:
    hub.tell(make_event(1))
    with hub.listening((), "long-gone") as listener:
        assert waiting(listener) == [module.RESYNC]


async def test_who_is_too_slow_is_told_so_and_let_go(hub: EventHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    with hub.listening() as listener:
        for number in range(5):
            hub.tell(make_event(number))
        lines = [each async for each in wire(listener, 1.0)]
    assert b"event: resync" in lines[-1]


async def test_events_are_one_line_each_and_silence_is_a_comment(hub: EventHub) -> None:
    with hub.listening() as listener:
        hub.tell(Event("e1", "alert", BEGAN, '{"a":\n1}'))
        stream = wire(listener, 0.01)
        found: list[Any] = [await anext(stream) for _ in range(3)]
    assert found == [b"retry: 2000\n\n", b'id: e1\nevent: alert\ndata: {"a": 1}\n\n', b": alive\n\n"]


def test_only_so_many_listen(hub: EventHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LISTENERS", 1)
    with hub.listening(), pytest.raises(Full), hub.listening():
        pass
    with hub.listening():
        pass


def test_the_tail_is_bounded_and_alerts_are_kept_apart(hub: EventHub) -> None:
    hub.tell(make_event(0, "alert"))
    for number in range(1, module.KEPT + 10):
        hub.tell(make_event(number))
    assert len(hub._tail) == len(hub._known) == module.KEPT
    assert [event.event_id for event in hub.alerts()] == ["e0"]
