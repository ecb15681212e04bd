"""The sandbox's instruments, its walk and its past: real-looking, seeded, consistent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.trading.matching import Execution
from core.trading.types import Side
from sandbox.history import aggregate, lay_over, synthetic_minutes
from sandbox.instruments import CSV_HEADER, Instrument, build, csv_dump, monthly_expiries, tick_for
from sandbox.limits import Limits, RateLimiter
from sandbox.prices import Bar, Market
from sandbox.wire import IST, next_token_death, trading_day

DAY = date(2026, 1, 7)
AT = datetime(2026, 1, 7, 5, 0, tzinfo=UTC)


def instrument(symbol: str = "INFY", exchange: str = "NSE") -> Instrument:
    return next(row for row in build(DAY) if (row.tradingsymbol, row.exchange) == (symbol, exchange))


def make_market(symbol: str = "INFY", *, seed: int = 7, still: bool = False) -> Market:
    return Market(instrument(symbol), seed, AT.timestamp(), still=still)


@given(st.dates(date(2024, 1, 1), date(2030, 12, 31)))
@settings(max_examples=60)
def test_every_day_s_list_is_sound(day: date) -> None:
    rows = build(day, extra=10)
    assert len({row.token for row in rows}) == len(rows)
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        segment = {"INDICES": 9, "NSE": 1, "BSE": 4, "NFO-FUT": 2, "NFO-OPT": 2}[row.segment]
        assert row.token & 0xFF == segment
        assert row.base_paise > 0
        assert row.base_paise % row.tick_paise == 0
        assert (row.expiry is None) == (row.exchange != "NFO")
        if row.expiry is not None:
            assert row.expiry >= day
            assert row.expiry.weekday() == 1  # Tuesday
            assert row.lot_size > 1


def test_tokens_are_the_exchange_s_own() -> None:
    assert instrument("INFY").token == 408065
    assert instrument("SBIN", "BSE").token == 128028676
    assert instrument("NIFTY 50").token == 256265


@pytest.mark.parametrize(("paise", "tick"), [(24_999, 1), (25_000, 5), (100_000, 10), (500_000, 50), (9_000_000, 500)])
def test_ticks_follow_nse_s_price_bands(paise: int, tick: int) -> None:
    assert tick_for(paise) == tick


def test_monthly_expiries_are_last_tuesdays_from_the_day_on() -> None:
    assert monthly_expiries(date(2026, 1, 27)) == [date(2026, 1, 27), date(2026, 2, 24), date(2026, 3, 31)]
    assert monthly_expiries(date(2026, 1, 28), 1) == [date(2026, 2, 24)]


def test_the_dump_has_a_number_where_the_sdk_wants_one() -> None:
    lines = csv_dump(build(DAY)).splitlines()
    assert lines[0] == CSV_HEADER
    for line in lines[1:]:
        fields = dict(zip(CSV_HEADER.split(","), line.split(","), strict=True))
        for name in ("last_price", "strike", "tick_size"):
            float(fields[name])
        int(fields["lot_size"])


@given(st.integers(0, 2**31), st.sampled_from(["INFY", "YESBANK", "NIFTY 50", "MARUTI"]))
@settings(max_examples=25)
def test_the_walk_keeps_to_its_rules(seed: int, symbol: str) -> None:
    market = make_market(symbol, seed=seed)
    volume = market.volume
    for n in range(60):
        market.step(AT.timestamp() + n * 0.25)
        assert market.last % market.instrument.tick_paise == 0
        assert market.lower_circuit <= market.last <= market.upper_circuit
        assert market.low <= market.last <= market.high
        if market.is_index:
            continue
        assert market.volume > volume
        volume = market.volume
        assert len(market.bids) == len(market.asks) == 5
        assert market.bids[0][0] <= market.last <= market.asks[0][0]
        assert market.bids[0][0] < market.asks[0][0]
        assert list(market.asks) == sorted(market.asks)


def test_one_seed_gives_one_walk_and_another_a_different_one() -> None:
    def walk(seed: int) -> list[int]:
        market = make_market(seed=seed)
        prices = []
        for n in range(100):
            market.step(AT.timestamp() + n)
            prices.append(market.last)
        return prices

    assert walk(1) == walk(1)
    assert walk(1) != walk(2)


def test_a_restored_market_is_the_same_market() -> None:
    market, other = make_market(), make_market()
    for n in range(10):
        market.step(AT.timestamp() + n)
    other.restore(market.state())
    assert other.state() == market.state()


def test_taking_liquidity_empties_the_level_and_counts_the_volume() -> None:
    market = make_market(still=True)
    market.set_price(150_000, AT.timestamp(), [(149_990, 5, 1)], [(150_000, 10, 1), (150_010, 20, 2)])
    volume = market.volume
    market.take(Side.BUY, (Execution(Decimal("1500.00"), 10), Execution(Decimal("1500.10"), 5)))
    assert market.asks == ((150_010, 15, 2),)
    assert market.bids == ((149_990, 5, 1),)
    assert market.volume == volume + 15
    assert market.last == 150_000


def past(start: datetime, end: datetime, anchor: date = DAY) -> list[Bar]:
    return list(synthetic_minutes(7, 408065, 151_240, 10, anchor, start, end))


def ist(day: date, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=IST)


def test_the_past_is_the_same_each_time_and_in_any_slice() -> None:
    whole = past(ist(date(2025, 12, 29), 9, 15), ist(date(2026, 1, 6), 15, 30))
    assert past(ist(date(2025, 12, 29), 9, 15), ist(date(2026, 1, 6), 15, 30)) == whole
    part = past(ist(date(2026, 1, 2), 10), ist(date(2026, 1, 2), 11))
    assert len(part) == 61
    assert set(part) <= set(whole)


def test_past_days_are_weekday_sessions_and_prices_run_on_to_the_base() -> None:
    bars = past(ist(date(2025, 12, 29)), ist(date(2026, 1, 6), 23))
    assert len(bars) == 7 * 375  # seven weekdays
    assert {datetime.fromtimestamp(bar[0], IST).weekday() for bar in bars} <= set(range(5))
    for bar in bars:
        assert bar[3] <= min(bar[1], bar[4]) <= max(bar[1], bar[4]) <= bar[2]
    assert bars[-1][4] == 151_240  # the last close is where the price begins


def test_on_the_sandbox_s_own_days_the_market_never_closes() -> None:
    start = ist(DAY, 6)
    assert len(past(start, start + timedelta(hours=23, minutes=59))) == 1440


def test_what_was_seen_lies_over_the_seeded_path_and_the_path_goes_on_from_it() -> None:
    start = ist(DAY, 10)
    path = {bar[0]: bar for bar in past(start, start + timedelta(minutes=9))}
    stamps = sorted(path)
    seen: dict[int, Bar] = {stamps[4]: (stamps[4], 160_000, 160_500, 159_000, 160_100, 77, 0)}
    laid = list(lay_over(path, seen, 10, (None, None)))
    assert laid[:4] == [path[stamp] for stamp in stamps[:4]]
    assert laid[4] == seen[stamps[4]]
    assert abs(laid[5][1] - 160_100) <= 10  # opens where the seen one closed, to the tick
    later = {stamp: path[stamp] for stamp in stamps[6:]}
    assert list(lay_over(later, {}, 10, (seen[stamps[4]], path[stamps[4]]))) == laid[6:]  # whatever the window


@given(st.sampled_from([3, 5, 15, 60, 0]))
def test_longer_bars_are_folds_of_minutes(minutes: int) -> None:
    bars = past(ist(date(2026, 1, 5)), ist(date(2026, 1, 6), 23))
    folded = list(aggregate(bars, minutes))
    assert sum(bar[5] for bar in folded) == sum(bar[5] for bar in bars)
    assert max(bar[2] for bar in folded) == max(bar[2] for bar in bars)
    assert folded[0][1] == bars[0][1]
    assert folded[-1][4] == bars[-1][4]
    first = datetime.fromtimestamp(folded[0][0], IST)
    assert (first.hour, first.minute) == ((0, 0) if minutes == 0 else (9, 15))


@pytest.mark.parametrize(
    ("at", "day", "dies"),
    [
        (datetime(2026, 1, 7, 5, 59, tzinfo=IST), date(2026, 1, 6), datetime(2026, 1, 7, 6, 0, tzinfo=IST)),
        (datetime(2026, 1, 7, 6, 0, tzinfo=IST), date(2026, 1, 7), datetime(2026, 1, 8, 6, 0, tzinfo=IST)),
        (datetime(2026, 1, 7, 23, 0, tzinfo=IST), date(2026, 1, 7), datetime(2026, 1, 8, 6, 0, tzinfo=IST)),
    ],
)
def test_the_day_turns_at_six_in_india(at: datetime, day: date, dies: datetime) -> None:
    assert trading_day(at) == day
    assert next_token_death(at) == dies


def test_rate_limits_count_by_calendar_second_and_minute() -> None:
    limiter = RateLimiter(Limits(strict=True))
    assert [limiter.allow("order", 100.9) for _ in range(11)] == [True] * 10 + [False]
    assert limiter.allow("order", 101.0)  # a new calendar second
    assert limiter.allow("quote", 101.1)
    assert not limiter.allow("quote", 101.2)
    spread = RateLimiter(Limits(strict=True))
    answers = [spread.allow("order", 60 + n / 10) for n in range(450)]
    assert answers.count(True) == 400
