"""Sessions and their refresh tokens: begun by a login, carried on by the newest token alone, ended by whoever may.

Never carries a session on by a token used before: that ends it, since one of the two holders stole it. The one exception hands out
nothing new: the same address asking again within seconds gets the same successor, while nobody has used that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import utc_now
from core.errors import NotLoggedIn
from core.ids import new_id
from core.people import tokens
from core.people.roles import Actor, Role
from core.storage import audit
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_access import RefreshTokenRow, SessionRow, UserRow

USERS = table_of(UserRow)
SESSIONS = table_of(SessionRow)
REFRESH = table_of(RefreshTokenRow)

OVER = "The session is over: log in again."


@dataclass(frozen=True, slots=True)
class Session:
    """A session that goes on, and whose it is. `refresh_token` only where one was just made."""

    session_id: UUID
    user_id: UUID
    user: str
    role: Role
    expires_at: datetime
    refresh_token: str | None = None

    def actor(self, origin: str) -> Actor:
        return Actor(
            name=self.user,
            role=self.role,
            via="session",
            origin=origin,
            user_id=self.user_id,
            session_id=self.session_id,
        )


async def begin(engine: AsyncEngine, user_id: UUID, name: str, role: Role, origin: str) -> Session:
    """A new session with its first refresh token. Raises Transient."""
    now = utc_now()
    session_id, expires = new_id(), now + tokens.SESSION_LIFE
    row = {"session_id": session_id, "user_id": user_id, "created_at": now, "origin": origin, "expires_at": expires}
    async with transient("beginning a session"), engine.begin() as connection:
        await connection.execute(insert(SESSIONS).values(row))
        token = tokens.new_refresh()
        await _issue(connection, token, session_id, now, expires)
        session = Session(session_id, user_id, name, role, expires, token)
        await audit.write(connection, session.actor(origin), "login", name)
    return session


async def live(engine: AsyncEngine, session_id: UUID, user_id: UUID) -> Session:
    """The session as it is now: revoked, expired or disabled means over, whatever the access token says.

    Raises:
        NotLoggedIn: it is over. Transient: the database is away.
    """
    async with transient("reading a session"), engine.connect() as connection:
        found = await _live(connection, session_id)
    if found is None or found.user_id != user_id:
        raise NotLoggedIn(OVER)
    return found


async def carry_on(engine: AsyncEngine, secret: SecretStr, refresh_token: str, origin: str) -> Session:
    """Take a refresh token for its successor. A token used before ends the session, but for a moment at the same address.

    Raises:
        NotLoggedIn: the token is unknown, used before, or too old; or the session is over.
        Transient: the database is away.
    """
    now, hashed, following = utc_now(), tokens.hash_of(refresh_token), tokens.successor(secret, refresh_token)
    async with transient("carrying on a session"), engine.begin() as connection:
        use = update(REFRESH).where(REFRESH.c.token_hash == hashed, REFRESH.c.used_at.is_(None))
        using = use.values(used_at=now, used_from=origin).returning(REFRESH)
        fresh = (
            (await connection.execute(using)).mappings().one_or_none()
        )  # of two at once, one waits here for the other
        if fresh is not None:
            found = await _live(connection, fresh["session_id"]) if fresh["expires_at"] > now else None
            if found is not None:
                await _issue(connection, following, found.session_id, now, found.expires_at)
        else:
            found = await _asked_again(connection, hashed, following, origin, now)
            if found is None:
                await _reused(connection, hashed, origin)
    if found is None:
        raise NotLoggedIn(OVER)
    return Session(found.session_id, found.user_id, found.user, found.role, found.expires_at, following)


async def end(engine: AsyncEngine, session_id: UUID, actor: Actor, why: str = "logout") -> None:
    """End it; its access tokens are refused from now on. Ending twice is once. Raises Transient."""
    async with transient("ending a session"), engine.begin() as connection:
        if await _end(connection, session_id, why):
            await audit.write(connection, actor, "logout", actor.name, reason=why)


async def _issue(connection: AsyncConnection, token: str, session_id: UUID, now: datetime, over_at: datetime) -> None:
    row = {
        "token_hash": tokens.hash_of(token),
        "session_id": session_id,
        "issued_at": now,
        "expires_at": min(now + tokens.REFRESH_LIFE, over_at),
    }
    await connection.execute(insert(REFRESH).values(row))


async def _asked_again(
    connection: AsyncConnection, hashed: str, following: str, origin: str, now: datetime
) -> Session | None:
    """The session, where this token was used a moment ago from the same address and its successor was not used yet."""
    moment_ago = select(REFRESH.c.session_id).where(
        REFRESH.c.token_hash == hashed,
        REFRESH.c.used_at > now - tokens.REFRESH_GRACE,
        REFRESH.c.used_from == origin,
    )
    session_id = await connection.scalar(moment_ago)
    if session_id is None:
        return None
    unused = select(REFRESH.c.token_hash).where(
        REFRESH.c.token_hash == tokens.hash_of(following), REFRESH.c.used_at.is_(None)
    )
    if await connection.scalar(unused.with_for_update()) is None:
        return None
    return await _live(connection, session_id)


async def _reused(connection: AsyncConnection, hashed: str, origin: str) -> None:
    session_id = await connection.scalar(select(REFRESH.c.session_id).where(REFRESH.c.token_hash == hashed))
    if session_id is None:
        return
    found = await _live(connection, session_id)
    if found is not None and await _end(connection, session_id, "refresh token used twice"):
        reason = "a refresh token was used twice: the session is ended, somebody may have stolen it"
        await audit.write(connection, found.actor(origin), "session.stolen", found.user, reason=reason)


async def _end(connection: AsyncConnection, session_id: UUID, why: str) -> bool:
    statement = update(SESSIONS).where(SESSIONS.c.session_id == session_id, SESSIONS.c.ended_at.is_(None))
    return bool((await connection.execute(statement.values(ended_at=utc_now(), ended_why=why))).rowcount)


async def _live(connection: AsyncConnection, session_id: UUID) -> Session | None:
    query = (
        select(SESSIONS.c.expires_at, USERS.c.user_id, USERS.c.name, USERS.c.role)
        .select_from(SESSIONS.join(USERS, SESSIONS.c.user_id == USERS.c.user_id))
        .where(
            SESSIONS.c.session_id == session_id,
            SESSIONS.c.ended_at.is_(None),
            SESSIONS.c.expires_at > utc_now(),
            USERS.c.disabled_at.is_(None),
        )
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Session(session_id, row.user_id, row.name, Role(row.role), row.expires_at)
