"""Rules about leave to trade at all: the strategy, its opt-in, the kill flag, orders of unknown outcome. Pure."""

from __future__ import annotations

from typing import ClassVar

from core.trading.risk.facts import Facts, Limits
from core.trading.risk.rule import Rule
from core.trading.signals import Signal


class StrategyActive(Rule):
    """The strategy is not active, or there is none of this name."""

    code: ClassVar[str] = "STRATEGY_INACTIVE"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        return None if facts.strategy_active else f"strategy {signal.strategy_id} is not active"


class OptIn(Rule):
    """The strategy has no opt-in to this broker, or one that names another target than the one orders would go to."""

    code: ClassVar[str] = "OPT_IN"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        if facts.opt_in == facts.target:
            return None
        given = f"opted in to {facts.opt_in}" if facts.opt_in else "has no opt-in"
        return f"strategy {signal.strategy_id} {given}; orders here go to {facts.target}"


class KillFlag(Rule):
    """The kill flag of the account, or of the strategy in it, is engaged."""

    code: ClassVar[str] = "KILL"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        return None if facts.kill is None else f"the kill flag is engaged: {facts.kill}"


class UnknownOrder(Rule):
    """An order in this instrument and account is UNKNOWN or UNRESOLVED: nobody knows what is really held."""

    code: ClassVar[str] = "UNKNOWN_ORDER"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        if facts.unknown_orders == 0:
            return None
        return f"{facts.unknown_orders} order(s) of the account in {signal.instrument} are UNKNOWN or UNRESOLVED"
