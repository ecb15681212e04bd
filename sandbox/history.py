"""Candles before the sandbox watched: a seeded, continuous past for each instrument. Pure; re-reads agree.

Past weekdays have 375 minutes (09:15 to 15:29 IST). The day the caller stands on has every minute since 06:00 IST, because
the sandbox's market never closes. The past ends where the instrument's price begins. Bars the sandbox really saw are
laid over it; where it looked away the path goes on from the last price it saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from functools import lru_cache
from math import exp, pi, sin
from random import Random

from sandbox.prices import Bar
from sandbox.wire import DAY_STARTS, IST, trading_day

SESSION_MINUTES = 375
_OPENS = timedelta(hours=9, minutes=15)
_PERIODS = ((11.0, 0.012), (37.0, 0.03), (160.0, 0.06))
"""Cycles of the daily level: (days, share of the price)."""


def synthetic_minutes(
    seed: int, token: int, base: int, tick: int, anchor: date, start: datetime, end: datetime
) -> Iterator[Bar]:
    """Minute bars from `start` to `end` (aware, inclusive), oldest first.

    Args:
        base: price in paise at which the day before `anchor` closed.
        anchor: the first day the sandbox ran for this data folder; from it on the market is open around the clock.
    """
    day = trading_day(start)
    low, high = int(start.timestamp()) // 60 * 60, int(end.timestamp())
    while day <= trading_day(end):
        for bar in _day(seed, token, base, tick, anchor, day):
            if low <= bar[0] <= high:
                yield bar
        day += timedelta(days=1)


def lay_over(
    past: dict[int, Bar], seen: dict[int, Bar], tick: int, before: tuple[Bar | None, Bar | None]
) -> Iterator[Bar]:
    """Seen minutes where there are any; between them the seeded path, moved to go on from the last seen close.

    Args:
        before: the last minute seen before this window, and the seeded bar of that same minute.
    """
    factor = before[0][4] / before[1][4] if before[0] is not None and before[1] is not None else 1.0
    for stamp in sorted(past.keys() | seen.keys()):
        bar, seeded = seen.get(stamp), past.get(stamp)
        if bar is not None:
            factor = bar[4] / seeded[4] if seeded is not None else factor
            yield bar
        elif seeded is not None:
            open_, high, low, close = (max(tick, round(price * factor / tick) * tick) for price in seeded[1:5])
            yield (stamp, open_, high, low, close, seeded[5], seeded[6])


def aggregate(bars: Iterable[Bar], minutes: int) -> Iterator[Bar]:
    """Bars of `minutes` minutes, aligned to 09:15 IST as Kite's are; 0 makes one bar a trading day, stamped midnight IST."""
    current: list[int] | None = None
    for bar in bars:
        stamp = _slot(bar[0], minutes)
        if current is not None and current[0] == stamp:
            current[2] = max(current[2], bar[2])
            current[3] = min(current[3], bar[3])
            current[4] = bar[4]
            current[5] += bar[5]
            current[6] = bar[6]
            continue
        if current is not None:
            yield (current[0], current[1], current[2], current[3], current[4], current[5], current[6])
        current = [stamp, *bar[1:]]
    if current is not None:
        yield (current[0], current[1], current[2], current[3], current[4], current[5], current[6])


def _slot(at: int, minutes: int) -> int:
    if minutes == 0:
        day = trading_day(datetime.fromtimestamp(at, IST))
        return int(datetime.combine(day, datetime.min.time(), IST).timestamp())
    length = minutes * 60
    offset = int((_OPENS - timedelta(hours=5, minutes=30)).total_seconds()) % length
    return (at - offset) // length * length + offset


def _level(seed: int, token: int, base: int, anchor: date, day: date) -> float:
    """Where `day` opens, in paise: cycles that pass through `base` on the anchor day."""
    rng = Random(f"{seed}:{token}:cycles")
    away = (day - anchor).days
    shift = 0.0
    for length, share in _PERIODS:
        phase = rng.random() * 2 * pi
        shift += share * (sin(2 * pi * away / length + phase) - sin(phase))
    return base * exp(shift)


@lru_cache(maxsize=128)
def _day(seed: int, token: int, base: int, tick: int, anchor: date, day: date) -> tuple[Bar, ...]:
    """A day's minute bars: a random bridge from this day's level to the next one's."""
    if day < anchor and day.weekday() >= 5:
        return ()
    around_the_clock = day >= anchor
    first = datetime.combine(day, datetime.min.time(), IST) + (DAY_STARTS if around_the_clock else _OPENS)
    count = 1440 if around_the_clock else SESSION_MINUTES
    open_ = _level(seed, token, base, anchor, day)
    close = open_ if around_the_clock else _level(seed, token, base, anchor, day + timedelta(days=1))
    rng = Random(f"{seed}:{token}:{day.isoformat()}")
    walk = [0.0]
    for _ in range(count):
        walk.append(walk[-1] + (rng.random() - 0.5) * 0.0014)
    path = [
        max(tick, round((open_ + (close - open_) * i / count + open_ * (walk[i] - walk[-1] * i / count)) / tick) * tick)
        for i in range(count + 1)
    ]
    start = int(first.timestamp())
    return tuple(
        (
            start + i * 60, path[i],
            max(path[i], path[i + 1]) + int(rng.random() * 3) * tick,
            max(tick, min(path[i], path[i + 1]) - int(rng.random() * 3) * tick),
            path[i + 1], 100 + int(rng.random() * 20_000), 0,
        )
        for i in range(count)
    )  # fmt: skip
