"""The API against its own OpenAPI: whatever a request looks like and whoever sends it, no error of ours and no undocumented answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as tries
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.auth import OPEN, routes
from api.server import main
from core.clock import utc_now
from core.config import Settings
from core.ids import new_id
from core.people import tokens
from core.people.roles import Role
from tests.fixtures.people import make_key
from tests.integration.portfolio_support import running
from tests.strategy_world import make_settings

pytestmark = [pytest.mark.stack]

EXAMPLES = {"admin": 12, "trader": 6, "viewer": 6, "nobody": 2, "expired": 2}
"""Requests an operation by who asks; `make test` runs this, a longer run raises it."""

CHECKS = (
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
ENDLESS = "/api/v1/events"
LOGIN = "/api/v1/auth/login"
"""Counts failures of our own address: asked here it would lock the other tests out."""

REALLY_DONE = {
    "/api/v1/orders",
    "/api/v1/strategies",
    "/api/v1/kill-switch/engage",
    "/api/v1/kill-switch/release",
    "/api/v1/reconciliation/run",
    "/api/v1/broker-session/login",
    "/api/v1/broker-session/logout",
}
"""A trader's or admin's POST of the documented example here would do it, to the stack that other tests share: test_acting.py has these."""

APP = create_app(make_settings())
OPERATIONS = [
    found.ok()
    for found in schemathesis.openapi.from_dict(APP.openapi()).get_all_operations()
    if found.ok().path not in {ENDLESS, LOGIN}
]


@pytest.fixture(scope="module")
async def base(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder: Path = tmp_path_factory.mktemp("contract")
    async with running("api", main, settings, folder):
        yield f"http://{settings.api_host}:{settings.api_port}"


@pytest.fixture(scope="module")
async def tokens_of(settings: Settings) -> dict[str, str]:
    found = {role.value: await make_key(settings, role) for role in Role}
    expired = tokens.sign(settings.api_jwt_secret, new_id(), new_id(), utc_now() - timedelta(hours=1))
    return found | {"expired": expired, "nobody": ""}


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _ask(operation: Any, base: str, token: str, examples: int) -> None:
    @given(case=operation.as_strategy())
    @tries(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    def once(case: Any) -> None:
        if case.headers:  # the token is ours to give
            for name in [name for name in case.headers if name.lower() in {"authorization", "host", "cookie"}]:
                del case.headers[name]
        case.cookies = {}
        if "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = f"t{uuid4().hex[:10]}"  # nobody's
        answer = case.call(base_url=base, headers=_headers(token), timeout=60)
        said = f"{case.method} {case.formatted_path}: {answer.status_code} {answer.text[:500]}"
        assert answer.status_code not in {500, 501, 504}, said
        case.validate_response(answer, checks=list(CHECKS))

    once()


@pytest.mark.parametrize("who", EXAMPLES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda found: f"{found.method.upper()} {found.path}")
async def test_every_answer_is_documented(operation: Any, who: str, base: str, tokens_of: dict[str, str]) -> None:
    asks = who
    if who in {"admin", "trader"} and operation.method.upper() == "POST" and operation.path in REALLY_DONE:
        asks = "viewer"
    await asyncio.to_thread(_ask, operation, base, tokens_of[asks], EXAMPLES[who])


GUARDED = [name for name, access in routes(APP) if access is not None and access != OPEN]


@pytest.mark.parametrize("who", ["nobody", "expired", "viewer", "trader"])
async def test_no_route_is_open_that_should_not_be(who: str, base: str, tokens_of: dict[str, str]) -> None:
    """Every guarded route, asked without a token, with an expired one, and with each role that may not."""
    access_of = dict(routes(APP))
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        for name in GUARDED:
            method, path = name.split(" ")
            for part in ("order_id", "request_id", "signal_id"):
                path = path.replace(f"{{{part}}}", str(uuid4()))
            path = path.replace("{scope}", "strategy").replace("{name}", "x1").replace("{key_id}", "x1")
            path = path.replace("{letter:path}", "a/0/1").replace("{broker}", "paper")
            needed = access_of[name]
            assert not isinstance(needed, str | None)
            knows = who in {role.value for role in Role}
            if knows and Role(who).covers(needed.role):
                continue
            headers = _headers(tokens_of[who]) | {"Idempotency-Key": str(uuid4())}
            answer = await client.request(method, path, json={}, headers=headers)
            assert answer.status_code == (403 if knows else 401), f"{name}: {answer.status_code} {answer.text}"
