"""Getting a session from the real sandbox: by ourselves on local, by the browser's callback, by a pasted address."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from rich.console import Console

from cli import login as command
from core.brokers.kite_http import session_end, session_works
from core.brokers.kite_login import LoginRefused, ensure_local_session, login_with, request_token, require_session
from core.brokers.zerodha_session import load_session, remove_session, write_session
from core.config import Settings
from core.errors import BrokerError, SessionExpired, SessionMissing, StopTheStart
from core.trading.types import KiteTarget
from tests.integration.feed_world import ROOT, start_sandbox, until
from tests.integration.sandbox_support import SandboxProcess, free_port


@pytest.fixture
def apart(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a session folder, a sandbox port and a login port of this test's own."""
    (tmp_path / ".env").write_text((settings.home / ".env").read_text())
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    return settings.model_copy(update={"sandbox_port": free_port(), "kite_login_port": free_port()})


@pytest.fixture
def sandbox(apart: Settings, tmp_path: Path) -> Iterator[SandboxProcess]:
    callback = f"http://127.0.0.1:{apart.kite_login_port}/callback"
    with start_sandbox(apart, tmp_path / "sandbox", "--redirect-url", callback, port=apart.sandbox_port) as process:
        yield process


def redirect(sandbox: SandboxProcess) -> str:
    token = sandbox.admin("POST", "request-token")["request_token"]
    return f"http://127.0.0.1:28101/callback?action=login&status=success&request_token={token}"


def cli(settings: Settings, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "SANDBOX_PORT": str(settings.sandbox_port), "KITE_LOGIN_PORT": str(settings.kite_login_port)
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "login", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, input=stdin, timeout=60, check=False,
    )  # fmt: skip


async def test_local_logs_itself_in_and_keeps_the_session_private(apart: Settings, sandbox: SandboxProcess) -> None:
    session = await ensure_local_session(apart)
    assert load_session(apart) == session
    assert stat.S_IMODE(apart.session_file.stat().st_mode) == 0o600
    assert session.user_id == apart.kite_user_id
    assert session.expires_at - datetime.now(UTC) <= timedelta(hours=24)
    assert await session_works(apart, session)


async def test_a_session_that_works_is_kept(apart: Settings, sandbox: SandboxProcess) -> None:
    first = await ensure_local_session(apart)
    assert await ensure_local_session(apart) == first


async def test_processes_that_log_in_together_end_up_with_one_session(apart: Settings, sandbox: SandboxProcess) -> None:
    found = await asyncio.gather(*(ensure_local_session(apart) for _ in range(4)))
    assert len({session.access_token for session in found}) == 1
    assert await session_works(apart, found[0])


async def test_a_dead_session_is_replaced_on_local(apart: Settings, sandbox: SandboxProcess) -> None:
    first = await ensure_local_session(apart)
    sandbox.admin("POST", "expire-token")
    second = await ensure_local_session(apart)
    assert second.access_token != first.access_token
    assert await session_works(apart, second)


async def test_a_wrong_secret_stops_the_start_and_says_where_it_comes_from(
    apart: Settings, sandbox: SandboxProcess
) -> None:
    wrong = apart.model_copy(update={"kite_api_secret": type(apart.kite_api_secret)("not-the-secret")})
    with pytest.raises(StopTheStart, match="KITE_API_SECRET"):
        await ensure_local_session(wrong)


async def test_a_login_as_somebody_else_is_refused(apart: Settings, sandbox: SandboxProcess) -> None:
    other = apart.model_copy(update={"kite_user_id": "ZZ9999"})
    with pytest.raises(BrokerError, match="AP0001, but KITE_USER_ID is ZZ9999"):
        await login_with(other, redirect(sandbox))
    assert load_session(other) is None


async def test_a_request_token_is_good_once(apart: Settings, sandbox: SandboxProcess) -> None:
    address = redirect(sandbox)
    await login_with(apart, address)
    with pytest.raises(SessionExpired, match="alpha-panda login"):
        await login_with(apart, address)


async def test_without_a_session_the_message_names_the_command(apart: Settings, sandbox: SandboxProcess) -> None:
    session = await ensure_local_session(apart)
    assert require_session(apart) == session
    remove_session(apart)
    with pytest.raises(SessionMissing, match="alpha-panda login"):
        require_session(apart)
    expired = datetime.now(UTC) - timedelta(seconds=1)
    write_session(apart, type(session)(session.user_id, session.api_key, session.access_token, expired, expired))
    with pytest.raises(SessionMissing, match="KITE_TARGET=local"):
        require_session(apart)


async def test_only_local_is_logged_in_to_without_a_person(apart: Settings) -> None:
    real = apart.model_copy(update={"kite_target": KiteTarget.PRODUCTION})
    with pytest.raises(StopTheStart, match="alpha-panda login"):
        await ensure_local_session(real)


async def _printed(console: Console, pattern: str) -> str:
    """What the command printed, once it matches."""
    out = console.file
    assert isinstance(out, io.StringIO)
    await until(lambda: re.search(pattern, out.getvalue()), f"{pattern} to be printed")
    found = re.search(pattern, out.getvalue())
    assert found is not None
    return found[0]


async def test_the_browsers_callback_logs_in(
    apart: Settings, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    console = Console(file=io.StringIO(), width=200)
    asking = asyncio.create_task(command._ask_a_person(apart, False, console))
    try:
        address = await _printed(console, r"http://\S+/connect/login\S+")
        await _printed(console, "Waiting for the browser")
        async with httpx.AsyncClient(trust_env=False) as browser:
            stranger = f"http://127.0.0.1:{apart.kite_login_port}/callback?status=success&request_token=stolen123"
            assert (await browser.get(stranger)).status_code == 400
            rebound = await browser.get(stranger, headers={"Host": "evil.example"})
            assert rebound.status_code == 400
            assert not asking.done()
            page = await browser.get(address)
            assert page.status_code == 200
            fields = dict(parse_qsl(urlsplit(address).query))
            back = await browser.post(address.split("?")[0], data=fields)
            assert back.status_code == 302
            done = await browser.get(back.headers["location"])
        assert done.status_code == 200
        assert "Logged in" in done.text
        session = await asyncio.wait_for(asking, 10)
    finally:
        asking.cancel()
    assert load_session(apart) == session
    assert session.access_token not in console.file.getvalue()  # type: ignore[attr-defined]


async def test_an_address_pasted_into_the_terminal_logs_in(
    apart: Settings, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"\n{redirect(sandbox)}\n"))
    session = await asyncio.wait_for(command._ask_a_person(apart, False, Console(file=io.StringIO())), 20)
    assert load_session(apart) == session


def test_the_command_logs_in_on_local_and_says_so(apart: Settings, sandbox: SandboxProcess) -> None:
    result = cli(apart)
    assert result.returncode == 0, result.stderr
    assert "nobody is needed" in result.stdout
    assert "SIMULATED" in result.stdout


def test_the_commands_json_says_until_when_and_no_token(apart: Settings, sandbox: SandboxProcess) -> None:
    result = cli(apart, "--json", "--paste", redirect(sandbox))
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    session = load_session(apart)
    assert session is not None
    assert told["user_id"] == session.user_id
    assert told["expires_at"] == session.expires_at.isoformat()
    assert session.access_token not in result.stdout + result.stderr


def test_a_bad_address_is_one_message_and_exit_1(apart: Settings, sandbox: SandboxProcess) -> None:
    result = cli(apart, "--paste", "http://127.0.0.1:28101/callback?status=cancelled")
    assert result.returncode == 1
    assert "cancelled" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1/?action=login&status=success&request_token=Abc123xyz", "Abc123xyz"),
        ("  https://x.example/cb?request_token=Abc123xyz&action=login\n", "Abc123xyz"),
        ("Abc123xyz", "Abc123xyz"),
    ],
)
def test_the_request_token_is_found(text: str, expected: str) -> None:
    assert request_token(text) == expected


@pytest.mark.parametrize(
    "text", ["", "http://127.0.0.1/callback", "http://127.0.0.1/?status=error&request_token=Abc123xyz"]
)
def test_an_address_without_a_successful_login_is_refused(text: str) -> None:
    with pytest.raises(LoginRefused):
        request_token(text)


@pytest.mark.parametrize(
    ("login_ist", "dies_ist"),
    [
        ("2026-11-23T08:30:00+05:30", "2026-11-24T06:00:00+05:30"),
        ("2026-11-23T05:59:59+05:30", "2026-11-23T06:00:00+05:30"),
        ("2026-11-23T23:00:00+05:30", "2026-11-24T06:00:00+05:30"),
    ],
)
def test_a_session_ends_at_six_in_the_morning(login_ist: str, dies_ist: str) -> None:
    assert session_end(datetime.fromisoformat(login_ist)) == datetime.fromisoformat(dies_ist)
