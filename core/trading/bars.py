"""Bars from ticks: exchange time, aligned to the 09:15 IST session, incomplete over a gap. Pure: no I/O and no timer, ever.

A bar closes on its own instrument's first tick of a later bar. That is also the rule for a quiet instrument: its bar stays open
until it trades again, and an interval without a tick makes no bar. Ticks of one instrument are ordered in the log,
those of two are not, so bars stay the same however the log is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from core.trading.ticks import Gap, Tick

DAY_S = 86_400
IST_OFFSET_S = 19_800
DAY_ROLL_S = 6 * 3600
"""A trading day runs from 06:00 IST to 06:00 IST (kite.trade/docs/connect/v3/user); no bar spans it."""
SESSION_OPEN_S = 9 * 3600 + 15 * 60
"""Continuous trading opens at 09:15 IST (NSE market timings): bars are counted from there, both ways."""
MAX_INTERVAL_S = 6 * 3600


@dataclass(frozen=True, slots=True)
class Bar:
    """Open, high, low, close in rupees over [start, end) of exchange time (UTC); `volume` in units.

    `complete` is False where ticks may be missing: over a gap, or when watching began inside the bar.
    """

    instrument_token: int
    interval_s: int
    start: datetime
    end: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    complete: bool

    def pack(self) -> list[Any]:
        """Plain JSON for checkpoints, without what the holder already knows (token and interval)."""
        return [
            int(self.start.timestamp()),
            int(self.end.timestamp()),
            str(self.open),
            str(self.high),
            str(self.low),
            str(self.close),
            self.volume,
            self.complete,
        ]

    @staticmethod
    def unpack(instrument_token: int, interval_s: int, row: Sequence[Any]) -> Bar:
        start, end, opened, high, low, close, volume, complete = row
        return Bar(
            instrument_token,
            interval_s,
            datetime.fromtimestamp(start, UTC),
            datetime.fromtimestamp(end, UTC),
            Decimal(opened),
            Decimal(high),
            Decimal(low),
            Decimal(close),
            volume,
            complete,
        )


def bar_bounds(at_s: int, interval_s: int) -> tuple[int, int]:
    """Start and end (epoch seconds) of the bar that holds the second `at_s`, aligned to its trading day's 09:15 IST."""
    day_start = (at_s + IST_OFFSET_S - DAY_ROLL_S) // DAY_S * DAY_S - IST_OFFSET_S + DAY_ROLL_S
    session_open = day_start - DAY_ROLL_S + SESSION_OPEN_S
    start = session_open + (at_s - session_open) // interval_s * interval_s
    return max(start, day_start), min(start + interval_s, day_start + DAY_S)


@dataclass(slots=True)
class _Open:
    """The bar being built; seconds are epoch seconds."""

    start: int
    end: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    complete: bool


class BarBuilder:
    """Folds one instrument's ticks and gaps into bars of one interval. Its state is plain JSON (`snapshot`, `restore`)."""

    def __init__(self, instrument_token: int, interval_s: int) -> None:
        if not 1 <= interval_s <= MAX_INTERVAL_S:
            raise ValueError(f"bar interval {interval_s} s: bars last 1 to {MAX_INTERVAL_S} seconds")
        self.instrument_token = instrument_token
        self.interval_s = interval_s
        self._bar: _Open | None = None
        self._volume: int | None = None
        self._gaps: list[tuple[int, int]] = []

    def on_tick(self, tick: Tick) -> Bar | None:
        """Take a tick in; returns the bar it closed, if any. A tick older than the open bar changes nothing."""
        at = int(tick.exchange_ts.timestamp())
        bar = self._bar
        if bar is not None and at < bar.start:
            return None
        traded = self._traded(tick.volume, new_day=bar is not None and _trading_day(at) != _trading_day(bar.start))
        price = tick.last_price
        if bar is not None and at < bar.end:
            bar.high = max(bar.high, price)
            bar.low = min(bar.low, price)
            bar.close = price
            bar.volume += traded
            return None
        start, end = bar_bounds(at, self.interval_s)
        complete = bar is not None and not self._gap_over(start, end)
        self._bar = _Open(start, end, price, price, price, price, traded, complete)
        return self._closed(bar) if bar is not None else None

    def on_gap(self, gap: Gap) -> None:
        """Ticks may be missing in [since, until): the open bar and every later one that touches it are incomplete."""
        since, until = int(gap.since.timestamp()), int(gap.until.timestamp()) + 1
        if self._bar is not None and self._bar.start < until and since < self._bar.end:
            self._bar.complete = False
        self._gaps.append((since, until))

    @property
    def open_start(self) -> datetime | None:
        """Start of the bar being built; None before the first tick."""
        return datetime.fromtimestamp(self._bar.start, UTC) if self._bar else None

    def snapshot(self) -> dict[str, Any]:
        bar = self._bar
        return {
            "bar": self._closed(bar).pack() if bar else None,
            "volume": self._volume,
            "gaps": [list(gap) for gap in self._gaps],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where `snapshot` was taken."""
        row = state["bar"]
        if row is None:
            self._bar = None
        else:
            start, end, opened, high, low, close, volume, complete = row
            self._bar = _Open(
                start, end, Decimal(opened), Decimal(high), Decimal(low), Decimal(close), volume, complete
            )
        self._volume = state["volume"]
        self._gaps = [(since, until) for since, until in state["gaps"]]

    def _traded(self, cumulative: int, *, new_day: bool) -> int:
        """Units since the last tick, from the day's cumulative volume, which starts again at 0 with the day."""
        last, self._volume = self._volume, cumulative
        if last is None:
            return 0
        if cumulative >= last and not new_day:
            return cumulative - last
        return cumulative if new_day else 0

    def _gap_over(self, start: int, end: int) -> bool:
        self._gaps = [gap for gap in self._gaps if gap[1] > start]
        return any(since < end for since, _ in self._gaps)

    def _closed(self, bar: _Open) -> Bar:
        return Bar(
            self.instrument_token,
            self.interval_s,
            datetime.fromtimestamp(bar.start, UTC),
            datetime.fromtimestamp(bar.end, UTC),
            bar.open,
            bar.high,
            bar.low,
            bar.close,
            bar.volume,
            bar.complete,
        )


def _trading_day(at_s: int) -> int:
    return (at_s + IST_OFFSET_S - DAY_ROLL_S) // DAY_S
