"""Rules about what is held, working, done and lost: an instance's and its account's. Pure."""

from __future__ import annotations

from typing import ClassVar

from core.trading.risk.facts import DayPnl, Facts, Limits
from core.trading.risk.freeze import freeze_quantity
from core.trading.risk.rule import Rule
from core.trading.signals import Signal


class PositionLimit(Rule):
    """Held, plus working orders of the same side, plus this order would pass the position limit, which the freeze
    quantity caps: one order must always be able to close a position.
    """

    code: ClassVar[str] = "POSITION_LIMIT"
    limit: ClassVar[str] = "strategy.max_position"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        most = limits.strategy.max_position
        if facts.instrument is not None:
            most = min(most, freeze_quantity(facts.instrument))
        after = facts.position + signal.side.sign * (facts.working + signal.quantity)
        if abs(after) <= most:
            return None
        return (
            f"position {facts.position} with {facts.working} working and {signal.side} {signal.quantity} "
            f"would be {after}, above {most}"
        )


class OpenOrders(Rule):
    """The instance or the account has as many working orders as it may have."""

    code: ClassVar[str] = "OPEN_ORDERS"
    limit: ClassVar[str] = "strategy.max_open_orders, account.max_open_orders"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        return _counted(
            "working orders",
            (signal.instance, facts.open_orders, limits.strategy.max_open_orders),
            ("the account", facts.account_open_orders, limits.account.max_open_orders),
        )


class TradesADay(Rule):
    """The instance or the account has made as many trades in the trading day as it may make."""

    code: ClassVar[str] = "TRADES_A_DAY"
    limit: ClassVar[str] = "strategy.max_trades_a_day, account.max_trades_a_day"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        return _counted(
            "trades today",
            (signal.instance, facts.trades_today, limits.strategy.max_trades_a_day),
            ("the account", facts.account_trades_today, limits.account.max_trades_a_day),
        )


def _counted(what: str, *rows: tuple[str, int, int]) -> str | None:
    return (
        "; ".join(f"{who} has {count} {what}, the limit is {most}" for who, count, most in rows if count >= most)
        or None
    )


class DayLoss(Rule):
    """The instance or the account has lost its limit in the trading day (realised + unrealised - charges), or holds
    an instrument without a price, so that the loss cannot be judged.
    """

    code: ClassVar[str] = "DAY_LOSS"
    limit: ClassVar[str] = "strategy.max_day_loss, account.max_day_loss"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        problems: list[str] = []
        rows = (
            (signal.instance, facts.day, limits.strategy.max_day_loss),
            ("the account", facts.account_day, limits.account.max_day_loss),
        )
        for who, day, most in rows:
            if -day.net >= most:
                problems.append(f"{who} has lost {self._in_words(day)}, the limit is {most}")
            elif day.unmarked:
                problems.append(f"{who} holds {', '.join(day.unmarked)} without a price: its loss cannot be judged")
        return "; ".join(problems) or None

    @staticmethod
    def _in_words(day: DayPnl) -> str:
        parts = f"realised {day.realized:.2f}, unrealised {day.unrealized:.2f}, charges {day.charges:.2f}"
        return f"{-day.net:.2f} today ({parts})"


class Duplicate(Rule):
    """An accepted entry of the same instance, instrument and side began within the cooldown. Other legs of the same
    slot are no duplicates.
    """

    code: ClassVar[str] = "DUPLICATE"
    limit: ClassVar[str] = "strategy.cooldown_s"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        gap, cooldown = facts.last_entry_gap_s, limits.strategy.cooldown_s
        if gap is None or gap >= cooldown:
            return None
        return f"another {signal.side} of {signal.instrument} began {gap:.3f} s apart, the cooldown is {cooldown:g} s"
