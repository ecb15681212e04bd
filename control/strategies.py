"""Changing strategies: parameters, on and off, opt-ins, new ones. Checked as the strategy runner would, versioned, announced, audited.

Pausing and opting out check nothing, so that they always work. Never decides that an opt-in is typed right: callers ask the person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from control.acts import Act
from control.connections import Connections
from control.plans import BadStrategies, Planner
from core.clock import trading_day, utc_now
from core.errors import CommandRefused, ConfigError, StopTheStart, Transient
from core.people.roles import NAME
from core.storage import audit
from core.storage.instruments import load_book
from core.storage.strategies import StrategyConfig
from core.storage.strategy_changes import Edit, change_strategy, create_strategy, publish_changes
from core.trading.types import Broker, KiteTarget
from strategies import registry


@dataclass(frozen=True, slots=True)
class Changed:
    """The row as stored, None where nothing was different; `announced` False: the log is away, the runner tells it later."""

    row: StrategyConfig | None
    announced: bool


@dataclass(frozen=True, slots=True)
class Edits:
    """What of a strategy to change; None stays as it is. `parameters` replaces them all; `set_parameters` and `unset` some."""

    parameters: Mapping[str, Any] | None = None
    set_parameters: Mapping[str, Any] | None = None
    unset: frozenset[str] = frozenset()
    instruments: tuple[str, ...] | None = None
    add_instruments: tuple[str, ...] = ()
    remove_instruments: tuple[str, ...] = ()
    product: str | None = None
    age_limit_s: float | None = None
    capital: Decimal | None = None

    def apply(self, row: StrategyConfig) -> StrategyConfig:
        """Raises ConfigError: what is to be taken away is not there."""
        gone = (self.unset - set(row.parameters)) | (set(self.remove_instruments) - set(row.instruments))
        if gone:
            raise ConfigError(f"{row.strategy_id} has no {', '.join(sorted(gone))} to take away. Nothing was changed.")
        parameters = dict(row.parameters if self.parameters is None else self.parameters)
        kept = {key: value for key, value in parameters.items() if key not in self.unset}
        instruments = row.instruments if self.instruments is None else self.instruments
        left = [key for key in instruments if key not in self.remove_instruments]
        return replace(
            row,
            parameters=kept | dict(self.set_parameters or {}),
            instruments=tuple(dict.fromkeys([*left, *self.add_instruments])),
            product=self.product or row.product,
            age_limit_s=row.age_limit_s if self.age_limit_s is None else self.age_limit_s,
            capital=row.capital if self.capital is None else self.capital,
        )


async def change(links: Connections, act: Act, strategy_id: str, edits: Edits) -> Changed:
    """Takes effect from the next tick.

    Raises:
        UnknownStrategy; ConfigError naming every bad field. Nothing was changed then.
        Transient: the database is away, or today's instruments are not stored yet.
    """
    return await _change(links, act, "strategy.change", strategy_id, edits.apply, checked=True)


async def activate(links: Connections, act: Act, strategy_id: str) -> Changed:
    """It trades on paper, and where it is opted in. Raises as `change`."""
    return await _change(links, act, "strategy.activate", strategy_id, lambda row: replace(row, active=True))


async def pause(links: Connections, act: Act, strategy_id: str) -> Changed:
    """No signal from the next tick; positions stay held, open orders go on. Raises as `change`, but checks nothing."""
    return await _change(
        links, act, "strategy.pause", strategy_id, lambda row: replace(row, active=False), checked=False
    )


async def opt_in(links: Connections, act: Act, strategy_id: str, broker: Broker, target: KiteTarget) -> Changed:
    """Beside paper, trade with this broker on this target and on no other. Raises as `change`."""
    if broker is Broker.PAPER:
        raise CommandRefused("broker: paper needs no opt-in")

    def edit(row: StrategyConfig) -> StrategyConfig:
        return replace(row, opt_ins={**row.opt_ins, broker.value: target.value})

    return await _change(links, act, "strategy.opt-in", strategy_id, edit)


async def opt_out(links: Connections, act: Act, strategy_id: str, broker: Broker) -> Changed:
    """No new entry there; positions stay held, open orders go on. Raises as `change`, but checks nothing."""

    def edit(row: StrategyConfig) -> StrategyConfig:
        return replace(row, opt_ins={each: target for each, target in row.opt_ins.items() if each != broker.value})

    return await _change(links, act, "strategy.opt-out", strategy_id, edit, checked=False)


async def create(links: Connections, act: Act, row: StrategyConfig) -> Changed:
    """A new strategy; checked also while it is switched off.

    Raises:
        CommandRefused: there is one of that name. ConfigError naming every bad field. Transient.
    """
    if not NAME.fullmatch(row.strategy_id):
        raise CommandRefused("strategy_id: 2 to 32 of a-z 0-9 . _ -, beginning with a letter")
    if row.opt_ins:
        raise CommandRefused("opt_ins: a new strategy trades on paper; opt it in afterwards")
    await _check(links, row)

    async def note(connection: AsyncConnection, _: StrategyConfig, after: StrategyConfig) -> None:
        await _note(connection, act, "strategy.create", None, after)

    stored = await create_strategy(links.config, row, by=act.by, reason=act.reason, source=act.source, also=note)
    return Changed(stored, await announce(links))


async def _change(
    links: Connections, act: Act, action: str, strategy_id: str, edit: Edit, *, checked: bool = True
) -> Changed:
    async def check(row: StrategyConfig) -> None:
        await _check(links, row)

    async def note(connection: AsyncConnection, before: StrategyConfig, after: StrategyConfig) -> None:
        await _note(connection, act, action, before, after)

    after = await change_strategy(
        links.config,
        strategy_id,
        edit,
        by=act.by,
        reason=act.reason,
        source=act.source,
        check=check if checked else None,
        also=note,
    )
    return Changed(after, await announce(links))


async def announce(links: Connections) -> bool:
    """Publish what was changed. False: the log is away; it is on record, and the strategy runner publishes it."""
    try:
        await publish_changes(links.config, links.producer)
    except (Transient, StopTheStart):
        return False
    return True


async def _note(
    connection: AsyncConnection, act: Act, action: str, before: StrategyConfig | None, after: StrategyConfig
) -> None:
    was, now = before.as_row() if before else {}, after.as_row()
    different = {key for key in now if was.get(key) != now[key]}
    await audit.write(
        connection,
        act.actor,
        action,
        after.strategy_id,
        reason=act.reason,
        before={key: value for key, value in was.items() if key in different} or None,
        after={key: value for key, value in now.items() if key in different},
        request_id=act.request_id,
    )


# Checking ---------------------------------------------------------------------------------------------------------------


async def _check(links: Connections, row: StrategyConfig) -> None:
    """As the strategy runner would judge it, also while it is switched off.

    Raises:
        ConfigError: naming every bad field, what is right, and that nothing was changed.
        Transient: today's instruments are not stored yet.
    """
    settings = links.settings
    book = await load_book(links.config, settings.kite_target, trading_day(utc_now()), keys=row.instruments)
    try:
        Planner(settings, registry.known(), book).one(replace(row, active=True))
    except BadStrategies as error:
        lines = [f"  {problem}{_hint(row, problem.field)}" for problem in error.problems]
        raise ConfigError("\n".join(["Nothing was changed. Mend:", *lines])) from None


def _hint(row: StrategyConfig, field: str) -> str:
    """What a parameter may be, from its class's own model; the names there are where the field is none of them."""
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
