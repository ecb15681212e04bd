"""Bars from ticks: alignment, volume, gaps, late ticks, and a fold that may stop anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from core.trading.bars import Bar, BarBuilder, bar_bounds
from core.trading.ticks import Gap, Tick
from tests.strategy_world import INFY, at, make_tick

D = Decimal


def build(*ticks: Tick, interval_s: int = 5) -> list[Bar]:
    builder = BarBuilder(INFY, interval_s)
    return [bar for tick in ticks if (bar := builder.on_tick(tick)) is not None]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "interval_s", "start", "end"),
    [
        # 09:15 IST is 03:45 UTC; bars are counted from there, both ways
        ("2026-10-07 03:45:00", 5, "2026-10-07 03:45:00", "2026-10-07 03:45:05"),
        ("2026-10-07 03:45:04", 5, "2026-10-07 03:45:00", "2026-10-07 03:45:05"),
        ("2026-10-07 03:44:59", 7, "2026-10-07 03:44:53", "2026-10-07 03:45:00"),
        ("2026-10-07 04:45:00", 3600, "2026-10-07 04:45:00", "2026-10-07 05:45:00"),
        ("2026-10-07 06:00:00", 4500, "2026-10-07 05:00:00", "2026-10-07 06:15:00"),
        # the trading day rolls at 06:00 IST (00:30 UTC): no bar spans it
        ("2026-10-07 00:29:59", 3600, "2026-10-06 23:45:00", "2026-10-07 00:30:00"),
        ("2026-10-07 00:30:00", 3600, "2026-10-07 00:30:00", "2026-10-07 00:45:00"),
    ],
)
def test_bars_are_aligned_to_the_sessions_open(moment: str, interval_s: int, start: str, end: str) -> None:
    bounds = bar_bounds(int(utc(moment).timestamp()), interval_s)
    assert bounds == (int(utc(start).timestamp()), int(utc(end).timestamp()))


def test_a_bar_closes_on_the_first_tick_of_a_later_bar() -> None:
    bars = build(
        make_tick(0, 10, volume=100), make_tick(1, 12, volume=130), make_tick(3, 9, volume=150),
        make_tick(4, 11, volume=150), make_tick(5, 20, volume=170),
    )  # fmt: skip
    assert bars == [Bar(INFY, 5, at(0), at(5), D(10), D(12), D(9), D(11), 50, complete=False)]


def test_the_first_bar_is_incomplete_and_the_next_is_complete() -> None:
    bars = build(make_tick(2, 10), make_tick(5, 10), make_tick(10, 10))
    assert [bar.complete for bar in bars] == [False, True]


def test_a_quiet_instrument_keeps_its_bar_open_and_empty_intervals_make_no_bar() -> None:
    bars = build(make_tick(0, 10), make_tick(60, 11), make_tick(65, 12))
    assert [(bar.start, bar.close) for bar in bars] == [(at(0), D(10)), (at(60), D(11))]


def test_volume_is_what_the_days_total_grew_by_and_starts_again_with_the_day() -> None:
    next_day = make_tick(86_400, 10, volume=40)
    bars = build(
        make_tick(0, 10, volume=1000), make_tick(5, 10, volume=1015), next_day, make_tick(86_405, 1, volume=40)
    )
    assert [bar.volume for bar in bars] == [0, 15, 40]


def test_a_tick_older_than_the_open_bar_changes_nothing() -> None:
    bars = build(
        make_tick(0, 10), make_tick(5, 10, volume=50), make_tick(4, 99, volume=40), make_tick(10, 10, volume=50)
    )
    assert bars[1].high == D(10)
    assert bars[1].volume == 50


@pytest.mark.parametrize(
    ("since", "until", "complete"),
    [
        (6, 7, [False, False, True, True]),  # inside one bar
        (6, 16, [False, False, False, False]),  # over several
        (9, 10, [False, False, False, True]),  # touches the next (times are whole seconds: the doubt counts)
        (-10, -5, [False, True, True, True]),  # long past
    ],
)
def test_bars_over_a_gap_are_incomplete(since: int, until: int, complete: list[bool]) -> None:
    builder = BarBuilder(INFY, 5)
    bars = []
    for second in range(0, 22):
        if second == 7:
            builder.on_gap(Gap(instrument_token=INFY, since=at(since), until=at(until), reason="test"))
        bar = builder.on_tick(make_tick(second, 10))
        bars += [bar] if bar else []
    assert [bar.complete for bar in bars] == complete


def test_an_interval_out_of_bounds_is_refused() -> None:
    for interval_s in (0, 6 * 3600 + 1):
        with pytest.raises(ValueError, match="bars last"):
            BarBuilder(INFY, interval_s)


steps = some.lists(
    some.tuples(some.integers(0, 9), some.integers(1, 500), some.integers(0, 50), some.booleans()), max_size=60
)


@given(steps, some.integers(0, 60), some.sampled_from([1, 3, 7, 60]))
def test_a_builder_restored_anywhere_gives_the_same_bars(
    walk: list[tuple[int, int, int, bool]], cut: int, interval_s: int
) -> None:
    whole, first = BarBuilder(INFY, interval_s), BarBuilder(INFY, interval_s)
    second, volume, expected, got = 0, 0, [], []
    for number, (pause, price, traded, gap) in enumerate(walk):
        if number == cut:
            state = json.loads(json.dumps(first.snapshot()))
            first = BarBuilder(INFY, interval_s)
            first.restore(state)
        second, volume = second + pause, volume + traded
        for builder, bars in ((whole, expected), (first, got)):
            if gap:
                builder.on_gap(Gap(instrument_token=INFY, since=at(second - 1), until=at(second), reason="test"))
            bar = builder.on_tick(make_tick(second, price, volume=volume))
            bars += [bar] if bar else []
    assert got == expected
    for bar in expected:
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
        assert bar.volume >= 0
        assert bar.end - bar.start <= timedelta(seconds=interval_s)
        assert Bar.unpack(INFY, interval_s, json.loads(json.dumps(bar.pack()))) == bar
    assert all(one.end <= other.start for one, other in pairwise(expected))
    assert sum(bar.volume for bar in expected) <= volume
