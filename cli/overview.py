"""What `make up` prints when all is well: where to look, what trades with whom, and that prices are simulated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape

from cli.progress import console

if TYPE_CHECKING:
    from core.config import Settings


@dataclass(frozen=True, slots=True)
class Trading:
    """An active strategy with the brokers that run it, and its opt-ins that do not, each with the reason."""

    strategy_id: str
    instruments: tuple[str, ...]
    brokers: tuple[str, ...]
    inactive: tuple[str, ...]


def judge(settings: Settings, opt_ins: dict[str, str]) -> tuple[list[str], list[str]]:
    """Brokers a strategy trades on now, and opt-ins that are inactive, with why."""
    from core import routing
    from core.trading.types import Broker

    runs, off = [Broker.PAPER.value], []
    for broker in Broker:
        if broker is Broker.PAPER or broker.value not in opt_ins:
            continue
        target = routing.target(settings, broker)
        if broker not in settings.active_brokers:
            off.append(f"{broker} (not in ACTIVE_BROKERS)")
        elif opt_ins[broker.value] != target:
            off.append(f"{broker} (opted in for {opt_ins[broker.value]}, this is {target})")
        else:
            runs.append(f"{broker} ({target})")
    return runs, off


async def trading(settings: Settings) -> list[Trading]:
    """The active strategies as the database has them."""
    import asyncpg

    from core.routing import CONFIG_SCHEMA, postgres_credentials

    user, password = postgres_credentials(settings, None)
    connection = await asyncpg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=user,
        password=password,
        database=settings.postgres_database,
        timeout=10,
    )
    try:
        rows = await connection.fetch(
            f'SELECT strategy_id, instruments, opt_ins FROM "{CONFIG_SCHEMA}".strategies WHERE active ORDER BY 1'  # noqa: S608
        )
    finally:
        await connection.close()
    found = []
    for row in rows:
        runs, off = judge(settings, json.loads(row["opt_ins"]))
        found.append(Trading(row["strategy_id"], tuple(json.loads(row["instruments"])), tuple(runs), tuple(off)))
    return found


def show(settings: Settings, strategies: list[Trading]) -> None:
    """Print where to look and what is trading."""
    console.print()
    console.print(f"  Control room       [bold]http://{settings.api_host}:{settings.api_port}/[/bold]")
    console.print(f"  API and its docs   [bold]http://{settings.api_host}:{settings.api_port}/docs[/bold]")
    workflows = f"{settings.temporal_ui}/namespaces/{settings.temporal_namespace}/workflows"
    console.print(f"  Orders in Temporal [bold]{workflows}[/bold]")
    console.print("  [dim]make status · make logs · make down · .venv/bin/alpha-panda --help[/dim]\n")
    if not strategies:
        console.print("  [yellow]No active strategy: nothing trades.[/yellow]")
    for row in strategies:
        console.print(
            f"  {escape(row.strategy_id)} trades {escape(', '.join(row.instruments))} on {' and '.join(row.brokers)}"
        )
        for reason in row.inactive:
            console.print(f"    [yellow]inactive: {escape(reason)}[/yellow]")
    if settings.simulated:
        console.print(
            "  [bold yellow]Prices are SIMULATED[/bold yellow] (KITE_TARGET=local): no order leaves this machine."
        )
        console.print(f"  Logged in at the sandbox by itself, as {escape(settings.kite_user_id)}: nobody need log in.")
    console.print()


def show_first_admin(password: str) -> None:
    """Print the first login. Nobody can read it again: what is kept is its hash."""
    from core.storage.users import FIRST

    said = f"  First login to the control room: [bold]{FIRST}[/bold] with the password [bold]{password}[/bold]"
    console.print(said, soft_wrap=True)  # a password broken over two lines is none
    console.print(
        f"  [yellow]It is shown this once.[/yellow] Lost: `.venv/bin/alpha-panda users reset-password {FIRST}`.\n",
        soft_wrap=True,
    )
