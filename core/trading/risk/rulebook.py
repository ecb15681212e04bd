"""The rulebook: every rule, in the order people read about them, and the one function that applies them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.trading.risk.exposure_rules import DayLoss, Duplicate, OpenOrders, PositionLimit, TradesADay
from core.trading.risk.facts import Facts, Limits
from core.trading.risk.market_rules import SessionOpen, StaleTick
from core.trading.risk.order_rules import (
    Chargeable,
    FreezeQuantity,
    InstrumentListed,
    LotSize,
    OrderValue,
    PriceBand,
    TickSize,
)
from core.trading.risk.permission_rules import KillFlag, OptIn, StrategyActive, UnknownOrder
from core.trading.risk.rule import Rule
from core.trading.signals import Signal

RULES: tuple[Rule, ...] = (
    InstrumentListed(),
    Chargeable(),
    TickSize(),
    LotSize(),
    KillFlag(),
    StrategyActive(),
    OptIn(),
    UnknownOrder(),
    SessionOpen(),
    StaleTick(),
    FreezeQuantity(),
    PriceBand(),
    OrderValue(),
    PositionLimit(),
    OpenOrders(),
    TradesADay(),
    DayLoss(),
    Duplicate(),
)


@dataclass(frozen=True, slots=True)
class Denial:
    """One failing rule: its code and what it saw, in words."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Accepted when no rule failed; otherwise every rule that did."""

    denials: tuple[Denial, ...]

    @property
    def accepted(self) -> bool:
        return not self.denials


def evaluate(signal: Signal, facts: Facts, limits: Limits) -> Decision:
    """Apply every rule that binds this signal's intent and report all that fail, not just the first."""
    found = ((rule, rule.check(signal, facts, limits)) for rule in RULES if rule.binds.covers(signal.intent))
    return Decision(tuple(Denial(rule.code, message) for rule, message in found if message is not None))
