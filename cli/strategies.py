"""`alpha-panda strategies`: what is configured and runs; change parameters, switch on and off, opt in to real money and out.

Every change is checked as the strategy runner would check it, versioned, and announced on the log. Opting in asks for the target
to be typed; pausing and opting out ask nothing and check nothing, so that they always work.
"""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import typer

from cli import show
from cli.progress import console
from core.errors import ConfigError, StopTheStart, Transient
from core.trading.types import Broker, KiteTarget

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from api.models import StrategyList
    from core.config import Settings
    from core.storage.strategies import StrategyConfig

NAME = typer.Argument(metavar="NAME", help="The strategy, as `alpha-panda strategies` lists it.")
BY = typer.Option(None, help="Who changes it, for the record; you, unless given.")
WHY = typer.Option("", "--reason", help="Why, for the record.")
JSON = typer.Option(False, "--json", help="JSON instead of text.")
LIST_JSON = typer.Option(False, "--json", help="A JSON list instead of a table.")

REAL = next(broker for broker in Broker if broker is not Broker.PAPER)
"""The broker an opt-in is for, unless another is named."""

Edit = Callable[["StrategyConfig"], "StrategyConfig"]


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
        added, removed = _parameters(param), set(unset)

        def edit(row: StrategyConfig) -> StrategyConfig:
            if missing := sorted((removed - set(row.parameters)) | (set(remove_instrument) - set(row.instruments))):
                raise ConfigError(f"{name} has no {', '.join(missing)} to take away. Nothing was changed.")
            kept = {key: value for key, value in row.parameters.items() if key not in removed}
            instruments = [key for key in row.instruments if key not in remove_instrument]
            return replace(
                row,
                parameters=kept | added,
                instruments=tuple(dict.fromkeys([*instruments, *add_instrument])),
                product=product or row.product,
                age_limit_s=row.age_limit_s if age_limit is None else age_limit,
                capital=row.capital if capital is None else _rupees(capital),
            )

        _change(name, edit, by=by, reason=reason, as_json=as_json)

    @group.command()
    def activate(name: str = NAME, by: str | None = BY, reason: str = WHY, as_json: bool = JSON) -> None:
        """Switch a strategy on: it trades on paper, and where it is opted in."""
        _change(name, lambda row: replace(row, active=True), by=by, reason=reason, as_json=as_json)

    @group.command()
    def pause(name: str = NAME, by: str | None = BY, reason: str = WHY, as_json: bool = JSON) -> None:
        """Switch a strategy off: no signal from the next tick. Its positions stay held, its open orders go on."""
        _change(name, lambda row: replace(row, active=False), by=by, reason=reason, as_json=as_json, checked=False)


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

        def edit(row: StrategyConfig) -> StrategyConfig:
            return replace(row, opt_ins={**row.opt_ins, broker.value: target.value})

        _change(name, edit, by=by, reason=reason, as_json=as_json)

    @group.command("opt-out")
    def opt_out(
        name: str = NAME,
        broker: Broker = typer.Option(REAL, help="The broker to leave."),
        by: str | None = BY,
        reason: str = WHY,
        as_json: bool = JSON,
    ) -> None:
        """Take the opt-in away: no new entry there. Its positions stay held, its open orders go on."""

        def edit(row: StrategyConfig) -> StrategyConfig:
            return replace(row, opt_ins={each: target for each, target in row.opt_ins.items() if each != broker.value})

        _change(name, edit, by=by, reason=reason, as_json=as_json, checked=False)


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


def _change(name: str, edit: Edit, *, by: str | None, reason: str, as_json: bool, checked: bool = True) -> None:
    """Make the change, announce it, say what it means.

    Raises:
        AlphaPandaError: nothing was changed, and why.
    """
    import sys

    import structlog

    from core.config import settings

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    after, announced = asyncio.run(_make(settings(), name, edit, by or getpass.getuser(), reason, checked))
    if as_json:
        body = after.as_row() if after is not None else {"strategy_id": name}
        show.print_json(body | {"changed": after is not None, "announced": announced})
    elif after is None:
        console.print(f"{show.text(name)} is so already: nothing was changed.")
    else:
        console.print(f"{show.text(name)} is at version {after.version}: it takes effect from the next tick.")
        if not announced:
            console.print("[yellow]Kafka is away[/]: the strategy runner announces it as soon as it is back.")


async def _make(
    settings: Settings, name: str, edit: Edit, by: str, reason: str, checked: bool
) -> tuple[StrategyConfig | None, bool]:
    from core.messaging.producer import EventProducer
    from core.storage.db import config_engine
    from core.storage.strategy_changes import change_strategy, publish_changes

    async def check(row: StrategyConfig) -> None:
        await _check(settings, engine, row)

    engine = config_engine(settings, pool_size=2)
    producer = EventProducer(settings, client_id="strategies")
    try:
        after = await change_strategy(
            engine, name, edit, by=by, reason=reason, source="cli", check=check if checked else None
        )
        try:
            await publish_changes(engine, producer)
        except (Transient, StopTheStart):
            return after, False  # on record: the strategy runner publishes it
        return after, True
    finally:
        await producer.stop()
        await engine.dispose()


async def _check(settings: Settings, engine: AsyncEngine, row: StrategyConfig) -> None:
    """As the strategy runner would judge it, also while it is switched off.

    Raises:
        ConfigError: naming every bad field, what is right, and that nothing was changed.
        Transient: today's instruments are not stored yet.
    """
    from core.clock import trading_day, utc_now
    from core.storage.instruments import load_book
    from strategies import registry
    from streams.runner_plans import BadStrategies, Planner

    book = await load_book(engine, settings.kite_target, trading_day(utc_now()), keys=row.instruments)
    try:
        Planner(settings, registry.known(), book).one(replace(row, active=True))
    except BadStrategies as error:
        lines = [f"  {problem}{_hint(row, problem.field)}" for problem in error.problems]
        raise ConfigError("\n".join(["Nothing was changed. Mend:", *lines])) from None


def _hint(row: StrategyConfig, field: str) -> str:
    """What a parameter may be, from its class's own model; the names there are where the field is none of them."""
    from strategies import registry

    kind = registry.known().get(row.class_name)
    head, _, name = field.partition(".")
    if kind is None or head != "parameters":
        return ""
    fields = kind.parameters_model.model_json_schema()["properties"]
    if name not in fields:
        return f" (parameters of {row.class_name}: {', '.join(fields)})"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [fields[name].get("type", "")] + [
        f"{sign} {fields[name][key]}" for key, sign in bounds.items() if key in fields[name]
    ]
    told += [f"default {fields[name]['default']}"] if "default" in fields[name] else []
    return f"; you gave {row.parameters.get(name)!r} ({name}: {', '.join(each for each in told if each)})"


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
