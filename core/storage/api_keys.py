"""API keys of programs: made for their owner, shown once, found by their hash, revoked. Never more than the owner may do.

A key can be seen and revoked by its owner and by admins, by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import utc_now
from core.errors import CommandRefused, NotLoggedIn, StopTheStart
from core.people import tokens
from core.people.roles import Actor, Role, Scope, weaker
from core.storage import audit
from core.storage.audit import UNSAID, Why
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_access import ApiKeyRow, UserRow

KEYS = table_of(ApiKeyRow)
USERS = table_of(UserRow)

SEEN_EVERY = timedelta(minutes=1)
"""`last_used_at` is written at most that often."""
MOST = 50
"""Living keys a user."""


class UnknownKey(StopTheStart):
    """No such key, or it is not yours to see."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret."""

    key_id: str
    owner: str
    name: str
    role: Role
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


async def make_key(
    engine: AsyncEngine,
    actor: Actor,
    user_id: UUID,
    name: str,
    role: Role,
    scopes: Iterable[Scope],
    expires_at: datetime | None,
    owner: str | None = None,
    why: Why = UNSAID,
) -> tuple[Key, str]:
    """A new key of this user and its text, which nobody is told again.

    Raises:
        CommandRefused: more than its owner or the asker may do, expired, or too many keys.
        Transient: the database is away.
    """
    wanted = tuple(scope for scope in Scope if scope in set(scopes))
    if not actor.role.covers(role) or not set(wanted) <= actor.scopes:
        raise CommandRefused(f"role, scopes: you have {actor.role} and {_names(actor.scopes)}, a key has no more")
    if not wanted:
        raise CommandRefused(f"scopes: name at least one of {_names(Scope)}")
    now = utc_now()
    if expires_at is not None and expires_at <= now:
        raise CommandRefused("expires_at: is past")
    made = tokens.new_key()
    key = Key(made.key_id, owner or actor.name, name, role, wanted, now, expires_at, None, None)
    row = {
        "key_id": key.key_id,
        "user_id": user_id,
        "name": name,
        "role": role.value,
        "scopes": [scope.value for scope in wanted],
        "secret_hash": made.secret_hash,
        "created_at": now,
        "expires_at": expires_at,
    }
    living = select(func.count()).select_from(KEYS).where(KEYS.c.user_id == user_id, KEYS.c.revoked_at.is_(None))
    async with transient("making an API key"), engine.begin() as connection:
        if (await connection.scalar(living) or 0) >= MOST:
            raise CommandRefused(f"{key.owner} has {MOST} keys: revoke one first")
        await connection.execute(insert(KEYS).values(row))
        await audit.write(
            connection, actor, "key.add", key.key_id, after=_told(key), reason=why.reason, request_id=why.request_id
        )
    return key, made.text


async def actor_of(engine: AsyncEngine, text: str, origin: str) -> Actor:
    """Who uses this key.

    Raises:
        NotLoggedIn: it is none of ours, revoked, expired, or its owner is disabled.
        Transient: the database is away.
    """
    found = tokens.split_key(text)
    if found is None:
        raise NotLoggedIn("The API key is not good.")
    key_id, hashed = found
    now = utc_now()
    query = (
        select(KEYS, USERS.c.name.label("owner"), USERS.c.role.label("owner_role"))
        .select_from(KEYS.join(USERS, KEYS.c.user_id == USERS.c.user_id))
        .where(
            KEYS.c.key_id == key_id,
            KEYS.c.revoked_at.is_(None),
            or_(KEYS.c.expires_at.is_(None), KEYS.c.expires_at > now),
            USERS.c.disabled_at.is_(None),
        )
    )
    async with transient("reading an API key"), engine.begin() as connection:
        row = (await connection.execute(query)).mappings().one_or_none()
        if row is None or not tokens.same(row["secret_hash"], hashed):
            raise NotLoggedIn("The API key is not good.")
        if row["last_used_at"] is None or now - row["last_used_at"] > SEEN_EVERY:
            await connection.execute(update(KEYS).where(KEYS.c.key_id == key_id).values(last_used_at=now))
    return Actor(
        name=row["owner"],
        role=weaker(Role(row["role"]), Role(row["owner_role"])),
        via=f"key {key_id}",
        origin=origin,
        scopes=frozenset(Scope(scope) for scope in row["scopes"]),
        user_id=row["user_id"],
    )


async def list_keys(engine: AsyncEngine, user_id: UUID | None) -> list[Key]:
    """Keys of one user, or everybody's; newest first. Raises Transient."""
    query = (
        select(KEYS, USERS.c.name.label("owner"))
        .select_from(KEYS.join(USERS, KEYS.c.user_id == USERS.c.user_id))
        .order_by(KEYS.c.created_at.desc())
    )
    if user_id is not None:
        query = query.where(KEYS.c.user_id == user_id)
    async with transient("reading API keys"), engine.connect() as connection:
        return [_key(row) for row in (await connection.execute(query)).mappings()]


async def revoke(engine: AsyncEngine, actor: Actor, key_id: str, why: Why = UNSAID) -> Key:
    """End a key: at once, for ever. An admin may end everybody's, others their own.

    Raises:
        UnknownKey: there is none, or it is somebody else's. Transient.
    """
    query = (
        select(KEYS, USERS.c.name.label("owner"))
        .select_from(KEYS.join(USERS, KEYS.c.user_id == USERS.c.user_id))
        .where(KEYS.c.key_id == key_id)
        .with_for_update(of=KEYS)
    )
    async with transient("revoking an API key"), engine.begin() as connection:
        row = (await connection.execute(query)).mappings().one_or_none()
        if row is None or (row["user_id"] != actor.user_id and actor.role is not Role.ADMIN):
            raise UnknownKey(f"You have no key {key_id!r}.")
        key = _key(row)
        if key.revoked_at is None:
            now = utc_now()
            await connection.execute(update(KEYS).where(KEYS.c.key_id == key_id).values(revoked_at=now))
            await audit.write(
                connection, actor, "key.revoke", key_id, before=_told(key), reason=why.reason, request_id=why.request_id
            )
            return _key({**row, "revoked_at": now})
        return key


def _told(key: Key) -> dict[str, Any]:
    expires = key.expires_at.isoformat() if key.expires_at else None
    scopes = [scope.value for scope in key.scopes]
    return {"owner": key.owner, "name": key.name, "role": key.role.value, "scopes": scopes, "expires_at": expires}


def _names(scopes: Iterable[Scope]) -> str:
    return ", ".join(sorted(scope.value for scope in scopes))


def _key(row: Any) -> Key:
    return Key(
        key_id=row["key_id"],
        owner=row["owner"],
        name=row["name"],
        role=Role(row["role"]),
        scopes=tuple(Scope(scope) for scope in row["scopes"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )
