"""Rules about the moment: is the session open, is the price we judge by fresh. Pure."""

from __future__ import annotations

from typing import ClassVar

from core.trading.risk.facts import Facts, Limits
from core.trading.risk.rule import Rule
from core.trading.signals import Signal


class SessionOpen(Rule):
    """The exchange is not in its continuous session. An exit passes and waits for it."""

    code: ClassVar[str] = "SESSION_CLOSED"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        return None if facts.session_open else f"{signal.exchange} is in phase {facts.phase}"


class StaleTick(Rule):
    """There is no last price, or its tick came in too long ago to judge by. A signal's own age is not judged here."""

    code: ClassVar[str] = "STALE_TICK"
    limit: ClassVar[str] = "strategy.max_tick_age_s"

    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        if facts.last_price is None or facts.tick_age_s is None:
            return f"no tick of {signal.instrument} has come in"
        most = limits.strategy.max_tick_age_s
        if facts.tick_age_s <= most:
            return None
        return f"the last tick of {signal.instrument} is {facts.tick_age_s:.1f} s old, above {most:g} s"
