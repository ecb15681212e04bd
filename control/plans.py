"""From configured rows to instances: which run on which broker, which do not and why, and what is wrong with a row. Pure.

An instance is (strategy, broker). Paper always; another broker only by an opt-in that names this deployment's target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from core import routing
from core.config import Settings
from core.errors import StopTheStart
from core.storage.strategies import StrategyConfig
from core.trading.bars import BarBuilder
from core.trading.instruments import Instrument, InstrumentBook
from core.trading.signals import instance_name
from core.trading.types import Broker, KiteTarget, Product
from strategies.base import BaseStrategy
from strategies.registry import StrategyClass


@dataclass(frozen=True)
class Plan:
    """One instance to run: a strategy object on a broker with the instruments it watches."""

    name: str
    broker: Broker
    config: StrategyConfig
    strategy: BaseStrategy[Any]
    instruments: tuple[Instrument, ...]
    product: Product
    age_limit_s: float
    capital: Decimal

    @property
    def version(self) -> int:
        return self.config.version

    @property
    def uses_ticks(self) -> bool:
        return type(self.strategy).on_tick is not BaseStrategy.on_tick

    def bars_kept(self) -> int:
        return max(self.strategy.bars_kept(), self.strategy.bars_needed())


@dataclass(frozen=True, slots=True)
class Idle:
    """An instance that does not run, and why: shown to people, never traded."""

    name: str
    broker: Broker
    config: StrategyConfig
    reason: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad field of one row."""

    strategy_id: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.strategy_id}: {self.field}: {self.message}"


class BadStrategies(StopTheStart):
    """Rows of config.strategies that cannot run; the message names every row and field."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(
            f"These rows of config.strategies cannot run; mend them, or set them inactive, and start again:\n{lines}"
        )


class Planner:
    """Turns rows into plans against one deployment's settings, the known classes and the day's instruments."""

    def __init__(self, settings: Settings, classes: Mapping[str, StrategyClass], book: InstrumentBook) -> None:
        self._settings = settings
        self._classes = classes
        self._book = book

    def all(self, rows: Iterable[StrategyConfig]) -> tuple[list[Plan], list[Idle]]:
        """Plans of every row.

        Raises:
            BadStrategies: an active row has a bad field; all of them at once.
        """
        plans: list[Plan] = []
        idle: list[Idle] = []
        problems: list[Problem] = []
        for row in rows:
            try:
                running, resting = self.one(row)
            except BadStrategies as error:
                problems += error.problems
            else:
                plans += running
                idle += resting
        if problems:
            raise BadStrategies(problems)
        return plans, idle

    def one(self, row: StrategyConfig) -> tuple[list[Plan], list[Idle]]:
        """One row's instances. A row that is switched off is not checked: it cannot trade.

        Raises:
            BadStrategies: with every bad field of the row.
        """
        brokers = [Broker.PAPER, *(broker for broker in Broker if broker is not Broker.PAPER and broker in row.opt_ins)]
        if not row.active:
            return [], [
                Idle(instance_name(row.strategy_id, b), b, row, "the strategy is switched off") for b in brokers
            ]
        strategy, instruments, product = self._check(row)
        plans: list[Plan] = []
        idle: list[Idle] = []
        for broker in brokers:
            name = instance_name(row.strategy_id, broker)
            reason = self._why_not(row, broker)
            if reason:
                idle.append(Idle(name, broker, row, reason))
            else:
                plans.append(Plan(name, broker, row, strategy, instruments, product, row.age_limit_s, row.capital))
        return plans, idle

    def _why_not(self, row: StrategyConfig, broker: Broker) -> str:
        if broker is Broker.PAPER:
            return ""
        if broker not in self._settings.active_brokers:
            return f"{broker} is not in ACTIVE_BROKERS"
        here = routing.target(self._settings, broker)
        if row.opt_ins[broker] != here:
            return f"opted in for target {row.opt_ins[broker]}, and this deployment trades on {here}"
        return ""

    def _check(self, row: StrategyConfig) -> tuple[BaseStrategy[Any], tuple[Instrument, ...], Product]:
        problems: list[Problem] = []

        def bad(field: str, message: str) -> None:
            problems.append(Problem(row.strategy_id, field, message))

        strategy = self._strategy(row, bad)
        instruments = self._instruments(row, bad)
        if row.product not in set(Product):
            bad("product", f"{row.product!r} is none of {', '.join(Product)}")
        if row.age_limit_s <= 0:
            bad("age_limit_s", f"{row.age_limit_s:g} must be greater than 0 seconds")
        if row.capital <= 0:
            bad("capital", f"{row.capital} must be greater than 0 rupees")
        for broker, target in row.opt_ins.items():
            if broker not in set(Broker) or broker == Broker.PAPER:
                bad(f"opt_ins.{broker}", "is no broker to opt in to (paper is always on)")
            elif target not in set(KiteTarget):
                bad(f"opt_ins.{broker}", f"target {target!r} is none of {', '.join(KiteTarget)}")
        if problems or strategy is None:
            raise BadStrategies(problems)
        return strategy, instruments, Product(row.product)

    def _strategy(self, row: StrategyConfig, bad: Any) -> BaseStrategy[Any] | None:
        strategy_class = self._classes.get(row.class_name)
        if strategy_class is None:
            bad("class_name", f"no strategy class {row.class_name!r}; known: {', '.join(sorted(self._classes))}")
            return None
        try:
            strategy = strategy_class(strategy_class.parameters_model.model_validate(dict(row.parameters)))
            for interval_s in strategy.bar_intervals:
                BarBuilder(0, interval_s)
            if not strategy.bar_intervals or strategy.bars_needed() < 0:
                raise ValueError("bar_intervals must name an interval, bars_needed must not be negative")
            return strategy
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False):
                where = ".".join(["parameters", *(str(part) for part in item["loc"])])
                bad(where, item["msg"].removeprefix("Value error, "))
        except Exception as error:  # the class's own code, asked with these parameters
            bad("parameters", f"{row.class_name} refuses them: {type(error).__name__}: {error}")
        return None

    def _instruments(self, row: StrategyConfig, bad: Any) -> tuple[Instrument, ...]:
        found: list[Instrument] = []
        if not row.instruments:
            bad("instruments", "names no instrument")
        for key in dict.fromkeys(row.instruments):
            instrument = self._book.by_key(key)
            if instrument is None:
                bad("instruments", f"{key!r} is not in today's instruments of {self._settings.kite_target}")
            elif not instrument.tradable:
                bad("instruments", f"{key!r} is an index: it cannot be traded")
            else:
                found.append(instrument)
        return tuple(found)
