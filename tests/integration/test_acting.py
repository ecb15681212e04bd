"""Acting through the API, against the real stores and log: who may, once per key, audited, and as the commands do it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from api.server import main
from core import ids
from core.clock import trading_day, utc_now
from core.config import Settings
from core.events import topics
from core.events.envelope import EventType, decode
from core.events.payloads import LimitsChanged
from core.people.roles import Role, Scope
from core.storage import views
from core.storage.commands import read_command
from core.storage.db import broker_engine, config_engine, view_engine
from core.storage.instruments import store_book
from core.storage.kill import kill_state
from core.storage.strategies import load_strategies
from core.trading.commands import CommandKind
from core.trading.signals import Signal
from core.trading.types import Broker
from tests.fixtures.people import forgive, make_key
from tests.integration.messaging import producing, read_back
from tests.integration.portfolio_support import eventually, running
from tests.integration.test_dlq import die
from tests.journal_world import JournalWorld
from tests.order_events import make_order_event, make_order_state, make_raw_event, make_rejected_event, make_signal
from tests.strategy_world import INFY, make_instrument

pytestmark = [pytest.mark.stack]
PAPER = Broker.PAPER
Client = httpx.AsyncClient


class Room:
    """The API with a program of each role."""

    def __init__(self, client: Client, keys: dict[Role, str]) -> None:
        self.client, self._keys = client, keys

    async def get(self, path: str, role: Role = Role.VIEWER, **params: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._keys[role]}"}
        return await self.client.get(f"/api/v1{path}", params=params, headers=headers)

    async def ask(
        self, path: str, body: dict[str, Any], role: Role = Role.TRADER, key: str = "", method: str = "POST"
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._keys[role]}", "Idempotency-Key": key or str(uuid4())}
        return await self.client.request(method, f"/api/v1{path}", json=body, headers=headers)

    async def audited(self, action: str, subject: str) -> dict[str, Any]:
        rows = (await self.get("/audit", Role.TRADER, action=action, subject=subject)).json()["entries"]
        assert rows, f"no {action} of {subject} in the audit"
        return dict(rows[0])


@pytest.fixture(scope="module")
async def room(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    folder: Path = tmp_path_factory.mktemp("acting")
    await forgive(settings)
    engine = config_engine(settings)
    instruments = [make_instrument("NSE:INFY", INFY), make_instrument("NSE:TCS", 2953217)]
    await store_book(engine, settings.kite_target, trading_day(utc_now()), instruments)
    await engine.dispose()
    base = f"http://{settings.api_host}:{settings.api_port}"
    keys = {role: await make_key(settings, role) for role in Role}
    async with running("api", main, settings, folder), Client(base_url=base, timeout=30) as client:
        yield Room(client, keys)


@pytest.fixture
def name() -> str:
    return f"t{uuid4().hex[:10]}"


async def made(room: Room, name: str, **changes: Any) -> httpx.Response:
    body: dict[str, Any] = {
        "strategy_id": name,
        "class_name": "Momentum",
        "parameters": {"bar_s": 5, "fast": 2, "slow": 3},
        "instruments": ["NSE:INFY"],
        "reason": "a test",
    }
    return await room.ask("/strategies", body | changes)


# strategies -------------------------------------------------------------------------------------------------------------


async def test_a_change_is_versioned_announced_and_audited(room: Room, settings: Settings, name: str) -> None:
    answer = await made(room, name)
    assert (answer.status_code, answer.json()["version"]) == (201, 1), answer.text
    changed = await room.ask(f"/strategies/{name}", {"set": {"slow": 9}, "reason": "slower"}, method="PATCH")
    assert (changed.json()["version"], changed.json()["row"]["parameters"]["slow"]) == (2, 9)
    assert changed.json()["announced"] is True
    row = await room.audited("strategy.change", name)
    assert (row["before"]["parameters"]["slow"], row["after"]["parameters"]["slow"]) == (3, 9)
    assert (row["reason"], row["via"][:4], row["origin"]) == ("slower", "key ", "127.0.0.1")
    events = await read_back(
        settings, topics.CONFIG_CHANGES, lambda record: record.key == name.encode() and b'"version":2' in record.value
    )
    assert events
    assert (await made(room, name)).status_code == 409


async def test_a_bad_change_names_the_field_and_what_it_may_be_and_changes_nothing(
    room: Room, settings: Settings, name: str
) -> None:
    await made(room, name)
    answer = await room.ask(f"/strategies/{name}", {"set": {"fast": -1, "fats": 3}}, method="PATCH")
    assert answer.status_code == 422
    assert "parameters.fast" in answer.json()["detail"]
    assert "fats" in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    engine = config_engine(settings)
    (row,) = [row for row in await load_strategies(engine) if row.strategy_id == name]
    await engine.dispose()
    assert row.version == 1
    assert (await room.ask("/strategies/no-such/pause", {})).status_code == 404


async def test_the_same_key_acts_once_and_another_request_under_it_is_refused(room: Room, name: str) -> None:
    await made(room, name)
    key = str(uuid4())
    first = await room.ask(f"/strategies/{name}/activate", {}, key=key)
    await room.ask(f"/strategies/{name}/pause", {})
    again = await room.ask(f"/strategies/{name}/activate", {}, key=key)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    rows = {row["strategy_id"]: row for row in (await room.get("/strategies")).json()["strategies"]}
    assert (rows[name]["active"], rows[name]["version"]) == (False, 3)
    assert (await room.ask(f"/strategies/{name}/pause", {}, key=key)).status_code == 409
    unkeyed = await room.client.post(f"/api/v1/strategies/{name}/pause", json={}, headers=await _head(room))
    assert unkeyed.status_code == 422
    assert "Idempotency-Key" in unkeyed.json()["detail"]


async def _head(room: Room) -> dict[str, str]:
    return {"Authorization": f"Bearer {room._keys[Role.TRADER]}"}


async def test_real_money_is_an_admins_and_typed(room: Room, name: str) -> None:
    await made(room, name)
    body = {"broker": "zerodha", "target": "local", "typed": "local", "reason": "ready"}
    assert (await room.ask(f"/strategies/{name}/opt-in", body, Role.TRADER)).status_code == 403
    assert (await room.ask(f"/strategies/{name}/opt-in", body | {"typed": "Local"}, Role.ADMIN)).status_code == 422
    answer = await room.ask(f"/strategies/{name}/opt-in", body, Role.ADMIN)
    assert answer.json()["row"]["opt_ins"] == {"zerodha": "local"}
    assert (await room.audited("strategy.opt-in", name))["before"] == {"opt_ins": {}, "version": 1}
    out = await room.ask(f"/strategies/{name}/opt-out", {"broker": "zerodha"})
    assert out.json()["row"]["opt_ins"] == {}


async def test_limits_are_an_admins_announced_and_what_is_left_out_takes_its_default(
    room: Room, settings: Settings, name: str
) -> None:
    body = {"limits": {"max_position": 7}, "reason": "small"}
    assert (await room.ask(f"/limits/strategy/{name}", body, method="PUT")).status_code == 403
    put = await room.ask(f"/limits/strategy/{name}", body, Role.ADMIN, method="PUT")
    assert (
        put.json()["version"],
        put.json()["effective"]["max_position"],
        put.json()["effective"]["max_open_orders"],
    ) == (1, 7, 5)
    (record, *_) = await read_back(settings, topics.CONFIG_CHANGES, lambda record: record.key == name.encode())
    event = decode(record.value)
    assert (event.type, event.data) == (
        EventType.LIMITS_CHANGED,
        LimitsChanged(
            scope="strategy", name=name, version=1, changed_by=event.data.changed_by, limits={"max_position": 7}
        ),
    )
    row = await room.audited("limits.change", f"strategy {name}")
    assert (row["before"], row["after"], row["actor"]) == (None, {"max_position": 7}, event.data.changed_by)
    bad = await room.ask(f"/limits/strategy/{name}", {"limits": {"max_positions": 1}}, Role.ADMIN, method="PUT")
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "max_positions")
    assert (await room.get(f"/limits/strategy/{name}")).json()["limits"] == {"max_position": 7}
    assert (await room.get("/limits/account/icici")).status_code == 422


async def test_classes_come_with_the_schema_of_their_parameters(room: Room) -> None:
    rows = {row["class_name"]: row for row in (await room.get("/strategy-classes")).json()["classes"]}
    assert set(rows) == {"ByHand", "MeanReversion", "Momentum"}
    assert "fast" in rows["Momentum"]["parameters"]["properties"]


# orders -----------------------------------------------------------------------------------------------------------------


async def test_a_cancel_is_journalled_with_who_and_why(room: Room, settings: Settings) -> None:
    engine = broker_engine(settings, PAPER)
    order_id = await (await JournalWorld.make(engine, PAPER)).order()
    key = str(uuid4())
    answer = await room.ask(f"/orders/{order_id}/cancel", {"reason": "changed my mind"}, key=key)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["kind"], body["state"], body["broker"], body["reason"]) == (
        "CANCEL",
        "REQUESTED",
        "paper",
        "changed my mind",
    )
    assert "reconciliation" in body["note"]
    record = await read_command(engine, ids.UUID(body["request_id"]))
    assert record is not None
    assert record.kind is CommandKind.CANCEL
    again = await room.ask(f"/orders/{order_id}/cancel", {"reason": "changed my mind"}, key=key)
    assert again.json()["request_id"] == body["request_id"]
    found = await room.get(f"/orders/{order_id}/commands/{body['request_id']}")
    assert found.json()["requested_by"] == record.requested_by
    assert (await room.audited("order.cancel", f"paper order {order_id}"))["outcome"] == "asked"
    assert (await room.get(f"/orders/{order_id}/evidence")).json()["order"]["cancel_requested"] is True
    await engine.dispose()


async def test_what_cannot_be_done_to_an_order_says_why(room: Room, settings: Settings) -> None:
    assert (await room.ask(f"/orders/{ids.new_id()}/cancel", {"reason": "x"})).status_code == 404
    engine = broker_engine(settings, PAPER)
    order_id = await (await JournalWorld.make(engine, PAPER)).order()
    await engine.dispose()
    assert (await room.ask(f"/orders/{order_id}/cancel", {"reason": "x"}, Role.VIEWER)).status_code == 403
    off = await room.ask(f"/orders/{order_id}/modify", {"reason": "x", "price": "100.01", "trigger_price": "1.03"})
    assert off.status_code == 422
    assert off.json()["errors"] or "tick size" in off.json()["detail"]
    decided = {"reason": "x", "resolution": "never-placed", "order_id": str(order_id)}
    refused = await room.ask(f"/orders/{order_id}/resolve", decided)
    assert (refused.status_code, "UNRESOLVED" in refused.json()["detail"]) == (422, True)
    other = await room.ask(f"/orders/{order_id}/resolve", decided | {"order_id": str(ids.new_id())})
    assert (other.status_code, "nothing was decided" in other.json()["detail"]) == (422, True)
    half = await room.ask(f"/orders/{order_id}/resolve", decided | {"resolution": "book-fill"})
    assert "book-fill needs quantity, price, trade_id, filled_at" in half.json()["detail"]


async def test_a_manual_order_is_a_signal_like_any_other(room: Room, settings: Settings, name: str) -> None:
    await made(room, name)
    ticket = {
        "broker": "paper", "strategy": name, "instrument": "NSE:INFY", "side": "BUY", "quantity": 5, "intent": "ENTRY", "reason": "a dip",
    }  # fmt: skip
    key = str(uuid4())
    answer = await room.client.post(
        "/api/v1/orders", params={"wait": 0}, json=ticket, headers=await _head(room) | {"Idempotency-Key": key}
    )
    assert (answer.status_code, answer.json()["accepted"]) == (202, None), answer.text
    signal_id = answer.json()["signal_id"]
    (record, *_) = await read_back(
        settings, topics.signals_raw(PAPER), lambda record: signal_id.encode() in record.value
    )
    signal = decode(record.value).data
    assert isinstance(signal, Signal)
    assert (signal.source, signal.instance, signal.quantity, signal.age_limit_s) == ("manual", f"{name}@paper", 5, 60.0)
    again = await room.client.post(
        "/api/v1/orders", params={"wait": 0.1}, json=ticket, headers=await _head(room) | {"Idempotency-Key": key}
    )
    assert again.json()["signal_id"] == signal_id
    other = await room.client.post(
        "/api/v1/orders",
        params={"wait": 0},
        json=ticket | {"quantity": 6},
        headers=await _head(room) | {"Idempotency-Key": key},
    )
    assert (other.status_code, "another request" in other.json()["detail"]) == (409, True)
    assert (await room.ask("/orders", ticket | {"strategy": "nobody"})).status_code == 404
    assert (await room.ask("/orders", ticket | {"instrument": "NSE:NOPE"})).json()["errors"][0]["field"] == "instrument"
    assert (await room.ask("/orders", ticket, Role.VIEWER)).status_code == 403


@pytest.mark.parametrize("text", ["' OR 1=1 --", "%", "{{7*7}}", "../../etc/passwd", "x\r\nSet-Cookie: a=b", "\u202e"])
async def test_odd_text_is_only_text(room: Room, text: str) -> None:
    for path in ("/orders", "/signals"):
        answer = await room.get(path, strategy=text, instrument=text)
        assert (answer.status_code, "set-cookie" in answer.headers) == (200, False)
        assert next(iter(answer.json().values())) == []
    assert (await room.get("/audit", Role.TRADER, actor=text)).json()["entries"] == []
    refused = await made(room, text)
    assert refused.status_code == 422
    assert "49" not in refused.json()["detail"]
    assert (await room.get(f"/dead-letters/{quote(text)}")).status_code in {404, 422}


async def test_a_rejected_signal_shows_every_code(room: Room, settings: Settings, name: str) -> None:
    signal = make_signal(PAPER, strategy_id=name, name=name)
    engine = view_engine(settings, PAPER)
    await views.store(engine, make_raw_event(PAPER, signal))
    await views.store(engine, make_rejected_event(PAPER, signal, "STALE_TICK", "LOT_SIZE"))
    await engine.dispose()
    (row,) = (await room.get("/signals", strategy=name)).json()["signals"]
    assert (row["accepted"], [each["code"] for each in row["denials"]]) == (False, ["STALE_TICK", "LOT_SIZE"])
    assert (await room.get(f"/signals/{signal.signal_id}")).json() == row
    assert (await room.get("/signals", strategy=name, accepted=True)).json()["signals"] == []
    assert (await room.get(f"/signals/{ids.new_id()}")).status_code == 404


# kill switch, dead letters, session ----------------------------------------------------------------------------------------


async def test_the_kill_switch_is_engaged_by_a_trader_and_released_by_an_admin(
    room: Room, settings: Settings, name: str
) -> None:
    body = {"broker": "paper", "strategy": name, "typed": "kill", "reason": "looks wrong"}
    assert (await room.ask("/kill-switch/engage", body, Role.VIEWER)).status_code == 403
    assert (await room.ask("/kill-switch/engage", body | {"typed": "yes"})).status_code == 422
    key = str(uuid4())
    answer = await room.ask("/kill-switch/engage", body, key=key)
    assert answer.status_code == 202, answer.text
    (switch,) = answer.json()["switches"]
    engine = broker_engine(settings, PAPER)
    found = await kill_state(engine, "PAPER")
    assert name in found.strategy_flags
    assert (await room.ask("/kill-switch/engage", body, key=key)).json()["switches"] == [switch]
    states = (await room.get("/kill-switch")).json()["brokers"]
    assert name in states[0]["strategy_flags"]
    free = {"broker": "paper", "strategy": name, "typed": "release", "reason": "mended"}
    assert (await room.ask("/kill-switch/release", free, Role.TRADER)).status_code == 403
    busy = await room.ask("/kill-switch/release", free, Role.ADMIN)
    assert (busy.status_code, "has not finished" in busy.json()["detail"]) == (409, True)
    done = await room.ask("/kill-switch/release", free | {"force": True}, Role.ADMIN)
    assert done.status_code == 200, done.text
    assert name not in (await kill_state(engine, "PAPER")).strategy_flags
    await engine.dispose()
    assert (await room.audited("kill.release", f"paper {name}"))["reason"] == "mended"


async def test_a_dead_letter_is_shown_and_sent_again_once(room: Room, settings: Settings, name: str) -> None:
    record = await die(settings, PAPER, name)
    rows = (await room.get("/dead-letters", topic=topics.signals_raw(PAPER))).json()["letters"]
    (row,) = [each for each in rows if name in each["reason"]]
    shown = (await room.get(f"/dead-letters/{row['letter']}")).json()
    assert shown["headers"]["id"] == row["event_id"]
    body = {"letters": [row["letter"]], "reason": "mended"}
    assert (await room.ask("/dead-letters/replay", body, Role.VIEWER)).status_code == 403
    done = await room.ask("/dead-letters/replay", body)
    assert done.json()["outcomes"] == [{"letter": row["letter"], "outcome": "replayed"}]
    again = await read_back(settings, topics.signals_raw(PAPER), lambda each: each.value == record.value)
    assert len(again) == 1
    told = await room.audited("dlq.replay", row["letter"])
    assert (told["before"]["reason"], told["after"], told["reason"]) == (row["reason"], {"state": "REPLAYED"}, "mended")
    assert (await room.ask("/dead-letters/replay", body)).status_code == 422
    assert (await room.get("/dead-letters/no/0/1")).status_code == 404


async def test_the_brokers_session_is_told_without_its_token(room: Room, settings: Settings) -> None:
    body = (await room.get("/broker-session")).json()
    assert (body["target"], body["simulated"]) == ("local", True)
    assert "token" not in json.dumps(body)
    bad = await room.ask("/broker-session/login", {"redirect": "http://127.0.0.1/?status=cancelled"})
    assert bad.status_code == 502
    assert "cancelled" in bad.json()["detail"]


async def test_settings_and_streams_tell_no_secret(room: Room, settings: Settings) -> None:
    text = (await room.get("/settings")).text
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if hasattr(value, "get_secret_value"):
            assert not value.get_secret_value() or value.get_secret_value() not in text
            assert f'"{field}"' not in text
    assert settings.kite_api_key not in text
    body = (await room.get("/streams")).json()
    assert {"paper.signals.raw", "market.ticks"} <= {row["topic"] for row in body["topics"]}


# people -------------------------------------------------------------------------------------------------------------------


async def test_an_admin_makes_and_changes_people_and_a_secret_is_told_once(room: Room, name: str) -> None:
    assert (await room.ask("/users", {"name": name}, Role.TRADER)).status_code == 403
    key = str(uuid4())
    made_ = await room.ask("/users", {"name": name, "role": "viewer"}, Role.ADMIN, key=key)
    password = made_.json()["password"]
    assert (made_.status_code, len(password)) == (201, 23)
    assert (await room.ask("/users", {"name": name, "role": "viewer"}, Role.ADMIN, key=key)).json()["password"] == ""
    assert (await room.ask("/users", {"name": name}, Role.ADMIN)).status_code == 409
    login = await room.client.post("/api/v1/auth/login", json={"name": name, "password": password})
    head = {"Authorization": f"Bearer {login.json()['access_token']}"}
    promoted = {"role": "trader", "reason": "trusted by now"}
    changed = await room.ask(f"/users/{name}", promoted, Role.ADMIN, method="PATCH")
    assert changed.json()["role"] == "trader"
    row = await room.audited("user.role", name)
    assert (row["before"]["role"], row["after"]["role"], row["reason"]) == ("viewer", "trader", "trusted by now")
    assert row["request_id"] is not None
    anew = (await room.ask(f"/users/{name}/reset-password", {}, Role.ADMIN)).json()["password"]
    assert anew != password
    assert (await room.client.get("/api/v1/auth/me", headers=head)).status_code == 401
    off = await room.ask(f"/users/{name}", {"enabled": False}, Role.ADMIN, method="PATCH")
    assert off.json()["enabled"] is False
    assert (await room.client.post("/api/v1/auth/login", json={"name": name, "password": anew})).status_code == 401
    audit = (await room.get("/audit", Role.TRADER, subject=name)).text
    assert password not in audit
    assert anew not in audit


async def test_nobody_sees_or_ends_another_users_keys(room: Room, settings: Settings) -> None:
    body = {"name": "mine", "scopes": ["read"]}
    mine = (await room.ask("/keys", body, Role.VIEWER)).json()
    key_id = mine["key"]["key_id"]
    assert mine["secret"].startswith(f"ap_{key_id}_")
    stranger = Room(room.client, {Role.VIEWER: await make_key(settings, Role.VIEWER)})
    assert key_id not in (await stranger.get("/keys")).text
    assert (await stranger.ask(f"/keys/{key_id}", {}, Role.VIEWER, method="DELETE")).status_code == 404
    assert (await room.ask("/keys", body | {"role": "admin"}, Role.VIEWER)).status_code == 422
    holder = Room(room.client, {Role.VIEWER: mine["secret"]})
    assert (await holder.get("/orders")).status_code == 200
    assert (await holder.get("/keys")).status_code == 403
    assert (await room.ask(f"/keys/{key_id}", {}, Role.VIEWER, method="DELETE")).json()["revoked_at"]
    assert (await holder.get("/orders")).status_code == 401


async def test_a_key_without_the_scope_cannot_act_whatever_its_role(room: Room, settings: Settings, name: str) -> None:
    bot = Room(room.client, {Role.TRADER: await make_key(settings, Role.TRADER, [Scope.READ])})
    assert (await bot.get("/strategies", Role.TRADER)).status_code == 200
    answer = await bot.ask(f"/strategies/{name}/pause", {})
    assert (answer.status_code, "scope strategies" in answer.json()["detail"]) == (403, True)


# events, exports -----------------------------------------------------------------------------------------------------------


async def _next(lines: AsyncIterator[str], mark: str) -> dict[str, str]:
    """The next event that holds `mark`."""
    found: dict[str, str] = {}
    async with asyncio.timeout(30):
        async for line in lines:
            field, _, value = line.partition(": ")
            if field in {"id", "event", "data"}:
                found[field] = value
            elif not line and mark in found.get("data", ""):
                return found
            elif not line:
                found = {}
    raise AssertionError("the stream ended")


async def test_events_come_as_they_happen_and_go_on_where_they_were_left(
    room: Room, settings: Settings, name: str
) -> None:
    events = [
        make_order_event(
            PAPER, make_order_state(make_signal(PAPER, strategy_id=name, name=f"{name}{n}"), updated_at=utc_now()), 1
        )
        for n in range(3)
    ]
    head = {"Authorization": f"Bearer {room._keys[Role.VIEWER]}"}
    await eventually(lambda: room.get("/alerts"), lambda answer: answer.status_code == 200)
    topic = topics.orders_event(PAPER, "submitted")
    async with producing(settings) as producer:
        async with room.client.stream("GET", "/api/v1/events", params={"types": "order."}, headers=head) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.aiter_lines()
            await producer.send(topic, events[0])
            first = await _next(lines, name)
        assert (first["event"], first["id"]) == ("order.submitted", str(events[0].id))
        for event in events[1:]:
            await producer.send(topic, event)
    async with room.client.stream("GET", "/api/v1/events", headers=head | {"Last-Event-ID": first["id"]}) as answer:
        lines = answer.aiter_lines()
        got = {(await _next(lines, name))["id"] for _ in range(2)}
        assert got == {str(event.id) for event in events[1:]}
    async with room.client.stream(
        "GET", "/api/v1/events", headers=head | {"Last-Event-ID": str(ids.new_id())}
    ) as answer:
        assert (await _next(answer.aiter_lines(), "read everything anew"))["event"] == "resync"
    assert (await room.client.get("/api/v1/events")).status_code == 401


async def test_exports_are_tables_a_spreadsheet_does_not_run(room: Room, settings: Settings, name: str) -> None:
    engine = view_engine(settings, PAPER)
    signal = make_signal(PAPER, strategy_id=name, name=name)
    state = make_order_state(signal, updated_at=utc_now(), reason="=HYPERLINK(1)")
    await views.store(engine, make_order_event(PAPER, state, 1))
    await engine.dispose()
    answer = await room.get("/exports/orders.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    (line,) = [line for line in answer.text.splitlines() if name in line]
    assert "'=HYPERLINK(1)" in line
    assert (await room.get("/exports/fills.csv")).status_code == 200
    assert (await room.get("/exports/pnl.csv", step=5)).status_code == 200
    assert (await room.get("/pnl/day")).status_code == 200
    assert (await room.get("/pnl/day", day="0001-01-01")).status_code == 200
