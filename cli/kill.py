"""`alpha-panda kill on | off | status`: stop entries, cancel our orders, close our positions; and lift it again, by hand.

The flag is set in the journal before anything else, so it binds even while Temporal or the log is away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from cli import remote, show
from cli.acting import act, acting
from cli.progress import console, step
from core.errors import AlphaPandaError, StopTheStart
from core.trading.types import Broker

if TYPE_CHECKING:
    from uuid import UUID

    from cli.remote_operations import RemoteKill
    from control.acts import Act
    from control.connections import Connections
    from core.storage.kill import KillRecord, KillState

T = TypeVar("T")

_BROKER = typer.Option(None, help="One broker; all active ones without it.")
_STRATEGY = typer.Option(None, help="One strategy; without it the whole account.")
_BY = typer.Option("", help="Who you are; needed with --yes, except with --url: there the key says it.")
_REASON = typer.Option("", help="Why; it is kept, and shown beside the flag.")
_YES = typer.Option(False, "--yes", help="Do not ask; needs --by and --reason.")


def register(app: typer.Typer) -> None:
    kill = typer.Typer(
        help="The kill switch: no entries, our orders cancelled, our positions closed.", no_args_is_help=True
    )
    app.add_typer(kill, name="kill")

    @kill.command()
    def on(
        broker: Broker | None = _BROKER,
        strategy: str | None = _STRATEGY,
        by: str = _BY,
        reason: str = _REASON,
        yes: bool = _YES,
        include_foreign: bool = typer.Option(
            False, "--include-foreign", help="Also cancel and close what is not ours (made in the broker's own app)."
        ),
        wait: float = typer.Option(120.0, help="Seconds to watch it work; it goes on after that all the same."),
    ) -> None:
        """Stop entries, cancel our orders, close our positions. Entries stay stopped until `kill off`."""
        if include_foreign and strategy is not None:
            raise StopTheStart("--include-foreign is of a whole account: leave --strategy out.")
        brokers = _run(lambda switch: switch.brokers(broker))
        where = f"{strategy or 'everything'} on {', '.join(brokers)}"
        word = "include-foreign" if include_foreign else "kill"
        by, reason = _who(by, reason, yes, f"Kill {where}: type `{word}` to do it", word)
        asked = act(by, reason)
        if not _run(lambda switch: _engage_all(switch, asked, brokers, strategy, include_foreign, wait)):
            raise typer.Exit(1)

    @kill.command()
    def off(
        broker: Broker | None = _BROKER,
        strategy: str | None = _STRATEGY,
        by: str = _BY,
        reason: str = _REASON,
        yes: bool = _YES,
        force: bool = typer.Option(False, "--force", help="Also while it still works; what is open then stays open."),
    ) -> None:
        """Release the kill switch: entries may go again. Refused while it still works, unless forced."""
        brokers = _run(lambda switch: switch.brokers(broker))
        where = f"{strategy or 'everything'} on {', '.join(brokers)}"
        by, reason = _who(by, reason, yes, f"Let {where} enter again: type `release` to do it", "release")
        asked = act(by, reason)
        if not _run(lambda switch: _release_all(switch, asked, brokers, strategy, force)):
            raise typer.Exit(1)

    @kill.command()
    def status(
        broker: Broker | None = _BROKER, as_json: bool = typer.Option(False, "--json", help="JSON instead of text.")
    ) -> None:
        """Show the flags, and what each kill switch has done and waits for."""
        states = _run(lambda switch: _states(switch, broker))
        if as_json:
            from control.kill import plain

            print(json.dumps([plain(each, state) for each, state in states], default=str, indent=2))
            return
        for each, state in states:
            _print(each, state)


class _Ours:
    """`control.kill` on this machine."""

    def __init__(self, links: Connections) -> None:
        self._links = links

    async def brokers(self, broker: Broker | None) -> list[Broker]:
        active = self._links.settings.active_brokers
        if broker is not None and broker not in active:
            raise StopTheStart(f"{broker} is not in ACTIVE_BROKERS={','.join(active)}.")
        return [broker] if broker is not None else list(active)

    async def engage(
        self, asked: Act, broker: Broker, strategy: str | None, *, include_foreign: bool = False
    ) -> KillRecord:
        from control import kill as control

        return await control.engage(self._links, asked, broker, strategy, include_foreign=include_foreign)

    async def work(self, broker: Broker, record: KillRecord) -> str:
        from control import kill as control

        return await control.work(self._links, broker, record)

    async def release(self, asked: Act, broker: Broker, strategy: str | None, *, force: bool = False) -> None:
        from control import kill as control

        await control.release(self._links, asked, broker, strategy, force=force)

    async def state(self, broker: Broker) -> KillState:
        from control import kill as control

        return await control.state(self._links, broker)

    async def read(self, broker: Broker, kill_id: UUID) -> KillRecord | None:
        from core.storage.kill import read_kill

        return await read_kill(self._links.journal(broker), kill_id)


def _run(work: Callable[[_Ours | RemoteKill], Awaitable[T]]) -> T:
    """Here, or at a control room. Raises as `work`."""
    if remote.is_on():
        from cli.remote_operations import RemoteKill

        return remote.asking(lambda api: work(RemoteKill(api)))
    from core.config import load_settings

    return acting(lambda links: work(_Ours(links)), load_settings())


def _who(by: str, reason: str, yes: bool, question: str, word: str) -> tuple[str, str]:
    """Who does it and why. A person types the word; a program gives --yes --by --reason.

    Raises:
        StopTheStart: something is missing, or something else was typed.
    """
    if remote.is_on():
        by = by or "the key's owner"  # who it is, the control room knows better
    if yes:
        if not by or not reason:
            raise StopTheStart("--yes needs --by (who) and --reason (why): both are kept.")
        return by, reason
    import getpass

    by = by or typer.prompt("Who are you", default=getpass.getuser())
    reason = reason or typer.prompt("Why")
    if typer.prompt(question) != word:
        raise StopTheStart("Something else was typed: nothing was done.")
    return by, reason


async def _each(brokers: Iterable[Broker], work: Callable[[Broker], Awaitable[Any]]) -> bool:
    """Act on every broker at once: one that is in trouble never keeps another. Prints each trouble; True without any."""

    async def one(broker: Broker) -> bool:
        try:
            await work(broker)
        except AlphaPandaError as error:
            console.print(f"[red]{broker}[/red]: {show.text(str(error))}", soft_wrap=True)
            return False
        return True

    return all(await asyncio.gather(*(one(broker) for broker in brokers)))


async def _engage_all(
    switch: _Ours | RemoteKill,
    asked: Act,
    brokers: list[Broker],
    strategy: str | None,
    include_foreign: bool,
    wait: float,
) -> bool:
    engaged: dict[Broker, KillRecord] = {}

    async def flag(broker: Broker) -> None:
        engaged[broker] = await switch.engage(asked, broker, strategy, include_foreign=include_foreign)
        console.print(f"[green]✓[/green] {broker}: the flag is set, entries are stopped")

    async def work(broker: Broker) -> None:
        name = await switch.work(broker, engaged[broker])
        console.print(f"  {broker}: {name}")
        await _watch(switch, broker, engaged[broker], wait)

    well = await _each(brokers, flag)
    try:
        return await _each(list(engaged), work) and well
    finally:
        console.print("Entries stay stopped until `alpha-panda kill off`; look with `alpha-panda kill status`.")


async def _watch(switch: _Ours | RemoteKill, broker: Broker, record: KillRecord, seconds: float) -> None:
    """Until its report is there, or the seconds are over; then it says so and the workflow goes on by itself."""
    with step(f"{broker}: cancel our orders, close our positions") as shown:
        end = asyncio.get_running_loop().time() + seconds
        while True:
            found = await switch.read(broker, record.kill_id)
            if found is not None and found.finished_at is not None:
                shown.say("done")
                break
            if asyncio.get_running_loop().time() > end:
                shown.say("still at work; it goes on by itself")
                return
            await asyncio.sleep(0.3)
    _print_report(found)


async def _release_all(
    switch: _Ours | RemoteKill, asked: Act, brokers: list[Broker], strategy: str | None, force: bool
) -> bool:
    async def one(broker: Broker) -> None:
        await switch.release(asked, broker, strategy, force=force)
        console.print(f"[green]✓[/green] {broker}: released, entries may go again")

    return await _each(brokers, one)


async def _states(switch: _Ours | RemoteKill, broker: Broker | None) -> list[tuple[Broker, KillState]]:
    return [(each, await switch.state(each)) for each in await switch.brokers(broker)]


def _print(broker: Broker, state: KillState) -> None:
    if state.account_flag is None and not state.strategy_flags:
        console.print(f"{broker}: no flag is set, entries may go")
    if state.account_flag is not None:
        console.print(f"[red]{broker}: entries of everything are stopped[/red]: {show.text(state.account_flag)}")
    for strategy, reason in sorted(state.strategy_flags.items()):
        console.print(f"[red]{broker}: entries of {show.text(strategy)} are stopped[/red]: {show.text(reason)}")
    for record in state.open:
        scope = record.strategy_id or "everything"
        how = "done" if record.finished_at else "at work: Temporal UI shows each step"
        console.print(
            f"  {show.text(scope)}, since {record.engaged_at:%Y-%m-%d %H:%M:%S} UTC: {how} ({record.kill_id})"
        )
        if record.finished_at:
            _print_report(record)


def _print_report(record: KillRecord) -> None:
    report = record.report or {}
    for line in report.get("story", []):
        console.print(f"    {show.text(line.removeprefix('- '))}", soft_wrap=True)
    for net in report.get("nets", []):
        if net["ours"]:
            console.print(f"    still ours: {net['ours']:+d} {net['instrument']} {net['product']}")
    for line in report.get("foreign", []):
        console.print(f"    not ours, left alone: {show.text(line)}", soft_wrap=True)
