"""How grave each kind of alert is. Pure; a kind nobody listed is a warning, never silence."""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """CRITICAL breaks through quiet hours; INFO is good to know and no trouble."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


CRITICAL = frozenset(
    {
        "drift",
        "exit_denied",
        "exit_short",
        "feed_mute",
        "kill_engaged",
        "kill_stuck",
        "late_row",
        "loss_limit",
        "not_ready",
        "order_unresolved",
        "position_left",
        "position_uncovered",
        "reconcile_blind",
        "session_dead",
    }
)
"""Money may be at risk until somebody looks."""

INFO = frozenset({"kill_finished", "kill_released", "kill_waiting", "order_filled", "ready", "test"})


def severity_of(kind: str) -> Severity:
    if kind in CRITICAL:
        return Severity.CRITICAL
    return Severity.INFO if kind in INFO else Severity.WARNING
