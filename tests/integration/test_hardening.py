"""The API against somebody who means harm and knows it well: real sockets, the real database, as many tries as they like."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from sqlalchemy import update

from api.app import create_app
from api.auth import Needs, routes
from api.server import main
from core.clock import utc_now
from core.config import Settings
from core.ids import new_id
from core.people import tokens
from core.people.roles import Role, Scope
from core.routing import postgres_credentials
from core.storage import audit, login_guards, roles, sessions, users
from core.storage.db import config_engine
from core.trading.types import Broker
from tests.fixtures.people import TESTER, forgive, make_key, make_user
from tests.integration.portfolio_support import running
from tests.integration.webhook import listening
from tests.strategy_world import make_settings

pytestmark = [pytest.mark.stack]
AUTH = "/api/v1/auth"
LOGIN = f"{AUTH}/login"
GUARDED = [(name, access) for name, access in routes(create_app(make_settings())) if isinstance(access, Needs)]

_next = count(1)


def elsewhere() -> dict[str, str]:
    """An address of one's own, as a proxy on loopback would tell it: a lock of one test is not another's."""
    number = next(_next)
    return {"X-Forwarded-For": f"2001:db8:{uuid4().hex[:4]}:{number:x}::1"}


@pytest.fixture(scope="module")
async def api(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    folder: Path = tmp_path_factory.mktemp("hardening")
    await forgive(settings)
    base = f"http://{settings.api_host}:{settings.api_port}"
    async with running("api", main, settings, folder), httpx.AsyncClient(base_url=base, timeout=60) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def log_in(api: httpx.AsyncClient, settings: Settings, role: Role = Role.VIEWER, **more: Any) -> httpx.Response:
    name, password = await make_user(settings, role)
    answer = await api.post(LOGIN, json={"name": name, "password": password} | more, headers=elsewhere())
    assert answer.status_code == 200, answer.text
    return answer


# brute force ----------------------------------------------------------------------------------------------------------------


async def test_many_tries_at_once_are_all_counted(api: httpx.AsyncClient, settings: Settings) -> None:
    """Nobody gets more than the free tries by asking faster than they are counted, nor with the right password after them."""
    name, password = await make_user(settings, Role.ADMIN)
    wrong = [api.post(LOGIN, json={"name": name, "password": f"wrong-{n}"}, headers=elsewhere()) for n in range(30)]
    found = Counter(answer.status_code for answer in await asyncio.gather(*wrong))
    assert found == {401: 5, 429: 25}
    late = await api.post(LOGIN, json={"name": name, "password": password}, headers=elsewhere())
    assert (late.status_code, int(late.headers["retry-after"]) > 0) == (429, True)
    assert late.headers["content-type"] == "application/problem+json"


async def test_an_address_that_tries_many_names_is_locked_and_its_neighbour_is_not(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    here = elsewhere()
    engine = config_engine(settings, pool_size=1)
    for n in range(
        login_guards.FREE_BY_ADDRESS - 2
    ):  # counted as the route counts a try before it checks it, which is slow
        await login_guards.check_and_count(engine, f"n{n}-{uuid4().hex[:8]}", here["X-Forwarded-For"])
    await engine.dispose()
    answers = [
        await api.post(LOGIN, json={"name": f"n-{uuid4().hex[:8]}", "password": "password-1"}, headers=here)
        for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 429]
    network = here["X-Forwarded-For"].removesuffix("::1")
    another = {"X-Forwarded-For": f"{network}:dead:beef::7"}  # of the same /64
    name, password = await make_user(settings, Role.VIEWER)
    body = {"name": name, "password": password}
    assert (await api.post(LOGIN, json=body, headers=another)).status_code == 429
    assert (await api.post(LOGIN, json=body, headers=elsewhere())).status_code == 200


async def test_a_session_is_no_way_to_guess_its_password(api: httpx.AsyncClient, settings: Settings) -> None:
    found = (await log_in(api, settings)).json()
    head = bearer(found["access_token"]) | elsewhere()
    asked = [{"old": f"wrong-password-{n}", "new": "a-new-long-password"} for n in range(6)]
    answers = [(await api.post(f"{AUTH}/password", json=each, headers=head)).status_code for each in asked]
    assert answers == [422] * 5 + [429]


# tokens ---------------------------------------------------------------------------------------------------------------------


async def test_a_refresh_token_asked_for_at_once_has_one_successor_and_from_elsewhere_it_ends_the_session(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    """Tabs of one browser race for it and all get the same; whoever else holds it is a thief, also within that moment."""
    name, password = await make_user(settings, Role.VIEWER)
    here, there = elsewhere(), elsewhere()
    first = (await api.post(LOGIN, json={"name": name, "password": password}, headers=here)).json()
    body = {"refresh_token": first["refresh_token"]}
    answers = await asyncio.gather(*(api.post(f"{AUTH}/refresh", json=body, headers=here) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    (following,) = {answer.json()["refresh_token"] for answer in answers}
    assert following != first["refresh_token"]
    assert (await api.post(f"{AUTH}/refresh", json=body, headers=there)).status_code == 401
    for token in (first["access_token"], *(answer.json()["access_token"] for answer in answers)):
        assert (await api.get(f"{AUTH}/me", headers=bearer(token))).status_code == 401
    assert (await api.post(f"{AUTH}/refresh", json={"refresh_token": following}, headers=here)).status_code == 401


async def test_a_token_signed_with_our_secret_for_nobody_or_for_two_is_no_token(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    """Who has the secret still needs a session that lives, of the very user the token names."""
    mine, theirs = [(await log_in(api, settings, role)).json() for role in (Role.VIEWER, Role.ADMIN)]
    read = [tokens.read(settings.api_jwt_secret, each["access_token"]) for each in (mine, theirs)]
    secret, now = settings.api_jwt_secret, utc_now()
    forged = {
        "a session of another": tokens.sign(secret, read[1].user_id, read[0].session_id, now),
        "a session there never was": tokens.sign(secret, read[1].user_id, new_id(), now),
        "a user there never was": tokens.sign(secret, new_id(), read[1].session_id, now),
    }
    for what, token in forged.items():
        assert (await api.get(f"{AUTH}/me", headers=bearer(token))).status_code == 401, what
    assert (await api.get(f"{AUTH}/me", headers=bearer(theirs["access_token"]))).json()["role"] == "admin"


async def test_an_access_token_outlives_neither_logout_nor_a_new_password_nor_its_user(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    engine = config_engine(settings, pool_size=1)

    async def ends(what: str, user: users.User) -> None:
        if what == "password":
            await users.set_password(engine, TESTER, user.name, "another-long-password")
        elif what == "disable":
            await users.disable(engine, TESTER, user.name)
        else:
            session = tokens.read(settings.api_jwt_secret, token).session_id
            await sessions.end(engine, session, TESTER)

    try:
        for what in ("password", "disable", "logout"):
            found = (await log_in(api, settings)).json()
            token = found["access_token"]
            user = await users.find_user(engine, found["me"]["name"])
            assert user is not None
            await ends(what, user)
            assert (await api.get("/api/v1/orders", headers=bearer(token))).status_code == 401, what
            assert (
                await api.post(f"{AUTH}/refresh", json={"refresh_token": found["refresh_token"]})
            ).status_code == 401, what
    finally:
        await engine.dispose()


# CSRF -----------------------------------------------------------------------------------------------------------------------


async def test_no_change_at_all_is_made_by_a_cookie_alone(api: httpx.AsyncClient, settings: Settings) -> None:
    """Every route that changes something, with an admin's cookies, as another site's form, fetch or script would ask it."""
    host = str(api.base_url).removesuffix("/")
    async with httpx.AsyncClient(base_url=api.base_url, timeout=60) as page:
        name, password = await make_user(settings, Role.ADMIN)
        body = {"name": name, "password": password, "cookies": True}
        assert (await page.post(LOGIN, json=body, headers=elsewhere())).status_code == 200
        good = page.cookies["ap_csrf"]
        other = (await log_in(api, settings, Role.ADMIN, cookies=True)).cookies["ap_csrf"]
        asked: list[dict[str, str]] = [
            {},
            {"X-CSRF-Token": ""},
            {"X-CSRF-Token": other},
            {"X-CSRF-Token": good, "Origin": "null"},
            {"X-CSRF-Token": good, "Origin": "http://127.0.0.1:1"},
            {"X-CSRF-Token": good, "Origin": host, "Sec-Fetch-Site": "same-site"},
        ]
        changing = [(name.split(" "), access) for name, access in GUARDED if not name.startswith("GET ")]
        assert len(changing) > 20
        for (method, path), _ in changing:
            for headers in asked:
                answer = await page.request(
                    method, _filled(path), json={}, headers=headers | {"Idempotency-Key": str(uuid4())}
                )
                assert answer.status_code == 403, f"{method} {path} {headers}: {answer.status_code} {answer.text}"
        assert (await page.get(f"{AUTH}/me")).json()["name"] == name
        assert (await page.post(f"{AUTH}/logout", headers={"X-CSRF-Token": good, "Origin": host})).status_code == 204


def _filled(path: str) -> str:
    for part in ("order_id", "request_id", "signal_id"):
        path = path.replace(f"{{{part}}}", str(uuid4()))
    path = path.replace("{scope}", "strategy").replace("{broker}", "paper").replace("{letter:path}", "a/0/1")
    return path.replace("{name}", "x1").replace("{key_id}", "x1").replace("{channel}", "x1")


# whose it is ------------------------------------------------------------------------------------------------------------------


async def test_the_same_idempotency_key_of_two_users_is_two_requests(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    """Else who guesses or sees another's key would be told the other's answer."""
    key, body = str(uuid4()), {"name": "mine", "scopes": ["read"]}
    holders = [await make_key(settings, Role.VIEWER) for _ in range(2)]
    made = [
        (await api.post("/api/v1/keys", json=body, headers=bearer(each) | {"Idempotency-Key": key})) for each in holders
    ]
    assert [answer.status_code for answer in made] == [201, 201]
    found = [answer.json() for answer in made]
    assert len({each["key"]["key_id"] for each in found}) == len({each["key"]["owner"] for each in found}) == 2
    assert all(each["secret"] for each in found)


async def test_a_key_makes_no_key_that_may_more(api: httpx.AsyncClient, settings: Settings) -> None:
    small = await make_key(settings, Role.TRADER, [Scope.READ, Scope.PEOPLE])

    async def asks(body: dict[str, Any]) -> int:
        head = bearer(small) | {"Idempotency-Key": str(uuid4())}
        return (await api.post("/api/v1/keys", json={"name": "more"} | body, headers=head)).status_code

    assert await asks({"role": "viewer", "scopes": ["read"]}) == 201
    assert await asks({"role": "trader", "scopes": ["read", "orders"]}) == 422
    assert await asks({"role": "admin", "scopes": ["read"]}) == 422
    assert await asks({"role": "viewer", "scopes": ["read"], "owner": "admin"}) == 422
    assert await asks({"role": "viewer", "scopes": ["read"], "user_id": str(uuid4())}) == 422


# names and headers --------------------------------------------------------------------------------------------------------------

NASTY = [
    "'; DROP TABLE people.users; --",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "<img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "\u202egnp",
]


@pytest.mark.parametrize("text", NASTY)
async def test_a_name_is_only_a_name_wherever_it_turns_up_again(
    api: httpx.AsyncClient, settings: Settings, text: str
) -> None:
    head = bearer(await make_key(settings, Role.ADMIN))
    asked = head | {"Idempotency-Key": str(uuid4())}
    made = await api.post("/api/v1/keys", json={"name": text, "scopes": ["read"]}, headers=asked)
    assert (made.status_code, made.json()["key"]["name"]) == (201, text)
    key_id = made.json()["key"]["key_id"]
    (row,) = [each for each in (await api.get("/api/v1/keys", headers=head)).json()["keys"] if each["key_id"] == key_id]
    assert row["name"] == text
    (entry,) = (await api.get("/api/v1/audit", params={"subject": key_id}, headers=head)).json()["entries"]
    assert entry["after"]["name"] == text
    for path, body in (("/api/v1/users", {"name": text}), ("/api/v1/strategies/x1/pause", {"reason": text})):
        answer = await api.post(path, json=body, headers=head | {"Idempotency-Key": str(uuid4())})
        assert answer.status_code in {404, 422}, answer.text
        assert "49" not in answer.text.replace(text, "")


async def raw(api: httpx.AsyncClient, *parts: bytes) -> bytes:
    """What the server answers to these very bytes."""
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(30):
            return await reader.read(20_000)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_what_is_no_http_ends_the_connection_and_not_the_server(api: httpx.AsyncClient) -> None:
    host = f"Host: {api.base_url.host}\r\n".encode()
    post = b"POST /api/v1/auth/login HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\n"
    asked: dict[str, tuple[bytes, ...]] = {
        "a header of 3 MB": (b"GET /health/live HTTP/1.1\r\n" + host + b"X: ", *[b"a" * 300_000] * 10),
        "headers without end": (b"GET /health/live HTTP/1.1\r\n" + host, *[b"X: " + b"a" * 1000 + b"\r\n"] * 3000),
        "a path of 3 MB": (b"GET /", *[b"a" * 300_000] * 10),
        "two lengths": (post + b"Content-Length: 2\r\nContent-Length: 99\r\n\r\n{}",),
        "a length and chunks": (post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",),
        "a length past all numbers": (post + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",),
        "a length below zero": (post + b"Content-Length: -1\r\n\r\n",),
        "a line within a header": (b"GET /health/live HTTP/1.1\r\n" + host + b"X: a\rSet-Cookie: b=c\r\n\r\n",),
        "two hosts": (b"GET /api/v1/orders HTTP/1.1\r\n" + host + b"Host: evil.example\r\n\r\n",),
        "no host": (b"GET /api/v1/orders HTTP/1.1\r\nConnection: close\r\n\r\n",),
        "no http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",),
    }
    for what, parts in asked.items():
        answer = await raw(api, *parts)
        status = answer.split(b" ")[1:2]
        assert status in ([], [b"400"], [b"413"], [b"414"], [b"431"]), f"{what}: {answer[:200]!r}"
        assert b"set-cookie" not in answer.lower(), what
    assert (await api.get("/health/live")).status_code == 200


async def test_an_endless_body_is_cut_off(api: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield b'{"name":"' + b"x" * 10_000

    answer = await api.post(LOGIN, content=endless(), headers={"Content-Type": "application/json"} | elsewhere())
    assert answer.status_code == 413


async def test_an_address_that_lies_about_itself_is_only_text(api: httpx.AsyncClient, settings: Settings) -> None:
    """A proxy on this machine is believed; what it says is stored, never run, and always bounded."""
    name, password = await make_user(settings, Role.VIEWER)
    for said in ("' OR 1=1 --", "x" * 3000, "<script>alert(1)</script>", "1.2.3.4, 5.6.7.8", "é"):
        headers = {"X-Forwarded-For": said.encode("latin-1")}
        answer = await api.post(LOGIN, json={"name": name, "password": password}, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
    engine = config_engine(settings, pool_size=1)
    rows = await audit.entries(engine, actor=name, action="login")
    await engine.dispose()
    assert len(rows) == 5


# calling others -----------------------------------------------------------------------------------------------------------------


async def test_a_pasted_address_is_read_and_never_asked(api: httpx.AsyncClient, settings: Settings) -> None:
    """The way a trader brings back a login at the broker is no way to make this machine call another."""
    head = bearer(await make_key(settings, Role.TRADER))
    async with listening() as hook:
        for path in ("/?status=success&request_token=abcdefgh12345678", "/?status=success", "/"):
            for scheme in ("http", "https", "file", "gopher"):
                body = {"redirect": f"{scheme}://127.0.0.1:{hook.port}{path}"}
                asked = head | {"Idempotency-Key": str(uuid4())}
                answer = await api.post("/api/v1/broker-session/login", json=body, headers=asked)
                assert answer.status_code in {422, 502, 503}, answer.text
        assert hook.asked == []


# what the database's own log says ---------------------------------------------------------------------------------------------------


async def test_no_password_of_a_role_is_in_postgresqls_log_however_much_it_logs(settings: Settings) -> None:
    """A slow machine logs slow statements with their parameters; setting a password is one."""
    admin = await roles.connect_admin(settings, "postgres")
    log = settings.var / "log" / "postgres.log"
    before = log.stat().st_size
    try:
        for name, value in (("log_min_duration_statement", "0"), ("log_statement", "'all'")):
            await admin.execute(f"ALTER SYSTEM SET {name} = {value}")
        await admin.execute("SELECT pg_reload_conf()")
        await roles.prepare(settings)
    finally:
        await admin.execute("ALTER SYSTEM RESET ALL")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()
    with log.open("rb") as file:
        file.seek(before)
        said = file.read().decode(errors="replace")
    assert "CREATE SCHEMA IF NOT EXISTS" in said, "it logged nothing: this test would see no password either"
    for broker in (None, *Broker):
        role, password = postgres_credentials(settings, broker)
        assert password not in said, role


# fuzzing the login -----------------------------------------------------------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
LIKE_A_LOGIN = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=70) | ANY_JSON,
        "password": st.text(max_size=210) | ANY_JSON,
        "cookies": st.booleans() | ANY_JSON,
        "refresh_token": st.text(max_size=210) | ANY_JSON,
        "x": ANY_JSON,
    },
)
A_LOGIN = st.fixed_dictionaries({"name": st.text(min_size=1, max_size=64), "password": st.text(max_size=200)})
BODIES = st.one_of(
    A_LOGIN.map(json.dumps).map(str.encode),
    LIKE_A_LOGIN.map(json.dumps).map(str.encode),
    ANY_JSON.map(json.dumps).map(str.encode),
    st.binary(max_size=200),
)
KINDS = st.sampled_from(["application/json", "application/json; charset=utf-7", "text/json", "application/xml", ""])


async def test_whatever_is_sent_to_the_login_is_refused_and_the_lock_holds(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    """No error of ours, no session, nothing undocumented; and somebody who is locked out stays so through all of it."""
    name, password = await make_user(settings, Role.ADMIN)
    engine = config_engine(settings, pool_size=1)
    for _ in range(login_guards.FREE_BY_NAME):
        await login_guards.check_and_count(engine, name, "2001:db8::1")
    async with engine.begin() as connection:  # as after many more of them
        longest = utc_now() + login_guards.LONGEST_WAIT
        mine = login_guards.GUARDS.c.guard == f"name:{name}"
        await connection.execute(update(login_guards.GUARDS).where(mine).values(locked_until=longest))
    await engine.dispose()
    base = str(api.base_url)
    seen: Counter[int] = Counter()

    def fuzz() -> None:
        with httpx.Client(base_url=base, timeout=60) as client:

            @tries(
                max_examples=120,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(path=st.sampled_from([LOGIN, f"{AUTH}/refresh"]), body=BODIES, kind=KINDS)
            def once(path: str, body: bytes, kind: str) -> None:
                answer = client.post(path, content=body, headers=elsewhere() | {"Content-Type": kind})
                assert answer.status_code in {400, 401, 422, 429}, f"{answer.status_code} {answer.text[:300]}"
                assert answer.headers["content-type"] == "application/problem+json"
                assert not answer.headers.get_list("set-cookie")
                seen[answer.status_code] += 1

            once()

    await asyncio.to_thread(fuzz)
    assert seen[401] > 5, f"hardly a body was a login at all: {seen}"
    still = await api.post(LOGIN, json={"name": name, "password": password}, headers=elsewhere())
    assert still.status_code == 429
