"""Getting a session: from a redirect address a person brings, or from the local sandbox's own login page by ourselves.

Never asks for or sees a password, and never logs a token. Only the local sandbox is ever logged in to without a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import httpx

from core import logging
from core.brokers.kite_http import exchange_token, session_works
from core.brokers.zerodha_session import Session, load_session, write_session
from core.config import Settings
from core.errors import BrokerError, SessionMissing, StopTheStart, Transient

LOCK_S = 20.0
LOGIN_TIMEOUT_S = 7.0
_REQUEST_TOKEN = re.compile(r"^[A-Za-z0-9]{6,128}$")

log = logging.get(__name__)


class LoginRefused(BrokerError):
    """What the person brought back is no successful login; the message says what it was and what to do."""


def request_token(redirect: str) -> str:
    """The request_token in a redirect address (or the token itself, as pasted).

    Raises:
        LoginRefused: no token in it, or the login did not succeed.
    """
    text = redirect.strip()
    if _REQUEST_TOKEN.match(text):
        return text
    query = parse_qs(urlsplit(text).query)
    status = query.get("status", ["success"])[0]
    if status != "success":
        raise LoginRefused(f"Zerodha says the login ended with status {status!r}: open the login address again.")
    token = query.get("request_token", [""])[0]
    if not _REQUEST_TOKEN.match(token):
        raise LoginRefused(
            "No request_token in what was given: paste the whole address the browser ended on, "
            "it contains `request_token=`."
        )
    return token


async def login_with(settings: Settings, redirect: str) -> Session:
    """Exchange what the redirect address carries and write the target's session file.

    Raises:
        LoginRefused, BrokerError: see the message. Transient: the broker is away.
    """
    session = await exchange_token(settings, request_token(redirect))
    write_session(settings, session)
    log.info(
        "logged in", target=settings.kite_target.value, user_id=session.user_id, until=session.expires_at.isoformat()
    )
    return session


def require_session(settings: Settings) -> Session:
    """The target's valid session.

    Raises:
        SessionMissing: there is none, or it expired; the message names the command to run.
    """
    session = load_session(settings)
    if session is None:
        raise SessionMissing(
            f"No valid Zerodha session for KITE_TARGET={settings.kite_target.value} "
            "(sessions end at 06:00 IST each day): run `alpha-panda login`."
        )
    return session


async def ensure_local_session(settings: Settings) -> Session:
    """A session the local sandbox accepts: the stored one if it still works, else a new login. Safe to call from anywhere.

    A new login ends the one before, so processes take turns and the second finds the first's session.

    Raises:
        StopTheStart: KITE_TARGET is not local; the sandbox refuses our key or secret.
        Transient: the sandbox is away.
    """
    if not settings.simulated:
        raise StopTheStart(
            f"KITE_TARGET={settings.kite_target.value} needs a person to log in: run `alpha-panda login`."
        )
    async with _turn(settings):
        stored = load_session(settings)
        if stored is not None and await session_works(settings, stored):
            return stored
        try:
            session = await login_with(settings, await _sandbox_login(settings))
        except BrokerError as error:
            raise StopTheStart(
                f"The local sandbox refuses our login: {error}. Its key and secret come from the same .env "
                "(KITE_API_KEY, KITE_API_SECRET, KITE_USER_ID): start it again with `make up`."
            ) from error
        log.info("local sandbox: logged in by ourselves", user_id=session.user_id)
        return session


async def _sandbox_login(settings: Settings) -> str:
    """Press the button of the sandbox's login page; returns the address it sends the browser to."""
    where = f"{settings.kite_root}/connect/login"
    try:
        async with httpx.AsyncClient(timeout=LOGIN_TIMEOUT_S, trust_env=False) as client:
            answer = await client.post(where, params={"v": "3"}, data={"api_key": settings.kite_api_key})
    except httpx.HTTPError as error:
        raise Transient(f"sandbox at {settings.kite_root} is away: {type(error).__name__}", part="sandbox") from error
    if answer.status_code >= 500:
        raise Transient(f"sandbox at {settings.kite_root} answered HTTP {answer.status_code}", part="sandbox")
    location = answer.headers.get("location", "")
    if answer.status_code != 302 or not location:
        raise LoginRefused(f"the login page answered HTTP {answer.status_code} without a redirect")
    return str(location)


@contextlib.asynccontextmanager
async def _turn(settings: Settings) -> AsyncIterator[None]:
    """One login at a time among all processes of this deployment."""
    path = settings.session_file.with_suffix(".lock")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            async with asyncio.timeout(LOCK_S):
                while not _locked(handle):  # noqa: ASYNC110 - another process holds it
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Transient(f"sandbox login: another process holds {path.name} for over {LOCK_S:.0f} s") from None
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
