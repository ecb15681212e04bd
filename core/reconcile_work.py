"""What the reconcile workflow and its activities say to each other: names and models. Models only ever gain optional fields.

Deterministic and free of I/O: workflows import it.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from core.trading.types import Broker

RECONCILE_WORKFLOW = "ReconcileWorkflow"

MEND_ORDERS = "reconcile_mend_orders"
COMPARE_WITH_BROKER = "reconcile_compare_with_broker"
REPORT_ROUND = "reconcile_report_round"

NOW = "now"

ROUNDS_A_RUN = 100
"""Rounds in one history; then the workflow goes on in a new run."""

EVERY_MINUTE = "every minute"
END_OF_DAY = "end of the day"

CLOSED_UTC = time(10, 15)
"""15:45 IST, after the last close of equity and its derivatives (15:40 since 2026-08-03): that round is named the day's last."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class ReconcileDurations(_Model):
    """Seconds. Tests divide all of them by one factor; real targets never do."""

    every: float = 60.0
    """From the end of one round to the next."""
    left_behind: float = 30.0
    """An order's news or workflow that is missing for this long was left behind; before, it may only be on its way."""
    young: float = 30.0
    """A trade younger than this may still be booked by its order's workflow."""
    confirm: float = 45.0
    """A difference is told to a person when it still stands this long after it was first seen."""
    blind: float = 300.0
    """Without a judged comparison for this long, a person is told."""
    read_timeout: float = 40.0
    """Most the reads of one round may take."""
    step_timeout: float = 30.0

    def scaled(self, factor: float) -> ReconcileDurations:
        """All of them divided by `factor`; timeouts keep a floor that a busy machine can meet."""
        if factor == 1.0:
            return self
        floors = {"every": 5.0, "left_behind": 1.0, "read_timeout": 15.0, "step_timeout": 15.0}
        return ReconcileDurations(
            **{name: max(value / factor, floors.get(name, 0.5)) for name, value in self.model_dump().items()}
        )


class ReconcileAsk(_Model):
    """Somebody wants a round now. `durations`, when given, hold from now on."""

    reason: str
    request_id: UUID | None = None
    durations: ReconcileDurations | None = None


class ReconcileInput(_Model):
    """Input of ReconcileWorkflow: one broker's account, for as long as this deployment runs it."""

    broker: Broker
    account: str
    target: str
    durations: ReconcileDurations
    asks: tuple[ReconcileAsk, ...] = ()
    """Set by continue-as-new alone: what was asked and not done yet."""
    last: datetime | None = None
    """When the last round of an earlier run began."""


class RoundInput(_Model):
    """One round. The id is the workflow's: repeating a step of it repeats nothing."""

    round_id: UUID
    broker: Broker
    account: str
    target: str
    reasons: tuple[str, ...]
    requests: tuple[UUID, ...] = ()
    durations: ReconcileDurations


class Mended(_Model):
    """What was left behind and is on its way again."""

    published: int = 0
    """Events."""
    started_again: tuple[UUID, ...] = ()
    """Open orders whose workflow was gone."""
    told: tuple[UUID, ...] = ()
    """Ended orders whose workflow had not heard of it."""
    commands: int = 0
    """Commands told again to the workflow that has to carry them out."""
    trouble: tuple[str, ...] = ()


class Compared(_Model):
    """What a comparison with the broker came to; the lines themselves are stored."""

    judged: bool
    why_not: str | None = None
    late_fills: int = 0
    adopted: tuple[UUID, ...] = ()
    """Orders that got a row of the book which turned up late."""
    touched: tuple[UUID, ...] = ()
    """Orders with events to publish now."""
    drifting: int = 0
    """Lines with drift."""
    foreign: int = 0
    """Orders that are not ours."""


class RoundResult(_Model):
    """What the last step gets: everything the round came to."""

    round: RoundInput
    mended: Mended | None = None
    compared: Compared | None = None
    trouble: tuple[str, ...] = ()


def day_ended(last: datetime, now: datetime) -> bool:
    """The day's sessions closed after the round at `last` and by `now` (UTC)."""
    closed = datetime.combine(now.date(), CLOSED_UTC, UTC)
    return last < closed <= now
