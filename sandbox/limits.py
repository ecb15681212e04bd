"""Kite's rate limits, counted per calendar second, minute and day on the server's clock. Pure: the caller says what time it is.

Source: kite.trade/docs/connect/v3/exceptions and Zerodha on tradingqna (2026): 10 orders a second, 400 a minute, 5,000 a day
per account; quotes 1 a second, historical 3, everything else 10. The order limits can be set, for runs that need more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

PER_SECOND = {"quote": 1, "historical": 3, "other": 10}


@dataclass(slots=True)
class Limits:
    """What binds while `strict`. Requests of placement per calendar second, minute and trading day."""

    strict: bool = False
    orders_per_second: int = 10
    orders_per_minute: int = 400
    orders_per_day: int = 5_000


class RateLimiter:
    """Counts requests by class, strict or not. A refused request counts, as it does at Zerodha."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.refused: Counter[str] = Counter()
        """By limit: `order.second`, `order.minute`, `order.day`, `quote.second`, …"""

        self.most_orders_in_second = self.most_orders_in_minute = 0
        self._second = self._minute = -1
        self._in_second: dict[str, int] = defaultdict(int)
        self._orders_in_minute = 0

    def allow(self, kind: str, at: float) -> bool:
        """Count one request of `kind` (`order`, or a key of PER_SECOND) at `at`, epoch seconds; False: 429."""
        if int(at) != self._second:
            self._second = int(at)
            self._in_second.clear()
        if int(at) // 60 != self._minute:
            self._minute = int(at) // 60
            self._orders_in_minute = 0
        self._in_second[kind] += 1
        in_second = self._in_second[kind]
        over = None
        if kind == "order":
            self._orders_in_minute += 1
            self.most_orders_in_second = max(self.most_orders_in_second, in_second)
            self.most_orders_in_minute = max(self.most_orders_in_minute, self._orders_in_minute)
            if self._orders_in_minute > self.limits.orders_per_minute:
                over = "order.minute"
        if in_second > (self.limits.orders_per_second if kind == "order" else PER_SECOND[kind]):
            over = f"{kind}.second"
        return self._settle(over)

    def allow_today(self, count: int) -> bool:
        """`count` placement requests were made this trading day, this one included."""
        return self._settle("order.day" if count > self.limits.orders_per_day else None)

    def info(self) -> dict[str, Any]:
        """Limits, refusals since the start, and the most orders there were in one calendar second and minute."""
        return {
            **asdict(self.limits),
            "refused": dict(self.refused),
            "most_orders_in_second": self.most_orders_in_second,
            "most_orders_in_minute": self.most_orders_in_minute,
        }

    def _settle(self, over: str | None) -> bool:
        if over is None or not self.limits.strict:
            return True
        self.refused[over] += 1
        return False
