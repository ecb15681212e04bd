"""While every part is away, the API says so: whatever is asked is answered 503 with the part's name, never as an error of ours."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from api import auth
from api.app import create_app
from api.auth import routes
from core.clock import utc_now
from core.ids import new_id
from core.people.roles import Actor, Role
from core.people.tokens import login_state
from tests.strategy_world import make_settings

NOWHERE = {"kafka_port": 1025, "postgres_port": 1026, "redis_port": 1027, "temporal_port": 1028, "sandbox_port": 1029}
ADMIN = Actor("admin", Role.ADMIN, "session", "here", user_id=new_id(), session_id=new_id())

NEEDS_NOBODY = {
    "/api/v1/auth/me",
    "/api/v1/settings",
    "/api/v1/strategy-classes",
    "/api/v1/broker-session",
    "/api/v1/broker-session/link",
}
"""Answered from what the process itself knows."""

LONG = {"/api/v1/events"}

WHY = {"reason": "a test"}
LETTERS = {"letters": ["paper.signals.raw/0/1"]} | WHY
TICKET = {
    "broker": "paper",
    "strategy": "s1",
    "instrument": "NSE:INFY",
    "side": "BUY",
    "quantity": 1,
    "intent": "ENTRY",
}
BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v1/auth/login": {"name": "admin", "password": "whatever-it-is"},
    "POST /api/v1/auth/refresh": {"refresh_token": "x"},
    "POST /api/v1/auth/password": {"old": "whatever-it-is", "new": "something-else-now"},
    "POST /api/v1/users": {"name": "meera"},
    "PATCH /api/v1/users/{name}": {"role": "viewer"},
    "POST /api/v1/keys": {"name": "bot"},
    "POST /api/v1/orders": TICKET | WHY,
    "POST /api/v1/orders/{order_id}/cancel": WHY,
    "POST /api/v1/orders/{order_id}/modify": {"price": "10"} | WHY,
    "POST /api/v1/strategies": {"strategy_id": "s1", "class_name": "Momentum", "instruments": ["NSE:INFY"]},
    "POST /api/v1/strategies/{name}/opt-in": {"target": "local", "typed": "local"},
    "PUT /api/v1/limits/{scope}/{name}": {"limits": {}},
    "POST /api/v1/kill-switch/engage": {"typed": "kill"} | WHY,
    "POST /api/v1/kill-switch/release": {"typed": "release"} | WHY,
    "POST /api/v1/reconciliation/run": {"broker": "paper"},
    "POST /api/v1/dead-letters/replay": LETTERS,
    "POST /api/v1/dead-letters/drop": LETTERS,
    "POST /api/v1/broker-session/logout": WHY,
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(make_settings(**NOWHERE))


@pytest.fixture(autouse=True)
def _an_admin_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def somebody(_: Any) -> Actor:
        return ADMIN

    monkeypatch.setattr(auth, "actor_of", somebody)


def _names() -> list[str]:
    found = [name for name, access in routes(create_app(make_settings())) if access is not None]
    return [name for name in found if name.split(" ")[1].startswith("/api/v1") and name.split(" ")[1] not in LONG]


@pytest.mark.parametrize("name", _names())
async def test_a_part_that_is_away_is_named(app: FastAPI, name: str) -> None:
    method, template = name.split(" ")
    order = str(uuid4())
    path = template.replace("{order_id}", order).replace("{request_id}", order).replace("{signal_id}", order)
    path = path.replace("{scope}", "strategy").replace("{name}", "s1").replace("{key_id}", "k1")
    path = path.replace("{letter:path}", "paper.signals.raw/0/1").replace("{broker}", "paper")
    body = BODIES.get(name, {})
    if template.endswith("/resolve"):
        body = {"resolution": "never-placed", "order_id": order} | WHY
    headers = {"Authorization": "Bearer x", "Idempotency-Key": str(uuid4())}
    if template.endswith("/callback"):
        path += (
            f"?alpha_panda_state={login_state(make_settings().api_jwt_secret, ADMIN.user_id or new_id(), utc_now())}"
        )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        answer = await client.request(method, path, json=None if method == "GET" else body, headers=headers)
    if template in NEEDS_NOBODY:
        assert answer.status_code == 200, answer.text
        return
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert (
        "away" in answer.json()["detail"]
        or "does not answer" in answer.json()["detail"]
        or "followed" in answer.json()["detail"]
    )
