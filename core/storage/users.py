"""Users as rows: made, found, given another role or password, disabled. Every change writes its audit row in the same transaction.

Never deletes a user, and never leaves the deployment without an enabled admin.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import utc_now
from core.errors import CommandRefused, StopTheStart
from core.ids import new_id
from core.people import passwords
from core.people.roles import NAME, Actor, Role
from core.storage import audit
from core.storage.audit import UNSAID, Why
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_access import ApiKeyRow, SessionRow, UserRow

USERS = table_of(UserRow)
SESSIONS = table_of(SessionRow)
KEYS = table_of(ApiKeyRow)

FIRST = "admin"
"""The first user's name."""


class UnknownUser(StopTheStart):
    """No user of that name."""


class NameTaken(CommandRefused):
    """There is a user of that name already."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as stored. `password_hash` never leaves core."""

    user_id: UUID
    name: str
    password_hash: str
    role: Role
    created_at: datetime
    password_set_at: datetime
    disabled_at: datetime | None

    @property
    def enabled(self) -> bool:
        return self.disabled_at is None

    def told(self) -> dict[str, Any]:
        """What the audit holds of a user."""
        return {"role": self.role.value, "enabled": self.enabled}


async def add_user(engine: AsyncEngine, actor: Actor, name: str, role: Role, password: str, why: Why = UNSAID) -> User:
    """A new user.

    Raises:
        CommandRefused: the name or the password will not do; NameTaken: there is one.
        Transient: the database is away.
    """
    name = name.lower()
    if not NAME.fullmatch(name):
        raise CommandRefused("name: 2 to 32 of a-z 0-9 . _ -, beginning with a letter")
    return await _add(engine, actor, name, role, await _checked_hash(password, name), why)


async def _add(engine: AsyncEngine, actor: Actor, name: str, role: Role, hashed: str, why: Why = UNSAID) -> User:
    now = utc_now()
    row = User(new_id(), name, hashed, role, now, now, None)
    try:
        async with transient("adding a user"), engine.begin() as connection:
            await connection.execute(insert(USERS).values(**_columns(row)))
            after = row.told()
            await audit.write(
                connection, actor, "user.add", name, after=after, reason=why.reason, request_id=why.request_id
            )
    except IntegrityError:
        raise NameTaken(f"name: there is a user {name!r} already") from None
    return row


async def first_admin(engine: AsyncEngine, actor: Actor, hashed: str) -> bool:
    """Where there is no user yet: make the admin whose password has this hash. Whether it did; of two callers at once one does."""
    async with transient("looking for users"), engine.connect() as connection:
        if await connection.scalar(select(func.count()).select_from(USERS)):
            return False
    try:
        await _add(engine, actor, FIRST, Role.ADMIN, hashed)
    except NameTaken:
        return False
    return True


async def list_users(engine: AsyncEngine) -> list[User]:
    """By name. Raises Transient."""
    async with transient("reading users"), engine.connect() as connection:
        return [_user(row) for row in (await connection.execute(select(USERS).order_by(USERS.c.name))).mappings()]


async def find_user(engine: AsyncEngine, name: str) -> User | None:
    """Raises Transient."""
    async with transient("reading a user"), engine.connect() as connection:
        row = (await connection.execute(select(USERS).where(USERS.c.name == name.lower()))).mappings().one_or_none()
        return None if row is None else _user(row)


async def set_role(engine: AsyncEngine, actor: Actor, name: str, role: Role, why: Why = UNSAID) -> User:
    """Give another role; it holds from the next request on.

    Raises:
        UnknownUser: there is none. CommandRefused: it is the last admin.
        Transient: the database is away.
    """
    return await _change(engine, actor, "user.role", name, {"role": role.value}, why)


async def disable(engine: AsyncEngine, actor: Actor, name: str, why: Why = UNSAID) -> User:
    """End the user's sessions and keys and let no new login in. Raises as `set_role`."""
    return await _change(engine, actor, "user.disable", name, {"disabled_at": utc_now()}, why)


async def enable(engine: AsyncEngine, actor: Actor, name: str, why: Why = UNSAID) -> User:
    """Let the user log in again; keys that were revoked stay so. Raises as `set_role`."""
    return await _change(engine, actor, "user.enable", name, {"disabled_at": None}, why)


async def set_password(
    engine: AsyncEngine, actor: Actor, name: str, password: str, why: Why = UNSAID, *, keep: UUID | None = None
) -> User:
    """A new password; every session of the user ends but `keep`.

    Raises:
        UnknownUser: there is none. CommandRefused: the password will not do.
        Transient: the database is away.
    """
    hashed = await _checked_hash(password, name.lower())
    values = {"password_hash": hashed, "password_set_at": utc_now()}
    return await _change(engine, actor, "user.password", name, values, why, keep=keep)


async def _checked_hash(password: str, name: str) -> str:
    wrong = passwords.refusal(password, name)
    if wrong:
        raise CommandRefused(wrong)
    return await passwords.hash_of(password)


async def _change(
    engine: AsyncEngine,
    actor: Actor,
    action: str,
    name: str,
    values: dict[str, Any],
    why: Why,
    *,
    keep: UUID | None = None,
) -> User:
    async with transient("changing a user"), engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('alpha-panda users'))"))
        before = await _locked(connection, name)
        await connection.execute(update(USERS).where(USERS.c.user_id == before.user_id).values(**values))
        after = await _locked(connection, name)
        admins = (
            select(func.count()).select_from(USERS).where(USERS.c.role == Role.ADMIN, USERS.c.disabled_at.is_(None))
        )
        if before.role is Role.ADMIN and not await connection.scalar(admins):
            raise CommandRefused(f"{name} is the last admin: make another one first")
        if action in {"user.disable", "user.password"}:
            await _end_sessions(connection, before.user_id, action, keep)
        if action == "user.disable":
            live = (KEYS.c.user_id == before.user_id, KEYS.c.revoked_at.is_(None))
            await connection.execute(update(KEYS).where(*live).values(revoked_at=utc_now()))
        await audit.write(
            connection,
            actor,
            action,
            before.name,
            reason=why.reason,
            before=before.told(),
            after=after.told(),
            request_id=why.request_id,
        )
        return after


async def _end_sessions(connection: AsyncConnection, user_id: UUID, why: str, keep: UUID | None) -> None:
    live = [SESSIONS.c.user_id == user_id, SESSIONS.c.ended_at.is_(None)]
    if keep is not None:
        live.append(SESSIONS.c.session_id != keep)
    await connection.execute(update(SESSIONS).where(*live).values(ended_at=utc_now(), ended_why=why))


async def _locked(connection: AsyncConnection, name: str) -> User:
    query = select(USERS).where(USERS.c.name == name.lower()).with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise UnknownUser(f"There is no user {name!r}.")
    return _user(row)


def _columns(user: User) -> dict[str, Any]:
    return {field: getattr(user, field) for field in User.__dataclass_fields__} | {"role": user.role.value}


def _user(row: Any) -> User:
    return User(**{**row, "role": Role(row["role"])})
