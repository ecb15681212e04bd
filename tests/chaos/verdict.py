"""What the referee says: breaches, counts, and whether too much ended unsent. Holds figures; judges nothing itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from uuid import UUID

from core.trading.types import Broker

ALLOWED = Fraction(5, 100)
"""Share of a broker's intents that may end unsent beyond what the plan wrote down."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One thing that must never be. `order_id` is None where it concerns no single order."""

    broker: Broker
    what: str
    order_id: UUID | None = None


@dataclass(slots=True)
class Verdict:
    """What the referee found."""

    breaches: list[Breach] = field(default_factory=list)
    published: Counter[Broker] = field(default_factory=Counter)
    accepted: Counter[Broker] = field(default_factory=Counter)
    filled: Counter[Broker] = field(default_factory=Counter)
    claimed: Counter[Broker] = field(default_factory=Counter)
    duplicates: int = 0
    lost: int = 0
    unsent: Counter[str] = field(default_factory=Counter)
    """Intents without an order at the broker, by reason; `(planned)` where the plan wrote it down."""
    beyond_plan: Counter[Broker] = field(default_factory=Counter)
    unknown_s: list[float] = field(default_factory=list)
    """Seconds from each UNKNOWN to the step that ended it."""

    @property
    def too_many_unsent(self) -> list[Broker]:
        """Brokers whose share of intents that ended unsent beyond the plan is too large."""
        return [broker for broker in Broker if self.beyond_plan[broker] > ALLOWED * self.published[broker]]
