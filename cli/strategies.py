"""`alpha-panda strategies`: what is configured and runs; change parameters, switch on and off, opt in to real money and out.

Every change is checked as the strategy runner would check it, versioned, and announced on the log. Opting in asks for the target
to be typed; pausing and opting out ask nothing and check nothing, so that they always work.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import typer

from cli import remote, show
from cli.acting import act, acting
from cli.progress import console
from core.errors import ConfigError, StopTheStart
from core.trading.types import Broker, KiteTarget

if TYPE_CHECKING:
    from api.models import StrategyList
    from control.acts import Act
    from control.strategies import Changed

NAME = typer.Argument(metavar="NAME", help="The strategy, as `alpha-panda strategies` lists it.")
BY = typer.Option(None, help="Who changes it, for the record; you, unless given.")
WHY = typer.Option("", "--reason", help="Why, for the record.")
JSON = typer.Option(False, "--json", help="JSON instead of text.")
LIST_JSON = typer.Option(False, "--json", help="A JSON list instead of a table.")

REAL = next(broker for broker in Broker if broker is not Broker.PAPER)
"""The broker an opt-in is for, unless another is named."""

Make = Callable[[Any, "Act"], Awaitable["Changed"]]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="List strategies with their instances; change them.")
    app.add_typer(group, name="strategies")

    @group.callback(invoke_without_command=True)
    def strategies(context: typer.Context, as_json: bool = LIST_JSON) -> None:
        """List strategies with their instances: what trades, and why the rest does not. Change them with the commands below."""
        if context.invoked_subcommand is not None:
            return
        found = show.reading(lambda reads: reads.strategies())
        if as_json:
            show.print_json(found.strategies)
        else:
            _print_strategies(found)

    _register_changes(group)
    _register_opt_ins(group)


def _register_changes(group: typer.Typer) -> None:
    @group.command("set")
    def set_(
        name: str = NAME,
        param: list[str] = typer.Option([], metavar="NAME=VALUE", help="A parameter, e.g. fast=9. May be repeated."),
        unset: list[str] = typer.Option([], metavar="NAME", help="Back to a parameter's default."),
        add_instrument: list[str] = typer.Option([], metavar="KEY", help="For example NSE:INFY."),
        remove_instrument: list[str] = typer.Option([], metavar="KEY", help="A position in it stays held."),
        product: str | None = typer.Option(None, help="CNC, MIS or NRML."),
        age_limit: float | None = typer.Option(None, help="Seconds after which an entry is too old."),
        capital: str | None = typer.Option(None, help="Rupees allotted."),
        by: str | None = BY,
        reason: str = WHY,
        as_json: bool = JSON,
    ) -> None:
        """Change parameters, instruments, product, age limit or capital. Takes effect from the next tick, without a restart."""
        from control.strategies import Edits

        control = remote.strategies()
        edits = Edits(
            set_parameters=_parameters(param),
            unset=frozenset(unset),
            add_instruments=tuple(add_instrument),
            remove_instruments=tuple(remove_instrument),
            product=product,
            age_limit_s=age_limit,
            capital=None if capital is None else _rupees(capital),
        )
        _change(name, lambda links, asked: control.change(links, asked, name, edits), by, reason, as_json)

    @group.command()
    def activate(name: str = NAME, by: str | None = BY, reason: str = WHY, as_json: bool = JSON) -> None:
        """Switch a strategy on: it trades on paper, and where it is opted in."""
        control = remote.strategies()
        _change(name, lambda links, asked: control.activate(links, asked, name), by, reason, as_json)

    @group.command()
    def pause(name: str = NAME, by: str | None = BY, reason: str = WHY, as_json: bool = JSON) -> None:
        """Switch a strategy off: no signal from the next tick. Its positions stay held, its open orders go on."""
        control = remote.strategies()
        _change(name, lambda links, asked: control.pause(links, asked, name), by, reason, as_json)


def _register_opt_ins(group: typer.Typer) -> None:
    @group.command("opt-in")
    def opt_in(
        name: str = NAME,
        target: KiteTarget = typer.Option(..., help="Where its orders may go; it means nothing on any other target."),
        broker: Broker = typer.Option(REAL, help="Paper needs no opt-in."),
        yes: bool = typer.Option(
            False, "--yes", help="For programs: do not ask for the target to be typed; needs --by."
        ),
        by: str | None = BY,
        reason: str = WHY,
        as_json: bool = JSON,
    ) -> None:
        """Let a strategy trade with the broker on this target, beside paper. Asks for the target to be typed."""
        if yes and not by:
            raise StopTheStart("--yes needs --by: an opt-in is somebody's decision.")
        if (
            not yes
            and typer.prompt(f"{name} will send orders to {broker} on {target}. Type the target") != target.value
        ):
            raise StopTheStart("That is not the target: nothing was changed.")

        control = remote.strategies()
        _change(name, lambda links, asked: control.opt_in(links, asked, name, broker, target), by, reason, as_json)

    @group.command("opt-out")
    def opt_out(
        name: str = NAME,
        broker: Broker = typer.Option(REAL, help="The broker to leave."),
        by: str | None = BY,
        reason: str = WHY,
        as_json: bool = JSON,
    ) -> None:
        """Take the opt-in away: no new entry there. Its positions stay held, its open orders go on."""
        control = remote.strategies()
        _change(name, lambda links, asked: control.opt_out(links, asked, name, broker), by, reason, as_json)


# Reading what was typed -------------------------------------------------------------------------------------------------


def _parameters(typed: list[str]) -> dict[str, Any]:
    """`fast=9` as JSON where it is JSON, else as text.

    Raises:
        ConfigError: one is not NAME=VALUE.
    """
    found: dict[str, Any] = {}
    for each in typed:
        key, sign, value = each.partition("=")
        if not sign or not key:
            raise ConfigError(f"--param {each!r}: write NAME=VALUE, for example fast=9. Nothing was changed.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _rupees(typed: str) -> Decimal:
    try:
        amount = Decimal(typed)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise ConfigError(f"--capital {typed!r}: write rupees, for example 250000. Nothing was changed.")
    return amount


# Changing ---------------------------------------------------------------------------------------------------------------


def _change(name: str, make: Make, by: str | None, reason: str, as_json: bool) -> None:
    """Make the change, announce it, say what it means.

    Raises:
        AlphaPandaError: nothing was changed, and why.
    """
    asked = act(by, reason)
    done = asyncio.run(_remotely(make, asked)) if remote.is_on() else acting(lambda links: make(links, asked))
    after = done.row
    if as_json:
        body = after.as_row() if after is not None else {"strategy_id": name}
        show.print_json(body | {"changed": after is not None, "announced": done.announced})
    elif after is None:
        console.print(f"{show.text(name)} is so already: nothing was changed.")
    else:
        console.print(f"{show.text(name)} is at version {after.version}: it takes effect from the next tick.")
        if not done.announced:
            console.print("[yellow]Kafka is away[/]: the strategy runner announces it as soon as it is back.")


async def _remotely(make: Make, asked: Act) -> Changed:
    async with remote.client() as api:
        return await make(api, asked)


# Showing ----------------------------------------------------------------------------------------------------------------


def _print_strategies(found: StrategyList) -> None:
    shown = show.table(
        ("instance", "left"), ("class", "left"), ("instruments", "fold"), ("target", "left"), ("trades", "left"),
        ("state", "left"), ("why", "fold"),
    )  # fmt: skip
    for row in found.strategies:
        for one in row.instances:
            why = one.reason or str(one.runtime.get("reason", ""))
            shown.add_row(
                show.text(one.instance),
                show.text(row.class_name),
                show.text(", ".join(row.instruments)),
                one.target,
                "[green]yes[/]" if one.active else "no",
                f"[red]{one.state}[/]" if one.state == "failed" else one.state,
                show.text(why),
            )
    show.put(shown if found.strategies else "No strategies are configured.")
    if found.runtime != "known":
        console.print(f"[yellow]The runtime states are not known[/]: {show.text(found.runtime)}")
    if found.simulated:
        console.print(show.SIMULATED)
