"""Logging in and out, one's own password, and whose session it is. Never logs, returns or audits a password or token."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field, SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth import (
    ACCESS_COOKIE,
    CSRF_COOKIE,
    REFRESH_COOKIE,
    Viewer,
    from_elsewhere,
    needs,
    open_to_all,
    origin_of,
)
from api.deps import ReadsDep, SettingsDep
from api.models import Answer
from api.problems import OF_A_BODY, documented
from api.requests import Asked
from core.clock import utc_now
from core.errors import CommandRefused, NotAllowed, NotLoggedIn
from core.people import passwords, tokens
from core.people.roles import Actor, Role, Scope
from core.storage import audit, login_guards, sessions, users

router = APIRouter(prefix="/auth", tags=["people"])
REFRESH_PATH = "/api/v1/auth"


class Login(Asked):
    name: str = Field(min_length=1, max_length=64, examples=["admin"])
    password: SecretStr = Field(max_length=passwords.LONGEST, examples=["four-groups-of-five"])
    cookies: bool = Field(
        default=False, description="For browsers: the tokens come as HttpOnly cookies instead of in the answer."
    )


class Refresh(Asked):
    refresh_token: SecretStr | None = Field(default=None, max_length=200, description="Without it, the cookie's.")


class PasswordChange(Asked):
    old: SecretStr = Field(max_length=passwords.LONGEST)
    new: SecretStr = Field(max_length=passwords.LONGEST)


class Me(Answer):
    """Who asks, what they may do, and where real money is on."""

    name: str
    role: Role
    scopes: list[Scope]
    via: str = Field(description="`session`, or `key` with its id.", examples=["session"])
    target: str = Field(description="Where zerodha's orders end up.", examples=["local"])
    real_money: bool = Field(description="True where orders of zerodha reach an exchange.")
    csrf_token: str | None = Field(description="For cookie sessions: send it in X-CSRF-Token with every change.")


class Tokens(Answer):
    """A session. The tokens are empty where they came as cookies."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - the scheme's name (RFC 6750)
    expires_in: int = Field(description="Seconds the access token is good for.", examples=[900])
    refresh_token: str = Field(
        description="Good once. Use it before the access token ends; used twice ends the session."
    )
    session_ends_at: datetime
    me: Me


@router.post(
    "/login",
    summary="Begin a session",
    dependencies=[open_to_all],
    responses=documented(*OF_A_BODY, 401, 403, 422, 429, 503),
)
async def login(asked: Login, request: Request, response: Response, reads: ReadsDep, settings: SettingsDep) -> Tokens:
    """Open: it is how one becomes known. After five failures in a row nothing is checked for a while that doubles (429)."""
    if asked.cookies and (
        elsewhere := from_elsewhere(request)
    ):  # else another site could log people in as somebody else
        raise NotAllowed(f"Cookies are given to our own pages alone, not to {elsewhere}.")
    origin = origin_of(request)
    await login_guards.check_and_count(reads.engine, asked.name, origin)
    user = await users.find_user(reads.engine, asked.name)
    good = await passwords.matches(asked.password.get_secret_value(), user.password_hash if user else None)
    if not good or user is None or not user.enabled:
        await _note_failure(reads.engine, user, origin)
        raise NotLoggedIn("Name or password is wrong.")
    await login_guards.forget(reads.engine, user.name, origin)
    session = await sessions.begin(reads.engine, user.user_id, user.name, user.role, origin)
    return _answer(settings, request, response, session, cookies=asked.cookies)


@router.post(
    "/refresh",
    summary="Carry a session on",
    dependencies=[open_to_all],
    responses=documented(*OF_A_BODY, 401, 403, 422, 503),
)
async def refresh(
    asked: Refresh, request: Request, response: Response, reads: ReadsDep, settings: SettingsDep
) -> Tokens:
    """Open: the refresh token says who. Each is good once: used again, it ends the session for everybody who holds it.

    Only within 10 seconds, from the same address and while its successor is unused, is it answered with that successor again.
    """
    given = asked.refresh_token.get_secret_value() if asked.refresh_token else None
    token = given or request.cookies.get(REFRESH_COOKIE, "")
    if not token:
        raise NotLoggedIn("Give a refresh_token, or log in.")
    if given is None and (elsewhere := from_elsewhere(request)):
        raise NotAllowed(f"A session is carried on from our own pages alone, not from {elsewhere}.")
    session = await sessions.carry_on(reads.engine, settings.api_jwt_secret, token, origin_of(request))
    return _answer(settings, request, response, session, cookies=given is None)


@router.post("/logout", summary="End this session", status_code=204, responses=documented(*OF_A_BODY, 401, 403, 503))
async def logout(actor: Annotated[Actor, needs(Role.VIEWER, person=True)], reads: ReadsDep, response: Response) -> None:
    """Its tokens are refused from now on."""
    assert actor.session_id is not None
    await sessions.end(reads.engine, actor.session_id, actor)
    for name, path in ((ACCESS_COOKIE, "/"), (CSRF_COOKIE, "/"), (REFRESH_COOKIE, REFRESH_PATH)):
        response.delete_cookie(name, path=path)


@router.get("/me", summary="Who am I?", responses=documented(401, 403, 503))
async def me(actor: Viewer, settings: SettingsDep) -> Me:
    """Name, role, scopes, and which target real money is on."""
    return me_of(settings, actor)


@router.post(
    "/password",
    summary="Change my password",
    status_code=204,
    responses=documented(*OF_A_BODY, 401, 403, 422, 429, 503),
)
async def password(
    asked: PasswordChange, actor: Annotated[Actor, needs(Role.VIEWER, person=True)], reads: ReadsDep
) -> None:
    """Every other session of yours ends."""
    await login_guards.check_and_count(reads.engine, actor.name, actor.origin)
    user = await users.find_user(reads.engine, actor.name)
    if user is None or not await passwords.matches(asked.old.get_secret_value(), user.password_hash):
        raise CommandRefused("old: is not your password")
    await login_guards.forget(reads.engine, actor.name, actor.origin)
    await users.set_password(reads.engine, actor, actor.name, asked.new.get_secret_value(), keep=actor.session_id)


async def _note_failure(engine: AsyncEngine, user: users.User | None, origin: str) -> None:
    """A name nobody has is not kept: people type passwords there."""
    who = Actor(user.name if user else "(unknown)", Role.VIEWER, "login", origin)
    await audit.note(engine, who, "login.failed", who.name, outcome=audit.Outcome.REFUSED)


def me_of(settings: SettingsDep, actor: Actor) -> Me:
    return Me(
        name=actor.name,
        role=actor.role,
        scopes=sorted(actor.scopes),
        via=actor.via,
        target=settings.kite_target.value,
        real_money=settings.real_money,
        csrf_token=tokens.csrf(settings.api_jwt_secret, actor.session_id) if actor.session_id else None,
    )


def _answer(
    settings: SettingsDep, request: Request, response: Response, session: sessions.Session, *, cookies: bool
) -> Tokens:
    now = utc_now()
    access = tokens.sign(settings.api_jwt_secret, session.user_id, session.session_id, now)
    refresh_token = session.refresh_token or ""
    response.headers["Cache-Control"] = "no-store"
    if cookies:
        secure = request.url.scheme == "https"
        csrf = tokens.csrf(settings.api_jwt_secret, session.session_id)
        rows = (
            (ACCESS_COOKIE, access, tokens.ACCESS_LIFE, "/", True),
            (REFRESH_COOKIE, refresh_token, tokens.REFRESH_LIFE, REFRESH_PATH, True),
            (CSRF_COOKIE, csrf, tokens.SESSION_LIFE, "/", False),
        )
        for name, value, life, path, hidden in rows:
            _set(response, name, value, life, path, hidden=hidden, secure=secure)
        access = refresh_token = ""
    return Tokens(
        access_token=access,
        expires_in=int(tokens.ACCESS_LIFE.total_seconds()),
        refresh_token=refresh_token,
        session_ends_at=session.expires_at,
        me=me_of(settings, session.actor(origin_of(request))),
    )


def _set(response: Response, name: str, value: str, life: timedelta, path: str, *, hidden: bool, secure: bool) -> None:
    seconds = int(life.total_seconds())
    response.set_cookie(name, value, max_age=seconds, path=path, httponly=hidden, secure=secure, samesite="strict")
