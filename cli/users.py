"""`alpha-panda users | keys`: who may log in at the control room, with which role, and the keys of programs.

A password or key is shown once and never asked for on the command line, where other programs could read it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from cli import show
from cli.acting import here
from cli.progress import console
from core.errors import CommandRefused, StopTheStart
from core.people.roles import Role, Scope

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.config import Settings

T = TypeVar("T")

NAME = typer.Argument(metavar="NAME", help="The user, as `alpha-panda users list` names them.")
JSON = typer.Option(False, "--json", help="JSON instead of text.")
ASK = typer.Option(False, "--ask-password", help="Type the password instead of having one generated.")


def register(app: typer.Typer) -> None:
    users = typer.Typer(no_args_is_help=True, help="People who may log in at the control room.")
    keys = typer.Typer(no_args_is_help=True, help="API keys of programs.")
    app.add_typer(users, name="users")
    app.add_typer(keys, name="keys")
    _register_users(users)
    _register_keys(keys)


def _register_users(group: typer.Typer) -> None:
    @group.command("list")
    def list_(as_json: bool = JSON) -> None:
        """List users with their roles."""
        from core.storage.users import list_users

        found = _run(list_users)
        if as_json:
            show.print_rows([_plain(asdict(user)) for user in found])
            return
        shown = show.table(("name", "left"), ("role", "left"), ("since", "left"), ("state", "left"))
        for user in found:
            state = "[green]may log in[/]" if user.enabled else "[red]disabled[/]"
            shown.add_row(show.text(user.name), user.role.value, f"{user.created_at:%Y-%m-%d}", state)
        show.put(shown if found else "No users yet: `make up` makes the first, `admin`.")

    @group.command()
    def add(
        name: str = NAME, role: Role = typer.Option(Role.VIEWER, help="What they may do."), ask: bool = ASK
    ) -> None:
        """Add a user; the generated password is shown once."""
        from core.storage.users import add_user

        password, typed = _password(ask)
        user = _run(lambda engine: add_user(engine, here(), name, role, password))
        _say_password(user.name, password, typed)

    @group.command("role")
    def role_(name: str = NAME, role: Role = typer.Argument(help="viewer, trader or admin.")) -> None:
        """Give a user another role; it holds from their next request on."""
        from core.storage.users import set_role

        user = _run(lambda engine: set_role(engine, here(), name, role))
        console.print(f"{show.text(user.name)} is {user.role} now.")

    @group.command()
    def disable(name: str = NAME) -> None:
        """Let a user in no more: sessions and keys end at once."""
        from core.storage.users import disable as end

        user = _run(lambda engine: end(engine, here(), name))
        console.print(f"{show.text(user.name)} is disabled; sessions and keys have ended.")

    @group.command()
    def enable(name: str = NAME) -> None:
        """Let a disabled user in again."""
        from core.storage.users import enable as begin

        user = _run(lambda engine: begin(engine, here(), name))
        console.print(f"{show.text(user.name)} may log in again.")

    @group.command("reset-password")
    def reset_password(name: str = NAME, ask: bool = ASK) -> None:
        """Give a user a new password, shown once; ends their sessions and any wait after failed logins."""
        from core.storage import login_guards
        from core.storage.users import set_password

        password, typed = _password(ask)

        async def work(engine: AsyncEngine) -> str:
            user = await set_password(engine, here(), name, password)
            await login_guards.forget(engine, user.name)
            return user.name

        _say_password(_run(work), password, typed)


def _register_keys(group: typer.Typer) -> None:
    @group.command("list")
    def list_(as_json: bool = JSON) -> None:
        """List API keys, without their secrets."""
        from core.storage.api_keys import list_keys

        found = _run(lambda engine: list_keys(engine, None))
        if as_json:
            show.print_rows([_plain(asdict(key)) for key in found])
            return
        shown = show.table(
            ("key", "left"),
            ("owner", "left"),
            ("name", "left"),
            ("role", "left"),
            ("scopes", "fold"),
            ("state", "left"),
        )
        for key in found:
            state = "revoked" if key.revoked_at else f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "good"
            shown.add_row(
                key.key_id, show.text(key.owner), show.text(key.name), key.role.value, ", ".join(key.scopes), state
            )
        show.put(shown if found else "No API keys.")

    @group.command()
    def add(
        owner: str = typer.Argument(metavar="USER", help="Whose key it is: it never may do more than they."),
        name: str = typer.Option(..., help="What it is for."),
        role: Role = typer.Option(Role.VIEWER, help="What it may do at most."),
        scope: list[Scope] = typer.Option([Scope.READ], help="What it may be used for. May be repeated."),
        days: int | None = typer.Option(
            None, min=1, max=3650, help="Good for that many days; without it, until revoked."
        ),
        as_json: bool = JSON,
    ) -> None:
        """Make an API key; it is shown once."""
        key, text = _run(lambda engine: _make(engine, owner, name, role, scope, days))
        if as_json:
            show.print_json(_plain(asdict(key)) | {"key": text})
            return
        console.print(f"Key {key.key_id} of {show.text(key.owner)}, shown this once:")
        print(text)

    @group.command()
    def revoke(key_id: str = typer.Argument(metavar="KEY", help="As `keys list` names it.")) -> None:
        """End a key, at once and for ever."""
        from core.storage.api_keys import revoke as end

        key = _run(lambda engine: end(engine, here(), key_id))
        console.print(f"Key {key.key_id} ({show.text(key.name)}) is revoked.")


async def _make(
    engine: AsyncEngine, owner: str, name: str, role: Role, scopes: list[Scope], days: int | None
) -> tuple[Any, str]:
    from core.clock import utc_now
    from core.storage.api_keys import make_key
    from core.storage.users import find_user

    user = await find_user(engine, owner)
    if user is None or not user.enabled:
        raise StopTheStart(f"There is no enabled user {owner!r}: see `alpha-panda users list`.")
    if not user.role.covers(role):
        raise CommandRefused(f"--role: {user.name} is {user.role}, a key of theirs cannot be {role}")
    until = utc_now() + timedelta(days=days) if days else None
    return await make_key(engine, here(), user.user_id, name, role, scopes, until, owner=user.name)


def _password(ask: bool) -> tuple[str, bool]:
    """(password, whether a person typed it)."""
    from core.people import passwords

    if not ask:
        return passwords.generate(), False
    typed = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return str(typed), True


def _say_password(name: str, password: str, typed: bool) -> None:
    if typed:
        console.print(f"{show.text(name)} has the password you typed.")
        return
    console.print(f"Password of {show.text(name)}, shown this once:")
    print(password)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """As JSON; never a hash."""
    row.pop("password_hash", None)
    return {key: value.isoformat() if isinstance(value, datetime) else _text(value) for key, value in row.items()}


def _text(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | list | tuple) else str(value)


def _run(work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """Work on the people's tables. Raises AlphaPandaError."""
    import structlog

    from cli import remote
    from core.config import settings

    remote.refuse("This command")

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return asyncio.run(with_engine(settings(), work))


async def with_engine(settings: Settings, work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """Run `work` on an engine of its own, closed at the end."""
    from core.storage.db import config_engine

    engine = config_engine(settings, pool_size=1)
    try:
        return await work(engine)
    finally:
        await engine.dispose()
