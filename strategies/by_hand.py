"""By hand: a strategy that wants nothing itself; orders that people and programs place belong to it. Its row names the instruments."""

from __future__ import annotations

from strategies.base import BaseStrategy, Parameters


class ByHand(BaseStrategy[Parameters]):
    """Signals nothing. Orders placed by hand belong to it: its instruments are watched, its limits, opt-ins and positions are its own."""

    def bars_needed(self) -> int:
        return 0
