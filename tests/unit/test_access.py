"""Roles, tokens, passwords, waits after failed logins, and the table of routes with who may: nothing is open by forgetting."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from api.app import create_app
from api.auth import OPEN, Needs, routes, unguarded
from core.config import load_settings
from core.errors import ConfigError, NotLoggedIn
from core.ids import new_id
from core.people import passwords, tokens
from core.people.roles import Role, Scope, weaker
from core.storage.login_guards import FIRST_WAIT, LONGEST_WAIT, wait_after
from tests.strategy_world import make_settings

SETTINGS = make_settings()
SECRET = SETTINGS.api_jwt_secret
USER, SESSION = new_id(), new_id()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(SETTINGS)


# routes -----------------------------------------------------------------------------------------------------------------

OPEN_ROUTES = {
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "GET /api/v1/broker-session/callback",
}
PAGES = {"GET /", "GET /login"}
"""Of the dashboard: where to log in, and the way there."""


def test_only_these_routes_ask_nobody_who_they_are(app: FastAPI) -> None:
    assert {name for name, access in routes(app) if access == OPEN} - PAGES == OPEN_ROUTES


def test_every_route_below_v1_names_a_role_and_what_acts_more_than_looking(app: FastAPI) -> None:
    own = {"POST /api/v1/auth/logout", "POST /api/v1/auth/password"}
    found = [(name, access) for name, access in routes(app) if " /api/v1" in name and name not in OPEN_ROUTES]
    assert len(found) >= 9
    for name, access in found:
        assert isinstance(access, Needs), name
        if not name.startswith("GET ") and name not in own:
            assert access.role.covers(Role.TRADER) or access.scope is Scope.PEOPLE, name
            assert access.scope is not Scope.READ, name


def test_a_route_that_names_no_role_is_found() -> None:
    app = create_app(SETTINGS)

    @app.get("/api/v1/forgotten")
    async def forgotten() -> None: ...

    assert unguarded(app) == ["GET /api/v1/forgotten"]


async def test_without_a_token_every_guarded_route_says_who_are_you(app: FastAPI) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for name, access in routes(app):
            if not isinstance(access, Needs):
                continue
            method, path = name.split(" ")
            answer = await client.request(
                method, path.replace("{order_id}", str(new_id())).replace("{", "").replace("}", "")
            )
            assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, "Bearer"), name
            assert answer.headers["content-type"] == "application/problem+json"


async def test_every_answer_carries_the_headers_a_browser_needs(app: FastAPI) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for path in ("/health/live", "/api/v1/orders", "/nothing", "/docs"):
            headers = (await client.get(path)).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
            assert "access-control-allow-origin" not in headers
        assert "default-src 'none'" in (await client.get("/api/v1/orders")).headers["content-security-policy"]


async def test_a_body_too_large_or_with_a_nul_is_refused_before_anything_reads_it(app: FastAPI) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 10_000

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        login = "/api/v1/auth/login"
        assert (await client.post(login, content=b"x" * 300_000)).status_code == 413
        assert (await client.post(login, content=endless())).status_code == 413
        assert (await client.get("/api/v1/orders", params={"strategy": "a\0b"})).status_code == 422
        assert (await client.post(login, json={"name": "a\0b", "password": "x"})).status_code == 422


@pytest.mark.parametrize(
    "path", ["/static-offline-docs/../../.env", "/static-offline-docs/%2e%2e/%2e%2e/.env", "/..%2f.env"]
)
async def test_no_path_leads_out_of_what_is_served(app: FastAPI, path: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        answer = await client.get(httpx.URL("http://127.0.0.1", raw_path=path.encode()))
        assert answer.status_code == 404
        assert "PASSWORD" not in answer.text


# roles and tokens -------------------------------------------------------------------------------------------------------


def test_each_role_covers_those_before_it() -> None:
    order = [Role.VIEWER, Role.TRADER, Role.ADMIN]
    for one in order:
        for other in order:
            assert one.covers(other) == (order.index(one) >= order.index(other))
            assert weaker(one, other) == min(one, other, key=order.index)


def test_a_token_of_ours_is_read_until_it_expires() -> None:
    now = datetime.now(UTC)
    found = tokens.read(SECRET, tokens.sign(SECRET, USER, SESSION, now))
    assert (found.user_id, found.session_id) == (USER, SESSION)
    with pytest.raises(NotLoggedIn):
        tokens.read(SECRET, tokens.sign(SECRET, USER, SESSION, now - tokens.ACCESS_LIFE - timedelta(seconds=1)))


def _claims(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    good = {"iss": tokens.ISSUER, "aud": tokens.AUDIENCE, "sub": str(USER), "sid": str(SESSION), "iat": now, "jti": "1"}
    return {**good, "exp": now + timedelta(minutes=5), **changes}


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _unsigned(alg: str) -> str:
    claims = {**_claims(), "iat": 1, "exp": 32503680000}
    return f"{_part({'alg': alg, 'typ': 'JWT'})}.{_part(claims)}."


GOOD = tokens.sign(SECRET, USER, SESSION, datetime.now(UTC))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        _unsigned("none"),
        _unsigned("None"),
        _unsigned("HS256"),
        GOOD[:-2] + ("AA" if not GOOD.endswith("AA") else "BB"),
        GOOD.split(".")[0] + "." + _part({**_claims(), "iat": 1, "exp": 32503680000}) + "." + GOOD.split(".")[2],
        jwt.encode(_claims(), SECRET.get_secret_value(), algorithm="HS384"),
        jwt.encode(_claims(), SECRET.get_secret_value(), algorithm="HS512"),
        jwt.encode(_claims(), "another secret of forty-eight characters, say.", algorithm="HS256"),
        jwt.encode(_claims(iss="else"), SECRET.get_secret_value(), algorithm="HS256"),
        jwt.encode(_claims(aud="else"), SECRET.get_secret_value(), algorithm="HS256"),
        jwt.encode(_claims(sub="admin"), SECRET.get_secret_value(), algorithm="HS256"),
        jwt.encode({k: v for k, v in _claims().items() if k != "exp"}, SECRET.get_secret_value(), algorithm="HS256"),
        jwt.encode({k: v for k, v in _claims().items() if k != "sid"}, SECRET.get_secret_value(), algorithm="HS256"),
    ],
)
def test_no_other_token_is_read(token: str) -> None:
    with pytest.raises(NotLoggedIn):
        tokens.read(SECRET, token)


def test_a_refresh_tokens_successor_is_one_and_nobodys_without_the_secret() -> None:
    token = tokens.new_refresh()
    following = tokens.successor(SECRET, token)
    assert following == tokens.successor(SECRET, token)
    assert len(following) == len(token) == 43
    others = {
        tokens.successor(SecretStr("another-secret-of-thirty-two-letters"), token),
        tokens.successor(SECRET, token[:-1]),
    }
    assert following not in others | {token, tokens.successor(SECRET, following)}


def test_a_key_is_known_by_its_hash_alone() -> None:
    made = tokens.new_key()
    assert tokens.split_key(made.text) == (made.key_id, made.secret_hash)
    assert made.text.rsplit("_", 1)[0] == f"ap_{made.key_id}" or "_" in made.text
    assert made.secret_hash not in made.text
    assert tokens.split_key(made.text + "x") is None
    assert tokens.split_key("ap_" + "0" * 12) is None


def test_the_csrf_token_belongs_to_the_session() -> None:
    assert tokens.csrf(SECRET, SESSION) == tokens.csrf(SECRET, UUID(str(SESSION)))
    assert tokens.csrf(SECRET, SESSION) != tokens.csrf(SECRET, new_id())


def test_a_login_at_the_broker_comes_back_to_who_began_it_within_ten_minutes() -> None:
    now = datetime.now(UTC)
    state = tokens.login_state(SECRET, USER, now)
    assert tokens.read_login_state(SECRET, state, now + timedelta(minutes=9)) == USER
    other = state.replace(str(USER), str(new_id()))
    for bad, when in ((state, now + timedelta(minutes=11)), (other, now), (state[:-1], now), ("", now), ("a.b.c", now)):
        with pytest.raises(NotLoggedIn):
            tokens.read_login_state(SECRET, bad, when)


# passwords and waits ----------------------------------------------------------------------------------------------------


async def test_a_password_is_kept_as_argon2id_and_told_from_others() -> None:
    password = passwords.generate()
    stored = await passwords.hash_of(password)
    assert stored.startswith("$argon2id$")
    assert password not in stored
    assert await passwords.matches(password, stored)
    assert not await passwords.matches(password + "x", stored)
    assert not await passwords.matches(password, None)
    assert not await passwords.matches(password, "not a hash")


@pytest.mark.parametrize(
    ("password", "word"),
    [("short", "12"), ("x" * 201, "200"), ("aaaaaaaaaaaaaa", "repeats"), ("rakesh-is-my-name", "name")],
)
def test_a_bad_password_is_refused_with_its_reason(password: str, word: str) -> None:
    assert word in str(passwords.refusal(password, "rakesh"))


def test_a_generated_password_is_good_and_never_the_same() -> None:
    made = {passwords.generate() for _ in range(200)}
    assert len(made) == 200
    assert all(passwords.refusal(each, "admin") is None for each in made)


def test_the_wait_doubles_after_the_free_tries_up_to_a_quarter_of_an_hour() -> None:
    waits = [wait_after(failures, 5) for failures in range(40)]
    assert waits[:5] == [timedelta()] * 5
    assert waits[5:8] == [FIRST_WAIT, FIRST_WAIT * 2, FIRST_WAIT * 4]
    assert waits[-1] == LONGEST_WAIT
    assert waits == sorted(waits)


# secrets of the start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("api_jwt_secret", "short", "at least 32"),
        ("api_jwt_secret", "ab" * 24, "repeats"),
        ("api_jwt_secret", "please-change-me-please-change-me-now", "placeholder"),
        ("redis_password", "<your password here>", "placeholder"),
        ("postgres_app_password", "changeme-changeme", "placeholder"),
        ("postgres_app_password", "password12345678", "placeholder"),
        ("kafka_app_password", "short", "at least 16"),
    ],
)
def test_the_start_refuses_placeholders_and_short_secrets(
    name: str, value: str, words: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for field in type(SETTINGS).model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    rows = {
        key: _plain(getattr(SETTINGS, key))
        for key in type(SETTINGS).model_fields
        if "password" in key or "kite_" in key
    }
    rows |= {"api_jwt_secret": SECRET.get_secret_value(), name: value}
    env = tmp_path / ".env"
    env.write_text("\n".join(f"{key.upper()}='{each}'" for key, each in rows.items() if isinstance(each, str)))
    with pytest.raises(ConfigError) as caught:
        load_settings(env)
    assert name.upper() in str(caught.value)
    assert words in str(caught.value)
    assert value not in str(caught.value)


def _plain(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value
