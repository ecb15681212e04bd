"""Users, API keys and the audit. A key is seen and revoked by its owner and by admins; a secret is told once and kept nowhere."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime, Field

from api.acting import Asking, LinksDep, asks
from api.auth import needs
from api.models import Answer
from api.problems import acting, guarded
from api.requests import Asked
from control.acts import Act
from core.errors import CommandRefused
from core.people import passwords
from core.people.roles import Actor, Role, Scope
from core.storage import api_keys, audit, login_guards, users
from core.storage.views import Cursor

router = APIRouter(tags=["people"])
Managing = Annotated[Asking, asks(Role.ADMIN, Scope.PEOPLE)]
Own = Annotated[Asking, asks(Role.VIEWER, Scope.PEOPLE)]
Looking = Annotated[Actor, needs(Role.VIEWER, Scope.PEOPLE)]

Name = Annotated[str, Path(min_length=1, max_length=64)]
Why = Annotated[str, Field(max_length=500, examples=["joined the desk"])]


class User(Answer):
    name: str
    role: Role
    enabled: bool
    created_at: datetime
    password_set_at: datetime

    @staticmethod
    def of(user: users.User) -> User:
        return User(**{name: getattr(user, name) for name in User.model_fields})


class UserList(Answer):
    users: list[User]


class UserWithPassword(Answer):
    """`password` is told this once; asked again with the same key, it is empty."""

    user: User
    password: str

    def kept(self) -> dict[str, Any]:
        return self.model_copy(update={"password": ""}).model_dump(mode="json")


class Because(Asked):
    """Why, for the audit."""

    reason: Why = ""


class NewUser(Because):
    name: str = Field(min_length=2, max_length=32, examples=["meera"])
    role: Role = Role.VIEWER


class ChangeUser(Because):
    """What to change; what is left out stays."""

    role: Role | None = None
    enabled: bool | None = None


class Nothing(Because):
    """Nothing to say but why."""


class Key(Answer):
    """An API key without its secret."""

    key_id: str
    owner: str
    name: str
    role: Role
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    @staticmethod
    def of(key: api_keys.Key) -> Key:
        return Key(**{**asdict(key), "scopes": list(key.scopes)})


class KeyList(Answer):
    keys: list[Key]


class KeyWithSecret(Answer):
    """`secret` is the whole key, told this once; asked again with the same Idempotency-Key, it is empty."""

    key: Key
    secret: str

    def kept(self) -> dict[str, Any]:
        return self.model_copy(update={"secret": ""}).model_dump(mode="json")


class NewKey(Because):
    name: str = Field(min_length=1, max_length=64, examples=["my bot"])
    role: Role = Role.VIEWER
    scopes: list[Scope] = Field(default=[Scope.READ], min_length=1, max_length=len(Scope))
    expires_at: AwareDatetime | None = None


@router.get("/users", summary="Users", dependencies=[needs(Role.ADMIN, Scope.PEOPLE)], responses=guarded())
async def list_users(links: LinksDep) -> UserList:
    """Everybody who may log in, or might again."""
    return UserList(users=[User.of(user) for user in await users.list_users(links.config)])


@router.post("/users", status_code=201, summary="A new user", responses=acting())
async def add_user(asked: NewUser, asking: Managing) -> UserWithPassword:
    """With a generated password, told this once."""

    async def work(act: Act) -> UserWithPassword:
        password = passwords.generate()
        user = await users.add_user(asking.links.config, act.actor, asked.name, asked.role, password, act.why)
        return UserWithPassword(user=User.of(user), password=password)

    return await asking.once(UserWithPassword, asked.reason, work)


@router.patch("/users/{name}", summary="Change a user", responses=acting(404))
async def change_user(name: Name, asked: ChangeUser, asking: Managing) -> User:
    """Another role holds from the next request on; disabling ends sessions and keys at once. The last admin stays."""

    async def work(act: Act) -> User:
        engine, found = asking.links.config, None
        if asked.role is not None:
            found = await users.set_role(engine, act.actor, name, asked.role, act.why)
        if asked.enabled is not None:
            change = users.enable if asked.enabled else users.disable
            found = await change(engine, act.actor, name, act.why)
        if found is None:
            raise CommandRefused("role, enabled: give one of them")
        return User.of(found)

    return await asking.once(User, asked.reason, work)


@router.post("/users/{name}/reset-password", summary="A new password for a user", responses=acting(404))
async def reset_password(name: Name, asked: Nothing, asking: Managing) -> UserWithPassword:
    """Generated, told this once; ends the user's sessions and any wait after failed logins."""

    async def work(act: Act) -> UserWithPassword:
        password = passwords.generate()
        user = await users.set_password(asking.links.config, act.actor, name, password, act.why)
        await login_guards.forget(asking.links.config, user.name)
        return UserWithPassword(user=User.of(user), password=password)

    return await asking.once(UserWithPassword, asked.reason, work)


@router.get("/keys", summary="API keys", responses=guarded())
async def list_keys(actor: Looking, links: LinksDep) -> KeyList:
    """Yours; everybody's for an admin."""
    whose = None if actor.role is Role.ADMIN else actor.user_id
    return KeyList(keys=[Key.of(key) for key in await api_keys.list_keys(links.config, whose)])


@router.post("/keys", status_code=201, summary="A new API key of yours", responses=acting())
async def add_key(asked: NewKey, asking: Own) -> KeyWithSecret:
    """Told this once. It never may do more than you, and dies with you."""

    async def work(act: Act) -> KeyWithSecret:
        assert act.actor.user_id is not None
        key, secret = await api_keys.make_key(
            asking.links.config,
            act.actor,
            act.actor.user_id,
            asked.name,
            asked.role,
            asked.scopes,
            asked.expires_at,
            why=act.why,
        )
        return KeyWithSecret(key=Key.of(key), secret=secret)

    return await asking.once(KeyWithSecret, asked.reason, work)


@router.delete("/keys/{key_id}", summary="Revoke an API key", responses=acting(404))
async def revoke_key(
    key_id: Name, asking: Own, reason: Annotated[str, Query(max_length=500, description="Why, for the audit.")] = ""
) -> Key:
    """At once and for ever. Yours; anybody's for an admin."""

    async def work(act: Act) -> Key:
        return Key.of(await api_keys.revoke(asking.links.config, act.actor, key_id, act.why))

    return await asking.once(Key, reason, work)


# audit -------------------------------------------------------------------------------------------------------------------


class AuditEntry(Answer):
    """Who did what, before, after, from where and why. `asked`: another part does it; the order's page says what became of it."""

    audit_id: UUID
    at: datetime
    actor: str
    via: str
    origin: str
    action: str
    subject: str
    outcome: str
    reason: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: UUID | None


class AuditPage(Answer):
    """Newest first. `next` is the cursor of the following page, None on the last one."""

    entries: list[AuditEntry]
    next: str | None


@router.get("/audit", summary="The audit", dependencies=[needs(Role.TRADER, Scope.PEOPLE)], responses=guarded())
async def read_audit(
    links: LinksDep,
    actor: Annotated[str | None, Query(max_length=64)] = None,
    action: Annotated[
        str | None, Query(max_length=64, description="`kill.engage`, or all that begins with `kill.`")
    ] = None,
    subject: Annotated[str | None, Query(max_length=200)] = None,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> AuditPage:
    """Every change, newest first."""
    after = Cursor.decode(cursor) if cursor is not None else None
    rows = await audit.entries(links.config, actor=actor, action=action, subject=subject, after=after, limit=limit + 1)
    page = rows[:limit]
    following = Cursor(page[-1].at, page[-1].audit_id).encode() if len(rows) > limit else None
    return AuditPage(entries=[AuditEntry(**asdict(row)) for row in page], next=following)
