"""Kite's rate limits, counted per calendar second on the server's clock. Pure: the caller says what time it is.

Source: kite.trade/docs/connect/v3/exceptions and Zerodha on tradingqna (2026): 10 orders a second, 400 a minute, 5,000 a day
per account; quotes 1 a second, historical 3, everything else 10.
"""

from __future__ import annotations

from collections import defaultdict

PER_SECOND = {"quote": 1, "historical": 3, "order": 10, "other": 10}
ORDERS_PER_MINUTE = 400
ORDERS_PER_DAY = 5_000


class RateLimiter:
    """Counts requests by class. A refused request counts, as it does at Zerodha."""

    def __init__(self) -> None:
        self._second = self._minute = -1
        self._in_second: dict[str, int] = defaultdict(int)
        self._orders_in_minute = 0

    def allow(self, kind: str, at: float) -> bool:
        """Count one request of `kind` (a key of PER_SECOND) at `at`, epoch seconds."""
        if int(at) != self._second:
            self._second = int(at)
            self._in_second.clear()
        if int(at) // 60 != self._minute:
            self._minute = int(at) // 60
            self._orders_in_minute = 0
        self._in_second[kind] += 1
        if kind == "order":
            self._orders_in_minute += 1
            if self._orders_in_minute > ORDERS_PER_MINUTE:
                return False
        return self._in_second[kind] <= PER_SECOND[kind]
