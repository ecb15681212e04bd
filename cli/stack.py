"""`up`, `down`, `run`, `logs`: the whole system as two commands, on whichever stack this machine has."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

import typer

from cli.progress import console, step
from core.errors import StopTheStart

if TYPE_CHECKING:
    from core.config import Settings


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends `make run`: Ctrl-C, a plain kill, a closed terminal."""


def stack_of(settings: Settings) -> str:
    """Which stack to start: STACK, else the one that runs, else Docker where an engine answers."""
    from cli import record
    from docker.native.layout import Layout
    from docker.native.supervisor import Supervisor
    from docker.prerequisites import docker_reason

    layout = Layout.of(settings)
    wanted = os.environ.get("STACK", "")
    last = record.read(layout.up_record)
    running = "native" if Supervisor(layout).pid() else (last.stack if last and last.stack == "docker" else "")
    if wanted not in {"", "native", "docker"}:
        raise StopTheStart(f"STACK={wanted} is not known: it is docker or native (or unset, which finds out).")
    if running and wanted and wanted != running:
        raise StopTheStart(
            f"The {running} stack runs here: `make down` first, then STACK={wanted}. Data is not shared."
        )
    if running:
        return running
    if wanted == "docker" and (reason := docker_reason()):
        raise StopTheStart(f"STACK=docker cannot be used here: {reason}. Start Docker, or use STACK=native.")
    return wanted or ("native" if docker_reason() else "docker")


def running_stack(settings: Settings) -> str:
    """native, docker, or empty when nothing was started here."""
    from cli import record
    from docker.native.layout import Layout
    from docker.native.supervisor import Supervisor, ours

    layout = Layout.of(settings)
    last = record.read(layout.up_record)
    if Supervisor(layout).pid() or ours(layout):
        return "native"
    return last.stack if last else ""


def bring_up() -> Settings:
    """Everything `make up` does, shown step by step. Returns the settings it ran with.

    Raises:
        StopTheStart: with what is wrong and what to do.
    """
    from cli import checks, compose, first_admin, native_up, overview, record
    from cli.setup import ensure_env
    from core.config import home, load_settings

    new = not (home() / ".env").exists()
    added = ensure_env(home())
    if added:
        more = f"{', '.join(added[:3])}{f' and {len(added) - 3} more' if len(added) > 3 else ''}"
        written = "written with generated passwords" if new else f"gained {more}"
        console.print(f"  [green]✓[/green] Settings [dim]{home() / '.env'} {written}[/dim]", soft_wrap=True)
    settings = load_settings()
    checks.session(settings)
    with record.alone(settings.run_dir):
        kind = stack_of(settings)
        did = compose.up(settings) if kind == "docker" else native_up.up(settings)
    if not did:
        console.print("  [green]✓[/green] Everything runs and is healthy; nothing changed since the last start.")
    overview.show(settings, asyncio.run(overview.trading(settings)))
    password = first_admin.make(settings)
    if password is not None:
        overview.show_first_admin(password)
    return settings


def take_down(settings: Settings) -> None:
    """Stop everything, services first. Loses nothing; leaves no process."""
    from cli import compose, record
    from docker.native.stack import NativeStack

    with record.alone(settings.run_dir):
        kind = running_stack(settings)
        stack = NativeStack(settings)
        if kind == "docker":
            with step("Stopping containers"):
                compose.down(settings)
            stack.layout.up_record.unlink(missing_ok=True)
            return
        if not kind:
            console.print("  Nothing runs here.")
            return
        with step("Stopping") as shown:
            left = stack.stop(shown.say)
            shown.say(
                f"all stopped; also ended what had lost its supervisor: {', '.join(left)}" if left else "all stopped"
            )


def _end(code: int) -> None:
    """The Temporal SDK's runtime may crash the interpreter's own shutdown."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run_in_foreground(*, raw: bool = False) -> None:
    from cli import compose, logs
    from core.config import settings as read_settings

    console.stderr = raw  # then standard output is JSON alone
    for number in STOPS:
        signal.signal(number, _interrupt)
    try:
        settings = bring_up()
        console.print("  [dim]Ctrl-C stops everything.[/dim]\n")
        if running_stack(settings) == "docker":
            compose.logs(settings, None)
        else:
            logs.follow(settings, None, lines=0, raw=raw)
    except KeyboardInterrupt:
        console.print()
    finally:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)  # the way down is not left half-way
        take_down(read_settings())


def register(app: typer.Typer) -> None:
    @app.command()
    def up() -> None:
        """Start everything, wait until all is healthy, say where to look. Again: changes nothing, or what changed."""
        bring_up()
        _end(0)

    @app.command()
    def down() -> None:
        """Stop everything, services first. Loses nothing."""
        from core.config import settings

        take_down(settings())

    @app.command()
    def run(as_json: bool = typer.Option(False, "--json", help="Log lines as JSON, as they were written.")) -> None:
        """Everything in the foreground with readable logs; Ctrl-C stops it cleanly."""
        _run_in_foreground(raw=as_json)
        _end(0)

    @app.command()
    def logs(
        service: str = typer.Argument(None, help="One part's name, as `status` shows it; all of them by default."),
        lines: int = typer.Option(20, help="Lines of the past to begin with."),
        follow: bool = typer.Option(True, help="Go on as new lines come, until Ctrl-C."),
        raw: bool = typer.Option(False, help="JSON lines as they were written."),
    ) -> None:
        """Show and follow the logs, readable."""
        from cli import compose
        from cli import logs as reader
        from core.config import settings

        if running_stack(settings()) == "docker":
            compose.logs(settings(), service)
            return
        try:
            reader.follow(settings(), service, lines=lines, go_on=follow, raw=raw)
        except KeyboardInterrupt:
            console.print()
