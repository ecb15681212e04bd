"""The operator's commands asked of a control room say what they say at the machine itself: there and back through the real routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from api import auth
from api.app import create_app
from api.client import ApiClient
from api.models import Round
from api.reads import Reads
from cli import remote as remote_mode
from cli import remote_operations as remote
from cli.dlq import row_of
from control import alerts, dead_letters, reconciliation
from control import kill as control_kill
from control.acts import Act
from core.errors import CommandRefused, StopTheStart, Transient
from core.events import topics
from core.ids import new_id
from core.messaging.dlq import PREFIX
from core.messaging.dlq_letters import Letter
from core.messaging.records import Record
from core.people.roles import Actor, Role
from core.storage import alerts as alert_storage
from core.storage import requests
from core.storage.alerts import ChannelState, History, Outcome, Told
from core.storage.dlq_actions import Closed, DlqAction
from core.storage.kill import KillBusy, KillRecord, KillState
from core.trading.types import Broker
from tests.strategy_world import make_settings

ADMIN = Actor("admin", Role.ADMIN, "session", "here", user_id=new_id(), session_id=new_id())
NOON = datetime(2026, 10, 7, 6, 30, tzinfo=UTC)
PAPER, ZERODHA = Broker.PAPER, Broker.ZERODHA


def make_act(reason: str = "a test") -> Act:
    return Act(ADMIN, new_id(), reason)


def make_kill(strategy: str | None = None, **values: Any) -> KillRecord:
    report = {"story": ["- cancelled 1 order"], "nets": [], "foreign": []}
    blank = {"released_at": None, "released_by": None, "release_reason": None}
    row = {
        "kill_id": new_id(),
        "account": "PAPER",
        "strategy_id": strategy,
        "requested_by": "ann",
        "reason": "odd prices",
    }
    row |= {"include_foreign": False, "engaged_at": NOON, "finished_at": NOON, "report": report}
    return KillRecord(**(row | blank | values))


def make_letter(offset: int, closed: Closed | None = None) -> Letter:
    reason = {"stage": "validate", "error-type": "Poison", "error-message": "no such field", "attempts": "1"}
    reason |= {"consumer-group": "alpha-panda.risk-manager", "failed-at": NOON.isoformat()}
    headers = {PREFIX + name: value.encode() for name, value in reason.items()}
    headers |= {"id": str(new_id()).encode(), "type": b"signal.raw"}
    return Letter(Record(topics.dlq("paper.signals.raw"), 3, offset, b"a:b", b'{"odd": 1}', headers, 0), closed)


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(make_settings())


@pytest.fixture(autouse=True)
def an_admin_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def somebody(_: Any) -> Actor:
        return ADMIN

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(auth, "actor_of", somebody)
    monkeypatch.setattr(requests, "begin", nothing)
    monkeypatch.setattr(requests, "answered", nothing)


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[ApiClient]:
    client = ApiClient("http://127.0.0.1", SecretStr("ap_x"))
    await client._http.aclose()
    client._http = httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1/api/v1", headers={"Authorization": "Bearer x"}
    )
    async with client:
        yield client


def answering(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, answer: Any) -> list[tuple[Any, ...]]:
    """`module.name` answers so; what it was asked."""
    asked: list[tuple[Any, ...]] = []

    async def one(*given: Any, **more: Any) -> Any:
        asked.append((*given, more))
        found = answer(*given) if callable(answer) else answer
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(module, name, one)
    return asked


async def test_kill_switches_are_told_whole(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    here = KillState(
        "by ann: odd prices", {"s1": "by bob: why"}, (make_kill(), make_kill("s1", finished_at=None, report=None))
    )
    answering(monkeypatch, control_kill, "state", here)
    there = remote.RemoteKill(api)
    assert await there.brokers(None) == list(make_settings().active_brokers)
    assert await there.state(PAPER) == here
    assert await there.read(PAPER, here.open[1].kill_id) == here.open[1]
    assert await there.read(PAPER, new_id()) is None


async def test_a_kill_switch_engaged_from_afar_is_the_record_and_its_workflow(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_kill("s1", finished_at=None)
    asked = answering(monkeypatch, control_kill, "engage", record)
    answering(monkeypatch, control_kill, "work", "started")
    there, act = remote.RemoteKill(api), make_act("odd prices")
    assert await there.engage(act, PAPER, "s1") == record
    assert await there.work(PAPER, record) == f"paper-kill-{record.kill_id}"
    (_, told, broker, strategy, _) = asked[0]
    assert (told.reason, told.by, broker, strategy) == ("odd prices", "admin", PAPER, "s1")
    await there.engage(act, PAPER, "s1")
    assert asked[1][1].request_id == told.request_id, "the same act asked again is the same request"


async def test_a_kill_switch_whose_workflow_waits_is_engaged_and_says_so(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, control_kill, "engage", make_kill())
    answering(monkeypatch, control_kill, "work", Transient("Temporal is away"))
    there = remote.RemoteKill(api)
    record = await there.engage(make_act(), PAPER, None)
    with pytest.raises(Transient, match="Temporal is away"):
        await there.work(PAPER, record)


def test_a_control_room_of_another_version_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def old(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"brokers": [{"broker": "paper", "switches": [{"kill_id": "x"}]}]})

    def client() -> ApiClient:
        made = ApiClient("http://room.example", SecretStr("ap_x"))
        made._http = httpx.AsyncClient(transport=httpx.MockTransport(old), base_url="http://room.example")
        return made

    monkeypatch.setattr(remote_mode, "client", client)
    with pytest.raises(StopTheStart, match="of the same version"):
        remote_mode.asking(lambda api: remote.RemoteKill(api).state(PAPER))


async def test_a_release_that_is_refused_says_why(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, control_kill, "release", KillBusy("it has not finished"))
    with pytest.raises(Exception, match="it has not finished"):
        await remote.RemoteKill(api).release(make_act(), PAPER, None)


async def test_dead_letters_are_told_shown_replayed_and_dropped(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = [make_letter(41), make_letter(42, Closed(DlqAction.DROPPED, "ann", "of no use"))]
    answering(monkeypatch, dead_letters, "letters", letters)
    replayed = answering(monkeypatch, dead_letters, "replay", [(letters[0], "replayed")])
    dropped = answering(monkeypatch, dead_letters, "drop", [(letters[0], "dropped")])
    there = remote.RemoteLetters(api)
    found = await there.letters()
    assert [row_of(each) for each in found] == [row_of(each) for each in letters]
    whole = await there.whole(found[0])
    assert (whole.record.headers, whole.record.value) == (letters[0].record.headers, letters[0].record.value)
    outcomes = await there.replay(make_act(), found[:1], force=True, really=False)
    assert [(each.name, said) for each, said in outcomes] == [("paper.signals.raw/3/41", "replayed")]
    assert replayed[0][-1] == {"force": True, "really": False}
    assert [said for _, said in await there.drop(make_act(), found[:1])] == ["dropped"]
    assert [each.name for each in dropped[0][2]] == ["paper.signals.raw/3/41"]
    assert await there.drop(make_act(), []) == []


async def test_a_round_asked_for_from_afar_is_waited_for(
    app: FastAPI, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, control_kill, "state", KillState(None, {}, ()))
    rounds = {
        one: Round(
            broker=one, round_id=new_id(), account="A", trading_day=NOON.date(), began_at=NOON, finished_at=NOON,
            reasons=("asked",), judged=True,
        )
        for one in make_settings().active_brokers
    }  # fmt: skip
    requests_of = {one: new_id() for one in rounds}
    answering(monkeypatch, reconciliation, "ask", lambda links, act, broker: requests_of[broker])
    seen: list[Broker] = []

    def second_time(_: Reads, broker: Broker, request_id: Any) -> Round | None:
        assert request_id == requests_of[broker]
        seen.append(broker)
        return rounds[broker] if seen.count(broker) > 1 else None

    answering(monkeypatch, Reads, "round_of_request", second_time)
    assert await remote.reconcile(api, make_act(), None, within_s=30) == list(rounds.values())
    answering(monkeypatch, Reads, "round_of_request", None)
    with pytest.raises(Transient, match="reconcile --last"):
        await remote.reconcile(api, make_act(), PAPER, within_s=0)


async def test_alert_channels_and_history_are_told_page_by_page(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [
        ChannelState("json-1", True, NOON, None, None, 0),
        ChannelState("json-2", True, None, NOON, "HTTP 403", 2),
        ChannelState("json-old", False, NOON, NOON, "gone", 0),
    ]
    told = (Told("json-1", Outcome.SENT, 1, None, NOON),)
    rows = [History(new_id(), "drift", "s", f"m{n}", "a", "test", NOON, None, told) for n in range(5)]

    async def history(_: Any, *, before: Any = None, limit: int = 50, **more: Any) -> list[History]:
        first = 0 if before is None else next(n for n, row in enumerate(rows) if row.alert_id == before[1]) + 1
        return rows[first : first + limit]

    answering(monkeypatch, alert_storage, "channel_states", states)
    monkeypatch.setattr(alert_storage, "history", history)
    there = remote.RemoteAlerts(api)
    assert await there.channel_states() == states[:2]
    assert await there.history(kind="drift", state=Outcome.SENT, limit=1) == rows[:1]
    page = await api.read("/alerts/history", limit=2)
    following = await api.read("/alerts/history", limit=3, cursor=page["next"])
    assert [row["message"] for row in page["alerts"] + following["alerts"]] == ["m0", "m1", "m2", "m3", "m4"]
    assert following["next"] is None
    answer = await api.read("/alerts/channels")
    assert "json-2 takes no message since 07 Oct 12:00 IST: HTTP 403" in answer["trouble"][0]
    assert len(answer["trouble"]) == 1


async def test_a_test_of_the_channels_says_what_each_made_of_it(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = [alerts.Tested("json-1", None), alerts.Tested("json-2", "HTTP 403")]
    answering(monkeypatch, alerts, "try_channels", (tested, True))
    assert await remote.RemoteAlerts(api).try_channels(make_act()) == (tested, True)
    answering(monkeypatch, alerts, "try_channels", CommandRefused("ALERT_URLS names no channel"))
    with pytest.raises(CommandRefused, match="ALERT_URLS"):
        await remote.RemoteAlerts(api).try_channels(make_act())
