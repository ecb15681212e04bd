"""People at the control room: login, sessions, cookies, locks and the audit, against the real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import insert, select, update
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from api.housekeeping import Housekeeping
from api.reads import Reads
from api.server import main
from core.clock import trading_day, utc_now
from core.config import Settings
from core.events.payloads import Alert
from core.ids import new_id
from core.people import tokens
from core.people.roles import Role
from core.routing import PEOPLE_SCHEMA, postgres_credentials
from core.storage import alerts, audit, sessions, tidy, users
from core.storage.db import config_engine
from core.trading.types import Broker
from tests.fixtures.people import TESTER, forgive, make_key, make_user
from tests.integration.portfolio_support import running

pytestmark = [pytest.mark.stack]
AUTH = "/api/v1/auth"


@pytest.fixture(scope="module")
async def api(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    folder: Path = tmp_path_factory.mktemp("people")
    await forgive(settings)
    base = f"http://{settings.api_host}:{settings.api_port}"
    async with running("api", main, settings, folder), httpx.AsyncClient(base_url=base, timeout=30) as client:
        yield client


def browser(settings: Settings) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{settings.api_host}:{settings.api_port}", timeout=30)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def log_in(api: httpx.AsyncClient, settings: Settings, role: Role = Role.VIEWER) -> tuple[str, dict[str, str]]:
    """(name, the tokens) of a new user."""
    name, password = await make_user(settings, role)
    answer = await api.post(f"{AUTH}/login", json={"name": name, "password": password})
    assert answer.status_code == 200, answer.text
    return name, answer.json()


async def test_a_login_opens_what_the_role_may(api: httpx.AsyncClient, settings: Settings) -> None:
    name, found = await log_in(api, settings)
    assert found["expires_in"] == 900
    me = (await api.get(f"{AUTH}/me", headers=bearer(found["access_token"]))).json()
    assert (me["name"], me["role"], me["via"], me["target"], me["real_money"]) == (
        name,
        "viewer",
        "session",
        "local",
        False,
    )
    assert (await api.get("/api/v1/orders", headers=bearer(found["access_token"]))).status_code == 200
    assert (await api.get("/api/v1/orders")).status_code == 401


async def test_a_refresh_token_is_good_once_and_its_second_use_ends_the_session(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    name, first = await log_in(api, settings)
    second = (await api.post(f"{AUTH}/refresh", json={"refresh_token": first["refresh_token"]})).json()
    assert (await api.get(f"{AUTH}/me", headers=bearer(second["access_token"]))).status_code == 200
    await a_minute_later(settings, first["refresh_token"])
    stolen = await api.post(f"{AUTH}/refresh", json={"refresh_token": first["refresh_token"]})
    assert stolen.status_code == 401
    for token in (first["access_token"], second["access_token"]):
        assert (await api.get(f"{AUTH}/me", headers=bearer(token))).status_code == 401
    again = await api.post(f"{AUTH}/refresh", json={"refresh_token": second["refresh_token"]})
    assert again.status_code == 401
    engine = config_engine(settings)
    actions = [row.action for row in await audit.entries(engine, actor=name)]
    await engine.dispose()
    assert actions[:2] == ["session.stolen", "login"]


async def a_minute_later(settings: Settings, token: str) -> None:
    """As if the token had been used a minute earlier."""
    engine = config_engine(settings)
    async with engine.begin() as connection:
        this = sessions.REFRESH.c.token_hash == tokens.hash_of(token)
        earlier = sessions.REFRESH.c.used_at - timedelta(minutes=1)
        await connection.execute(update(sessions.REFRESH).where(this).values(used_at=earlier))
    await engine.dispose()


async def test_two_tabs_that_refresh_at_once_get_the_same_token_and_stay_logged_in(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    name, first = await log_in(api, settings)
    asked = {"refresh_token": first["refresh_token"]}
    answers = await asyncio.gather(*(api.post(f"{AUTH}/refresh", json=asked) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    (following,) = {answer.json()["refresh_token"] for answer in answers}
    assert following != first["refresh_token"]
    for answer in answers:
        assert (await api.get(f"{AUTH}/me", headers=bearer(answer.json()["access_token"]))).status_code == 200
    third = await api.post(f"{AUTH}/refresh", json={"refresh_token": following})
    assert third.status_code == 200
    # its successor was used: the first token is no second tab's any more, however young
    assert (await api.post(f"{AUTH}/refresh", json=asked)).status_code == 401
    assert (await api.get(f"{AUTH}/me", headers=bearer(third.json()["access_token"]))).status_code == 401
    engine = config_engine(settings)
    actions = [row.action for row in await audit.entries(engine, actor=name)]
    await engine.dispose()
    assert actions[:2] == ["session.stolen", "login"]


async def test_a_token_used_a_moment_ago_elsewhere_ends_the_session(api: httpx.AsyncClient, settings: Settings) -> None:
    _, first = await log_in(api, settings)
    asked = {"refresh_token": first["refresh_token"]}
    second = (await api.post(f"{AUTH}/refresh", json=asked)).json()
    elsewhere = await api.post(f"{AUTH}/refresh", json=asked, headers={"X-Forwarded-For": "10.9.8.7"})
    assert elsewhere.status_code == 401
    assert (await api.get(f"{AUTH}/me", headers=bearer(second["access_token"]))).status_code == 401


async def test_logout_disable_and_a_new_role_hold_at_once(api: httpx.AsyncClient, settings: Settings) -> None:
    _, found = await log_in(api, settings)
    head = bearer(found["access_token"])
    assert (await api.post(f"{AUTH}/logout", headers=head)).status_code == 204
    assert (await api.get(f"{AUTH}/me", headers=head)).status_code == 401
    name, found = await log_in(api, settings)
    head = bearer(found["access_token"])
    engine = config_engine(settings)
    await users.set_role(engine, TESTER, name, Role.TRADER)
    assert (await api.get(f"{AUTH}/me", headers=head)).json()["role"] == "trader"
    await users.disable(engine, TESTER, name)
    await engine.dispose()
    assert (await api.get(f"{AUTH}/me", headers=head)).status_code == 401


async def test_failed_logins_lock_the_name_even_for_the_right_password(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    name, password = await make_user(settings, Role.VIEWER)
    for _ in range(5):
        answer = await api.post(f"{AUTH}/login", json={"name": name, "password": "wrong-password-here"})
        assert (answer.status_code, answer.json()["detail"]) == (401, "Name or password is wrong.")
    locked = await api.post(f"{AUTH}/login", json={"name": name.upper(), "password": password})
    assert locked.status_code == 429
    assert 1 <= int(locked.headers["retry-after"]) <= 10
    engine = config_engine(settings)  # as after a restart: nothing of it is in the process
    from core.storage import login_guards

    await login_guards.forget(engine, name)
    await login_guards.forget(engine, name, "127.0.0.1")
    await engine.dispose()
    assert (await api.post(f"{AUTH}/login", json={"name": name, "password": password})).status_code == 200


async def test_an_unknown_name_is_answered_and_locked_like_a_known_one(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    name = f"nobody-{uuid4().hex[:8]}"
    answers = [await api.post(f"{AUTH}/login", json={"name": name, "password": "whatever-it-is"}) for _ in range(6)]
    failed = await audit.entries(config_engine(settings), action="login.failed", limit=1)
    assert [row.actor for row in failed] == ["(unknown)"]  # a name nobody has may be a password
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert answers[0].json()["detail"] == "Name or password is wrong."


async def test_a_cookie_reads_and_changes_only_with_our_token_and_origin(settings: Settings) -> None:
    name, password = await make_user(settings, Role.VIEWER)
    async with browser(settings) as page:
        answer = await page.post(f"{AUTH}/login", json={"name": name, "password": password, "cookies": True})
        assert answer.json()["access_token"] == answer.json()["refresh_token"] == ""
        for line in answer.headers.get_list("set-cookie"):
            assert "samesite=strict" in line.lower()
            assert ("httponly" in line.lower()) == (not line.startswith("ap_csrf="))
        assert (await page.get("/api/v1/orders")).status_code == 200
        assert (await page.post(f"{AUTH}/logout")).status_code == 403
        csrf = {"X-CSRF-Token": page.cookies["ap_csrf"]}
        foreign = csrf | {"Origin": "http://evil.example"}
        assert (await page.post(f"{AUTH}/logout", headers=foreign)).status_code == 403
        assert (await page.post(f"{AUTH}/logout", headers={"X-CSRF-Token": "0" * 64})).status_code == 403
        assert (await page.post(f"{AUTH}/refresh", json={})).status_code == 200
        assert (await page.post(f"{AUTH}/logout", headers=csrf)).status_code == 204
        assert (await page.get("/api/v1/orders")).status_code == 401


async def test_a_new_password_ends_the_other_sessions(api: httpx.AsyncClient, settings: Settings) -> None:
    name, password = await make_user(settings, Role.VIEWER)
    mine, other = [
        (await api.post(f"{AUTH}/login", json={"name": name, "password": password})).json() for _ in range(2)
    ]
    wrong = await api.post(
        f"{AUTH}/password", json={"old": "no", "new": "a-longer-password"}, headers=bearer(mine["access_token"])
    )
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "old")
    asked = {"old": password, "new": "quite-another-password"}
    assert (await api.post(f"{AUTH}/password", json=asked, headers=bearer(mine["access_token"]))).status_code == 204
    assert (await api.get(f"{AUTH}/me", headers=bearer(mine["access_token"]))).status_code == 200
    assert (await api.get(f"{AUTH}/me", headers=bearer(other["access_token"]))).status_code == 401
    assert (await api.post(f"{AUTH}/login", json={"name": name, "password": password})).status_code == 401


async def test_a_programs_key_is_its_owner_with_less(api: httpx.AsyncClient, settings: Settings) -> None:
    key = await make_key(settings, Role.VIEWER)
    me = (await api.get(f"{AUTH}/me", headers=bearer(key))).json()
    assert (me["role"], me["via"], me["csrf_token"]) == ("viewer", f"key {key.split('_')[1]}", None)
    assert (await api.post(f"{AUTH}/logout", headers=bearer(key))).status_code == 403
    assert (await api.get(f"{AUTH}/me", headers=bearer(key[:-1] + ("A" if key[-1] != "A" else "B")))).status_code == 401


async def test_who_has_an_answer_already_is_told_so(api: httpx.AsyncClient, settings: Settings) -> None:
    head = bearer(await make_key(settings, Role.VIEWER))
    first = await api.get("/api/v1/settings", headers=head)
    again = await api.get("/api/v1/settings", headers=head | {"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (await api.get("/api/v1/settings", headers={"If-None-Match": first.headers["etag"]})).status_code == 401


async def test_what_nobody_can_use_any_more_is_let_go_and_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidy, "BATCH", 2)
    reads, now = Reads(settings), utc_now()
    long_ago, mark = now - timedelta(days=100), uuid4().hex
    name, _ = await make_user(settings, Role.VIEWER)
    user = await users.find_user(reads.engine, name)
    assert user is not None
    begun = [await sessions.begin(reads.engine, user.user_id, name, user.role, "here") for _ in range(6)]
    over, young = begun[:5], begun[5]
    minute = {"instance": mark, "instrument": "NSE:INFY", "product": "MIS", "realized_pnl": 0, "charges": 0}
    async with reads.engine.begin() as connection:
        these = sessions.SESSIONS.c.session_id.in_([each.session_id for each in over])
        await connection.execute(update(sessions.SESSIONS).where(these).values(expires_at=long_ago))
        for number in range(6):
            begun_at = now if number == 0 else long_ago
            row = {"request_id": new_id(), "fingerprint": mark, "begun_at": begun_at}
            await connection.execute(insert(tidy.REQUESTS).values(row))
    for number in range(3):
        at = now if number == 0 else long_ago
        alert = Alert(kind=mark, subject="s", message=f"m{number}", action="a", at=at)
        await alerts.take_in(reads.engine, new_id(), alert, "test", ["json-tidy"])
    async with reads.views(Broker.PAPER).begin() as connection:
        for at in (long_ago, long_ago - timedelta(days=1), now):
            row = minute | {"trading_day": trading_day(at), "minute": at, "as_of": at}
            await connection.execute(insert(tidy.MINUTES).values(row))

    await Housekeeping(reads).once()

    async with reads.engine.connect() as connection:
        mine = select(sessions.SESSIONS.c.session_id).where(sessions.SESSIONS.c.user_id == user.user_id)
        assert list(await connection.scalars(mine)) == [young.session_id]
        ids = [each.session_id for each in begun]
        held = select(sessions.REFRESH.c.session_id).where(sessions.REFRESH.c.session_id.in_(ids))
        assert list(await connection.scalars(held)) == [young.session_id]
        asked = select(tidy.REQUESTS.c.begun_at).where(tidy.REQUESTS.c.fingerprint == mark)
        assert list(await connection.scalars(asked)) == [now]
    assert [row.message for row in await alerts.history(reads.engine, kind=mark)] == ["m0"]
    async with reads.views(Broker.PAPER).connect() as connection:
        kept = select(tidy.MINUTES.c.minute).where(tidy.MINUTES.c.instance == mark)
        assert list(await connection.scalars(kept)) == [now]
    assert [row.action for row in await audit.entries(reads.engine, actor=name)] == ["login"] * 6
    await reads.close()


async def test_no_query_of_an_address_reaches_a_log(
    api: httpx.AsyncClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    room = (
        f"ws://{settings.api_host}:{settings.api_port}/_nicegui_ws/socket.io/?client_id=s3cr3tpage&transport=websocket"
    )
    with caplog.at_level("INFO"):
        with pytest.raises(InvalidStatus):
            await connect(room, origin=Origin("http://127.0.0.1"))
        assert (await api.get("/api/v1/orders", params={"token": "s3cr3tpage"})).status_code == 401
        lines = [record.getMessage() for record in caplog.records if record.name.startswith(("uvicorn", "api."))]
    assert any("WebSocket" in line for line in lines), "uvicorn tells of the socket it refused"
    assert "s3cr3tpage" not in " ".join(lines)


async def test_the_last_admin_stays(settings: Settings) -> None:
    engine = config_engine(settings)
    for user in await users.list_users(engine):
        if user.role is Role.ADMIN and user.enabled and user.name != "last":
            last = user.name
            break
    else:
        last, _ = await make_user(settings, Role.ADMIN)
    others = [user for user in await users.list_users(engine) if user.role is Role.ADMIN and user.name != last]
    for user in others:
        await users.set_role(engine, TESTER, user.name, Role.VIEWER)
    with pytest.raises(users.CommandRefused, match="last admin"):
        await users.disable(engine, TESTER, last)
    with pytest.raises(users.CommandRefused, match="last admin"):
        await users.set_role(engine, TESTER, last, Role.TRADER)
    await engine.dispose()


@pytest.mark.parametrize("statement", ["UPDATE {} SET reason = ''", "DELETE FROM {}", "TRUNCATE {}"])
async def test_the_audit_can_only_be_added_to(settings: Settings, statement: str) -> None:
    connection = await _connect(settings, None)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement.format(f'"{PEOPLE_SCHEMA}".audit'))
    finally:
        await connection.close()


@pytest.mark.parametrize("broker", list(Broker))
async def test_a_brokers_role_sees_nobodys_hashes(settings: Settings, broker: Broker) -> None:
    connection = await _connect(settings, broker)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f'SELECT * FROM "{PEOPLE_SCHEMA}".users')
    finally:
        await connection.close()


async def _connect(settings: Settings, broker: Broker | None) -> asyncpg.Connection:
    user, password = postgres_credentials(settings, broker)
    return await asyncpg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=user,
        password=password,
        database=settings.postgres_database,
    )
