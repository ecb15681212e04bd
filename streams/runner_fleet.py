"""Which rows are configured and what became of them: plans running in the engine, instances idle, rows that cannot run.

At the start a bad row stops everything; later it stops its own instances alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from control.plans import BadStrategies, Idle, Plan, Planner, Problem
from core.clock import trading_day, utc_now
from core.config import Settings
from core.service import ServiceContext
from core.storage.instruments import load_book, wait_book
from core.storage.strategies import StrategyConfig
from core.trading.instruments import InstrumentBook
from core.trading.signals import instance_name
from core.trading.types import Broker
from strategies import registry
from streams.runner_engine import Engine
from streams.runner_market import WindowKey
from streams.runner_status import idle_status, running_status


class Fleet:
    """Keeps the engine's plans equal to the rows."""

    def __init__(self, settings: Settings, engine: AsyncEngine, core: Engine) -> None:
        self._settings = settings
        self._db = engine
        self._core = core
        self._rows: dict[str, StrategyConfig] = {}
        self._plans: dict[str, list[Plan]] = {}
        self._idle: dict[str, list[Idle]] = {}
        self._broken: dict[str, list[Problem]] = {}
        self._untold: list[Problem] = []
        self.day: date = date.min

    @property
    def idle(self) -> list[Idle]:
        return [row for rows in self._idle.values() for row in rows]

    async def start(self, ctx: ServiceContext, rows: Iterable[StrategyConfig]) -> list[WindowKey] | None:
        """Run these rows; waits for the day's instruments. None: stopped meanwhile.

        Raises:
            BadStrategies: every bad field of every active row.
        """
        self._rows = {row.strategy_id: row for row in rows}
        self.day = trading_day(utc_now())
        book = await wait_book(ctx, self._db, keys=self._keys())
        if book is None:
            return None
        planner = self._planner(book)
        planner.all(self._rows.values())
        for row in self._rows.values():
            self._plan(planner, row)
        return self._apply()

    def is_news(self, row: StrategyConfig) -> bool:
        known = self._rows.get(row.strategy_id)
        return known is None or row.version > known.version

    async def change(self, row: StrategyConfig) -> list[WindowKey]:
        """One row is different now. A row that cannot run stops its instances and is told (`take_problems`).

        Raises:
            Transient: the instruments cannot be read; nothing was changed.
        """
        book = await load_book(self._db, self._settings.kite_target, self.day, keys=row.instruments)
        self._rows[row.strategy_id] = row
        self._plan(self._planner(book), row)
        return self._apply()

    async def new_day(self, day: date) -> list[WindowKey]:
        """Resolve every name again for the new day.

        Raises:
            Transient: the new day's instruments are not there yet; yesterday's go on.
        """
        book = await load_book(self._db, self._settings.kite_target, day, keys=self._keys())
        self.day = day
        for row in self._rows.values():
            self._plan(self._planner(book), row)
        return self._apply()

    def take_problems(self) -> list[Problem]:
        """Rows that turned out bad since this was last asked."""
        untold, self._untold = self._untold, []
        return untold

    def status(self) -> list[dict[str, Any]]:
        """Every instance of every row, as people see it."""
        rows = [running_status(self._core, running) for running in self._core.instances.values()]
        rows += [idle_status(idle) for idle in self.idle]
        for strategy_id, problems in self._broken.items():
            reason = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
            name = instance_name(strategy_id, Broker.PAPER)
            rows.append(idle_status(Idle(name, Broker.PAPER, self._rows[strategy_id], reason), failed=True))
        return rows

    def _keys(self) -> set[str]:
        return {key for row in self._rows.values() for key in row.instruments}

    def _planner(self, book: InstrumentBook) -> Planner:
        return Planner(self._settings, registry.known(), book)

    def _plan(self, planner: Planner, row: StrategyConfig) -> None:
        self._broken.pop(row.strategy_id, None)
        try:
            plans, idle = planner.one(row)
        except BadStrategies as error:
            plans, idle = [], []
            self._broken[row.strategy_id] = list(error.problems)
            self._untold += error.problems
        self._plans[row.strategy_id] = plans
        self._idle[row.strategy_id] = idle

    def _apply(self) -> list[WindowKey]:
        return self._core.configure(plan for plans in self._plans.values() for plan in plans)
