"""The control room on a running system: a trader acts through the API and sees what came of it; no secret turns up anywhere."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from core.events import topics
from core.messaging.reader import LogReader
from core.order_work import ORDER_WORKFLOW
from core.people.roles import Role
from core.storage.users import FIRST
from core.temporal import connect
from core.trading.types import Broker
from tests.e2e.trading import INFY, LEVELS, Market, steered
from tests.fixtures.people import make_key, make_user
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

LOW, HIGH = LEVELS[INFY]
IN_TIME = {"quantity": 3, "side": "BUY", "intent": "ENTRY", "instrument": INFY, "reason": "a test"}


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    made = System.make("room", [steered("steered", INFY)])
    try:
        made.first_words = made.command("up").stdout  # type: ignore[attr-defined]
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def people(system: System) -> dict[Role, str]:
    return {role: asyncio.run(make_key(system.settings, role)) for role in Role}


@pytest.fixture(scope="module")
def room(system: System, people: dict[Role, str]) -> Iterator[Room]:
    with httpx.Client(base_url=f"http://127.0.0.1:{system.settings.api_port}", timeout=60) as client:
        yield Room(client, people)


class Room:
    """The API as people and programs use it."""

    def __init__(self, client: httpx.Client, keys: dict[Role, str]) -> None:
        self.client, self.keys = client, keys

    def get(self, path: str, **params: Any) -> Any:
        head = {"Authorization": f"Bearer {self.keys[Role.VIEWER]}"}
        answer = self.client.get(f"/api/v1{path}", params=params, headers=head)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask(self, path: str, body: dict[str, Any], role: Role = Role.TRADER, **params: Any) -> Any:
        head = {"Authorization": f"Bearer {self.keys[role]}", "Idempotency-Key": str(uuid4())}
        answer = self.client.post(f"/api/v1{path}", json=body, params=params, headers=head)
        assert answer.status_code in {200, 201, 202}, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()


def warm(system: System, room: Room) -> None:
    def states() -> Any:
        rows = room.get("/strategies")["strategies"]
        return {part["state"] for row in rows for part in row["instances"]}

    system.wait(lambda: states() == {"running"}, "the strategy to be warm", 60, explain=states)


def test_the_first_start_tells_the_first_login_once(system: System) -> None:
    words = system.first_words  # type: ignore[attr-defined]
    (line,) = [line for line in words.splitlines() if "First login" in line]
    password = line.split()[-1]
    base = f"http://127.0.0.1:{system.settings.api_port}"
    answer = httpx.post(f"{base}/api/v1/auth/login", json={"name": FIRST, "password": password}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["me"]["role"] == "admin"
    assert "First login" not in system.command("up").stdout


@pytest.mark.parametrize("broker", list(Broker))
def test_a_manual_order_goes_through_risk_and_fills(system: System, room: Room, broker: Broker) -> None:
    with Market(system, INFY, LOW):
        warm(system, room)
        ticket = IN_TIME | {"broker": broker.value, "strategy": "steered"}
        placed = room.ask("/orders", ticket, wait=10)
        assert placed["accepted"], placed
        order_id = placed["order_id"]

        def state() -> Any:
            found = [row for row in room.get("/orders", broker=broker.value)["orders"] if row["order_id"] == order_id]
            return found and found[0]["state"]

        system.wait(lambda: state() == "FILLED", "the order to fill", 60, explain=state)
        found = room.get(f"/orders/{order_id}")
        assert (found["order"]["source"], found["order"]["filled_quantity"]) == ("manual", 3)
        assert found["signal"]["reason"].endswith(": a test")
        refused = room.ask("/orders", ticket | {"quantity": 10**7}, wait=10)
        assert refused["accepted"] is False
        assert len(refused["denials"]) > 1


@pytest.mark.parametrize("broker", list(Broker))
def test_a_resting_order_is_modified_and_cancelled(system: System, room: Room, broker: Broker) -> None:
    with Market(system, INFY, LOW):
        warm(system, room)
        price = LOW * Decimal("0.99")
        ticket = IN_TIME | {
            "broker": broker.value,
            "strategy": "steered",
            "order_type": "LIMIT",
            "price": str(round(price)),
        }
        order_id = room.ask("/orders", ticket, wait=10)["order_id"]
        system.wait(lambda: room.get(f"/orders/{order_id}")["order"]["state"] == "ACKED", "it to rest", 60)
        changed = room.ask(f"/orders/{order_id}/modify", {"price": str(round(price) - 1), "reason": "lower"}, wait=30)
        assert changed["outcome"] == "APPLIED", changed
        gone = room.ask(f"/orders/{order_id}/cancel", {"reason": "enough"}, wait=30)
        assert gone["outcome"] == "APPLIED", gone
        system.wait(lambda: room.get(f"/orders/{order_id}")["order"]["state"] == "CANCELLED", "it to be cancelled", 30)


def test_a_round_is_run_now_and_finds_no_drift(room: Room) -> None:
    for broker in Broker:
        found = room.ask("/reconciliation/run", {"broker": broker.value, "reason": "to be sure"}, wait=60)
        assert found["round"], found
        assert [line["drift"] for line in found["round"]["lines"] if line["drift"]] == []


def test_the_kill_switch_closes_what_is_held(system: System, room: Room) -> None:
    with Market(system, INFY, LOW):
        warm(system, room)
        found = room.ask("/kill-switch/engage", {"broker": "paper", "typed": "kill", "reason": "a drill"})
        assert len(found["switches"]) == 1
        kill_id = found["switches"][0]["kill_id"]

        def finished() -> Any:
            rows = [row for each in room.get("/kill-switch")["brokers"] for row in each["switches"]]
            return [row for row in rows if row["kill_id"] == kill_id and row["finished_at"]]

        system.wait(finished, "the kill switch to finish", 120, explain=lambda: room.get("/kill-switch"))
        system.wait(lambda: room.get("/positions", broker="paper", open=True)["positions"] == [], "flat", 30)
        free = {"broker": "paper", "typed": "release", "reason": "the drill is over"}
        room.ask("/kill-switch/release", free, Role.ADMIN)
        rows = room.get("/kill-switch")["brokers"]
        assert [each["account_flag"] for each in rows] == [None, None]


# secrets ----------------------------------------------------------------------------------------------------------------


def _secrets(system: System, more: dict[str, str]) -> dict[str, str]:
    settings = system.settings
    found = {
        name: value.get_secret_value()
        for name in type(settings).model_fields
        if isinstance(value := getattr(settings, name), SecretStr) and value.get_secret_value()
    }
    session = json.loads(settings.session_file.read_text())
    return found | {"Kite's access token": session["access_token"]} | more


def _logs(system: System) -> dict[str, bytes]:
    folder = system.settings.var / "log"
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def _on_log(system: System) -> bytes:
    names = [row.name for row in topics.all_topics(system.settings.kafka_partitions)]
    reader = LogReader(system.settings, client_id="test", topics=names)
    await reader.start("earliest")
    parts: list[bytes] = []
    try:
        missing = {where: end for where, end in (await reader.end_offsets()).items() if end}
        for _ in range(600):
            for record in await reader.read(0.5):
                parts += [record.key, record.value, *record.headers.values()]
                if record.offset + 1 >= missing.get((record.topic, record.partition), 0):
                    missing.pop((record.topic, record.partition), None)
            if not missing:
                break
        return b"\n".join(parts)
    finally:
        await reader.stop()


def _texts(value: Any, name: str = "") -> Iterator[bytes]:
    """Every text in a history; what payloads carry is base64 there."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, name)
    elif isinstance(value, str):
        yield base64.b64decode(value) if name == "data" else value.encode()


async def _histories(system: System) -> bytes:
    client = await connect(system.settings)
    parts: list[bytes] = []
    async for found in client.list_workflows():
        history = await client.get_workflow_handle(found.id, run_id=found.run_id).fetch_history()
        parts += list(_texts(json.loads(history.to_json())))
    assert any(ORDER_WORKFLOW.encode() in each for each in parts)
    return b"\n".join(parts)


def test_no_secret_is_in_logs_topics_histories_metrics_or_answers(
    system: System, room: Room, people: dict[Role, str]
) -> None:
    name, password = asyncio.run(make_user(system.settings, Role.ADMIN))
    login = room.client.post("/api/v1/auth/login", json={"name": name, "password": password}).json()
    wrong = room.client.post("/api/v1/auth/login", json={"name": name, "password": password + "x", "no": 1})
    used = {f"key of a {role}": key for role, key in people.items()}
    used |= {"password": password, "access token": login["access_token"], "refresh token": login["refresh_token"]}
    answers = [wrong.content]
    for path in ("/health/ready", "/metrics", "/openapi.json"):
        answers.append(room.client.get(path).content)
    head = {"Authorization": f"Bearer {people[Role.ADMIN]}"}
    for path in (
        "settings",
        "audit",
        "users",
        "keys",
        "broker-session",
        "streams",
        "strategies",
        "alerts",
        "orders/nonsense",
    ):
        answers.append(room.client.get(f"/api/v1/{path}", headers=head).content)
    places = _logs(system) | {
        "topics": asyncio.run(_on_log(system)),
        "histories": asyncio.run(_histories(system)),
        "answers": b"\n".join(answers),
    }
    assert all(places.values()), [place for place, text in places.items() if not text and "stderr" not in place]
    for what, secret in _secrets(system, used).items():
        found = [place for place, text in places.items() if secret.encode() in text]
        assert found == [], f"{what} is in {found}"
