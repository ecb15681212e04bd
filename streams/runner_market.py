"""The market as strategies see it: closed bars per instrument and interval, last prices. Pure fold of ticks and gaps.

One window serves every instance that wants it, so that a strategy's paper and live instances see the very same bars.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from core.trading.bars import Bar, BarBuilder
from core.trading.ticks import Gap, Tick

WindowKey = tuple[int, int]
"""(instrument_token, interval in seconds)."""


class Window:
    """The last `kept` closed bars of one instrument and interval, oldest first, and the bar being built."""

    def __init__(self, instrument_token: int, interval_s: int, kept: int) -> None:
        self.builder = BarBuilder(instrument_token, interval_s)
        self.kept = kept
        self.bars: tuple[Bar, ...] = ()

    def on_tick(self, tick: Tick) -> Bar | None:
        bar = self.builder.on_tick(tick)
        if bar is not None:
            self.bars = (*self.bars, bar)[-self.kept :]
        return bar

    def put_history(self, bars: Iterable[Bar]) -> int:
        """Older bars from the broker go before our own, never over them; returns how many were taken."""
        first = self.bars[0].start if self.bars else self.builder.open_start
        older = tuple(bar for bar in bars if first is None or bar.end <= first)
        before = len(self.bars)
        self.bars = (*older, *self.bars)[-self.kept :]
        return len(self.bars) - before


class Market:
    """All windows, and each instrument's last price with the moment it was received."""

    def __init__(self) -> None:
        self.windows: dict[WindowKey, Window] = {}
        self._by_token: dict[int, list[Window]] = {}
        self.last: dict[int, tuple[Decimal, datetime]] = {}

    def want(self, wanted: Iterable[tuple[WindowKey, int]]) -> list[WindowKey]:
        """Keep exactly the windows wanted, each as long as its longest wish; returns those that are new."""
        longest: dict[WindowKey, int] = {}
        for key, kept in wanted:
            longest[key] = max(kept, longest.get(key, 1))
        fresh = [key for key in longest if key not in self.windows]
        windows = {key: self.windows.get(key) or Window(*key, kept) for key, kept in longest.items()}
        for key, kept in longest.items():
            windows[key].kept = kept
            windows[key].bars = windows[key].bars[-kept:]
        self.windows = windows
        self._index()
        return fresh

    def on_tick(self, tick: Tick) -> list[Bar]:
        """The bars this tick closed, shortest interval first."""
        self.last[tick.instrument_token] = (tick.last_price, tick.received_at)
        closed = (window.on_tick(tick) for window in self._by_token.get(tick.instrument_token, ()))
        return [bar for bar in closed if bar is not None]

    def on_gap(self, gap: Gap) -> None:
        for window in self._by_token.get(gap.instrument_token, ()):
            window.builder.on_gap(gap)

    def watches(self, instrument_token: int) -> bool:
        return instrument_token in self._by_token

    def _index(self) -> None:
        self._by_token = {}
        for key in sorted(self.windows, key=lambda key: key[1]):
            self._by_token.setdefault(key[0], []).append(self.windows[key])

    def snapshot(self) -> dict[str, Any]:
        return {
            "windows": [
                [*key, window.kept, window.builder.snapshot(), [bar.pack() for bar in window.bars]]
                for key, window in self.windows.items()
            ],
            "last": {str(token): [str(price), at.isoformat()] for token, (price, at) in self.last.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a snapshot; `want` then drops what is no longer wanted."""
        for token, interval_s, kept, builder, bars in state["windows"]:
            window = Window(token, interval_s, kept)
            window.builder.restore(builder)
            window.bars = _unpack(token, interval_s, bars)
            self.windows[(token, interval_s)] = window
        self.last = {
            int(token): (Decimal(price), datetime.fromisoformat(at)) for token, (price, at) in state["last"].items()
        }
        self._index()


def _unpack(token: int, interval_s: int, rows: Sequence[Sequence[Any]]) -> tuple[Bar, ...]:
    return tuple(Bar.unpack(token, interval_s, row) for row in rows)
