"""The rules a signal must pass. Pure: no I/O, no clock. `evaluate` applies every rule and reports every failure."""

from core.trading.risk.facts import DayPnl, Facts, Limits
from core.trading.risk.limits import AccountLimits, RiskLimits, Scope, parse_limits
from core.trading.risk.rulebook import RULES, Decision, Denial, evaluate

__all__ = [
    "RULES",
    "AccountLimits",
    "DayPnl",
    "Decision",
    "Denial",
    "Facts",
    "Limits",
    "RiskLimits",
    "Scope",
    "evaluate",
    "parse_limits",
]
