"""`alpha-panda status`: every part in one table: state, pid, port, memory, lag, and the reason where it is not well."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from cli.progress import console

if TYPE_CHECKING:
    from core.config import Settings

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One part. `memory_mb` counts its children; `lag` is messages its consumer group is behind, None where it has none."""

    part: str
    state: str
    pid: int | None
    port: int | None
    memory_mb: int | None
    lag: int | None
    reason: str


def _memory_mb(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        total = 0
        for each in (process, *process.children(recursive=True)):
            full = each.memory_full_info()
            total += getattr(full, "pss", full.rss)  # shared pages count once, not once a process
    except psutil.Error:
        return None
    return total // MEGABYTE


def ports(settings: Settings) -> dict[str, int]:
    """Part → the port a person or program talks to."""
    return {
        "postgres": settings.postgres_port,
        "redis": settings.redis_port,
        "temporal": settings.temporal_port,
        "kafka": settings.kafka_port,
        "api": settings.api_port,
        "sandbox": settings.sandbox_port,
    }


def _lags(settings: Settings) -> dict[str, int]:
    """Service → messages it is behind; empty when the log does not answer."""
    from core.errors import Transient
    from core.messaging.lag import lag_by_group

    try:
        found = asyncio.run(lag_by_group(settings))
    except Transient:
        return {}
    behind: Counter[str] = Counter()
    for row in found:
        behind[row.group.rsplit(".", 1)[-1]] += row.lag
    return dict(behind)


def native_rows(settings: Settings) -> list[Row]:
    """The native stack's parts in start order; empty when no supervisor runs."""
    from cli.native_up import not_ready
    from core import health
    from core.services import names, services
    from docker.native.stack import INFRA, NativeStack
    from docker.native.supervisor import RUNNING

    stack = NativeStack(settings, services(settings))
    parts = stack.parts()
    if not parts:
        return []
    wanted = names(services(settings))
    waiting = not_ready(stack, settings, wanted)
    notes = {name: word.note for name, word in health.read_all(settings.run_dir).items()}
    lags = _lags(settings) if parts["kafka"].state == RUNNING else {}
    where = ports(settings)
    rows = []
    for name in (*INFRA, *wanted, *(name for name in parts if name not in {*INFRA, *wanted})):
        part = parts.get(name)
        pid = part.pid if part and part.pid else None
        reason = waiting.get(name, "") if name in wanted else ("" if part and part.state == RUNNING else "not running")
        state = "absent" if part is None else ("ready" if pid and not reason else part.state.lower())
        why = reason or notes.get(name, "")
        rows.append(Row(name, state, pid, where.get(name), _memory_mb(pid) if pid else None, lags.get(name), why))
    return rows


def docker_rows(settings: Settings) -> list[Row]:
    from cli.compose import containers

    lags, where = _lags(settings), ports(settings)
    where |= {
        "redpanda": settings.kafka_port,
        "temporal-ui": settings.temporal_ui_port,
        "console": settings.console_port,
    }
    rows = []
    for row in containers(settings):
        name = row["Service"]
        state = row.get("Health") or row["State"]
        reason = "" if state in {"running", "healthy"} else row.get("Status", "")
        rows.append(Row(name, state, None, where.get(name), None, lags.get(name), reason))
    return rows


def table(rows: list[Row]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in (
        ("part", "left"),
        ("state", "left"),
        ("pid", "right"),
        ("port", "right"),
        ("MB", "right"),
        ("lag", "right"),
    ):
        shown.add_column(title, justify="right" if side == "right" else "left")
    shown.add_column("why not ready", overflow="fold")
    for row in rows:
        colour = "green" if row.state in {"ready", "running", "healthy"} else "red"
        figures = ("" if value is None else str(value) for value in (row.pid, row.port, row.memory_mb, row.lag))
        shown.add_row(row.part, f"[{colour}]{row.state}[/{colour}]", *figures, escape(row.reason))
    return shown


def register(app: typer.Typer) -> None:
    @app.command()
    def status(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
        """Every part: state, pid, port, memory, lag, and why it is not ready."""
        from cli.stack import running_stack
        from core.config import settings

        kind = running_stack(settings())
        rows = docker_rows(settings()) if kind == "docker" else native_rows(settings())
        if as_json:
            print(json.dumps([asdict(row) for row in rows], indent=2))
            return
        if not rows:
            console.print("  Nothing runs here: `make up` starts everything.")
            return
        console.print(table(rows))
        total = sum(row.memory_mb or 0 for row in rows)
        if total:
            console.print(f"[dim]{total} MB in all · {settings().home}[/dim]")
        if settings().simulated:
            console.print("[bold yellow]Prices are SIMULATED[/bold yellow] (KITE_TARGET=local)")
