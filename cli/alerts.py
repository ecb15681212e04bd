"""`alpha-panda alerts`: what people were told and by which channel, and a test of the channels."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import typer

from cli import remote, show
from cli.acting import act, acting
from cli.progress import console

if TYPE_CHECKING:
    from cli.remote_operations import RemoteAlerts
    from control.acts import Act
    from control.alerts import Tested
    from control.connections import Connections
    from core.storage.alerts import ChannelState, History, Outcome

T = TypeVar("T")

JSON = typer.Option(False, "--json", help="JSON instead of text.")


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Alerts: what was told, and whether the channels work.")
    app.add_typer(group, name="alerts")

    @group.command("list")
    def list_(
        kind: str | None = typer.Option(None, help="Of this kind alone."),
        failed: bool = typer.Option(False, "--failed", help="Those some channel was given up on."),
        limit: int = typer.Option(30, min=1, max=1000, help="How many, the newest."),
        as_json: bool = JSON,
    ) -> None:
        """How each channel is, then the last alerts with what each channel made of them."""

        channels, rows = _run(lambda told: _read(told, kind, failed, limit))
        if as_json:
            found = {"channels": [asdict(each) for each in channels], "alerts": [asdict(each) for each in rows]}
            print(json.dumps(found, indent=2, default=str))
            return
        _print_channels(channels)
        _print_alerts(rows)

    @group.command()
    def test(as_json: bool = JSON) -> None:
        """Send a test message to every channel of ALERT_URLS. Exit code 1: some channel did not take it."""
        asked = act()
        tested, kept = _run(lambda told: told.try_channels(asked))
        if as_json:
            print(json.dumps([asdict(each) for each in tested], indent=2))
        else:
            for each in tested:
                outcome = "[green]took it[/]" if each.error is None else f"[red]did not[/]: {show.text(each.error)}"
                console.print(f"  {each.channel}  {outcome}", soft_wrap=True)
            if not kept:
                console.print("  [dim]PostgreSQL is away: history does not have this test.[/]")
        if any(each.error for each in tested):
            raise typer.Exit(1)


class _Ours:
    """`control.alerts` on this machine."""

    def __init__(self, links: Connections) -> None:
        self._links = links

    async def channel_states(self) -> list[ChannelState]:
        from control import alerts

        return await alerts.channel_states(self._links.config)

    async def history(self, *, kind: str | None, state: Outcome | None, limit: int) -> list[History]:
        from core.storage import alerts as storage

        return await storage.history(self._links.config, kind=kind, state=state, limit=limit)

    async def try_channels(self, asked: Act) -> tuple[list[Tested], bool]:
        from control import alerts

        return await alerts.try_channels(self._links.settings, self._links.config, asked)


def _run(work: Callable[[_Ours | RemoteAlerts], Awaitable[T]]) -> T:
    """Here, or at a control room. Raises as `work`."""
    if remote.is_on():
        from cli.remote_operations import RemoteAlerts

        return remote.asking(lambda api: work(RemoteAlerts(api)))
    return acting(lambda links: work(_Ours(links)))


async def _read(
    told: _Ours | RemoteAlerts, kind: str | None, failed: bool, limit: int
) -> tuple[list[ChannelState], list[History]]:
    from core.storage.alerts import Outcome

    state = Outcome.FAILED if failed else None
    return await told.channel_states(), await told.history(kind=kind, state=state, limit=limit)


def _print_channels(channels: list[ChannelState]) -> None:
    if not channels:
        console.print("  No channel: nobody is told. ALERT_URLS in .env names them (docs/operations.md, Alerts).")
    for each in channels:
        state = "[green]works[/]" if each.last_sent_at else "nothing told yet"
        if each.failing_since is not None:
            state = f"[red]FAILS[/] since {show.ist(each.failing_since)}: {show.text(each.last_error or '')}"
        console.print(f"  {each.channel}  {state}, {each.waiting} waiting", soft_wrap=True)


def _print_alerts(rows: list[History]) -> None:
    from core.clock import utc_now

    for row in reversed(rows):
        if row.repeats is not None:
            outcome = "said before"
        else:
            outcome = ", ".join(f"{each.channel} {each.state}" for each in row.told) or "no channel"
        console.print(
            f"  {show.ist_short(row.at, utc_now())}  [bold]{row.kind}[/]  {show.text(row.message)}  [dim]{outcome}[/]",
            soft_wrap=True,
        )
