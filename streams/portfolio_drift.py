"""Watches whether the folded portfolio agrees with what the journal said; a difference that stays is drift. No I/O.

A difference is normal for moments: the fills of one position come through several partitions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from core.trading.positions import PositionKey
from core.trading.types import Broker
from streams.portfolio_fold import PortfolioFold, Position, key_text


@dataclass(frozen=True, slots=True)
class Drift:
    """What a person is told."""

    subject: str
    message: str
    action: str


class DriftWatch:
    """Suspects since when (monotonic seconds), and each drift told once as long as its words do not change."""

    def __init__(self, broker: Broker, patience_s: float) -> None:
        self._broker = broker
        self._patience_s = patience_s
        self._since: dict[PositionKey, float] = {}
        self._told: dict[PositionKey, str] = {}
        self._new: list[Drift] = []

    def look(self, position: Position) -> None:
        """A fill moved this position: it is a suspect until fold and journal agree."""
        if position.disagreement() is None:
            self._since.pop(position.key, None)
            self._told.pop(position.key, None)
        else:
            self._since[position.key] = time.monotonic()

    def judge(self, fold: PortfolioFold) -> None:
        """Call a difference drift that stood without a new fill for the whole patience."""
        due = time.monotonic() - self._patience_s
        for key in [key for key, since in self._since.items() if since <= due]:
            message = fold.positions[key].disagreement()
            del self._since[key]
            if message is None or self._told.get(key) == message:
                continue
            self._told[key] = message
            self._new.append(
                Drift(
                    subject=f"{self._broker} {key_text(key)}",
                    message=f"portfolio and journal differ: {message}",
                    action="compare the position with the broker's; look for filled events that never reached the log",
                )
            )

    def take(self) -> list[Drift]:
        """The drifts nobody has been told of yet."""
        found, self._new = self._new, []
        return found
