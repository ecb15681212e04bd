"""The pacer never lets more leave than the broker allows in any second, minute or day, and keeps room for what is urgent."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.brokers.pacer import REACH_S, SECOND_S, Budget, Held, Pacer, Turn
from core.brokers.paper import UNLIMITED
from core.brokers.port import BrokerProfile
from core.brokers.zerodha import LIMITS, limits
from core.config import Settings
from core.trading.types import KiteTarget

DAY = date(2026, 11, 23)

gaps = st.one_of(st.just(0.0), st.floats(0, 0.2), st.floats(0, 3))
asks = st.lists(st.tuples(gaps, st.booleans(), st.floats(0, 2)), min_size=20, max_size=60)
"""Steps of (time passing before the next ask, urgent, how patient the asker is), all in seconds."""


def taken(budget: Budget, steps: list[tuple[float, bool, float]], start: float = 100.0) -> list[tuple[float, bool]]:
    """When tokens were given, each asker waiting as told, if it is patient enough."""
    now, given_at = start, []
    for gap, urgent, patience in steps:
        now += gap
        until = now + patience
        while (wait := budget.take(now, DAY, urgent=urgent)) > 0 and now + wait <= until:
            now += wait
        if wait == 0:
            given_at.append((now, urgent))
    return given_at


def most_in(times: list[float], span: float) -> int:
    return max((sum(1 for t in times if start <= t < start + span) for start in times), default=0)


@given(asks, st.floats(0, 1))
def test_no_calendar_second_of_any_clock_sees_more_than_eight(
    steps: list[tuple[float, bool, float]], skew: float
) -> None:
    times = [t for t, _ in taken(Budget(LIMITS), steps)]
    seconds = [int(t + skew) for t in times]
    assert all(seconds.count(second) <= 8 for second in set(seconds))
    assert most_in(times, 1.0) <= 8


@given(asks)
def test_entries_leave_two_of_each_second_to_exits(steps: list[tuple[float, bool, float]]) -> None:
    given_at = taken(Budget(LIMITS), steps)
    assert most_in([t for t, urgent in given_at if not urgent], 1.0) <= 6


@given(st.integers(0, 8), st.booleans())
def test_urgent_ones_find_room_where_entries_do_not(sent: int, urgent: bool) -> None:
    budget = Budget(LIMITS)
    budget.preload(100.0, DAY, [0.0] * sent, sent)
    wait = budget.take(100.0, DAY, urgent=urgent)
    assert (wait == 0) is (sent < (8 if urgent else 6))


def test_a_minute_takes_400_and_the_last_80_are_for_exits() -> None:
    budget = Budget(replace(LIMITS, per_second=None))
    assert [budget.take(100.0, DAY, urgent=False) for _ in range(320)] == [0.0] * 320
    assert budget.take(100.0, DAY, urgent=False) == pytest.approx(60.05)
    assert [budget.take(101.0, DAY, urgent=True) for _ in range(80)] == [0.0] * 80
    assert budget.take(101.0, DAY, urgent=True) == pytest.approx(59.05)
    assert budget.take(160.06, DAY, urgent=True) == 0


def test_a_day_takes_5000_the_last_1000_for_exits_and_the_next_day_begins_anew() -> None:
    budget = Budget(LIMITS)
    budget.preload(100.0, DAY, [], 4000)
    assert budget.take(100.0, DAY, urgent=False) == float("inf")
    assert budget.take(100.0, DAY, urgent=True) == 0
    budget.preload(100.0, DAY, [], 5000)
    assert budget.take(100.0, DAY, urgent=True) == float("inf")
    assert budget.take(100.0, DAY + timedelta(days=1), urgent=False) == 0
    assert budget.day_sent == 1


def test_a_new_holder_counts_what_the_old_one_sent() -> None:
    budget = Budget(LIMITS)
    budget.preload(1000.0, DAY, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 30.0, 59.0], 8)
    assert budget.take(1000.0, DAY, urgent=False) == pytest.approx(0.45)  # the oldest of the six leaves the window
    assert budget.take(1000.0, DAY, urgent=True) == 0
    assert budget.day_sent == 9


async def test_without_limits_nobody_waits() -> None:
    pacer = Pacer(UNLIMITED)
    assert all([await pacer.acquire(urgent=False, timeout_s=0) for _ in range(1000)])


def narrow() -> BrokerProfile:
    """One entry, or two urgent ones, at once."""
    return replace(LIMITS, per_second=2, per_second_reserved=1)


async def test_who_gets_no_token_in_time_is_told_so_and_takes_none() -> None:
    pacer = Pacer(narrow())
    assert await pacer.acquire(urgent=False)
    assert not await pacer.acquire(urgent=False, timeout_s=0.05)
    assert pacer.day_sent == 1


async def test_urgent_ones_go_before_those_who_waited_longer() -> None:
    pacer = Pacer(narrow())
    order: list[str] = []

    async def ask(name: str, urgent: bool) -> None:
        assert await pacer.acquire(urgent, timeout_s=10)
        order.append(name)

    assert await pacer.acquire(urgent=True)
    assert await pacer.acquire(urgent=True)
    entry = asyncio.create_task(ask("entry", False))
    await asyncio.sleep(0)
    exit_ = asyncio.create_task(ask("exit", True))
    await asyncio.gather(entry, exit_)
    assert order == ["exit", "entry"]


def taken_at(budget: Budget, now: float) -> Turn:
    turn = Turn(now, DAY, now)
    assert budget.take(now, DAY, urgent=False, turn=turn) == 0
    return turn


def test_a_token_whose_command_never_left_counts_for_nothing() -> None:
    budget = Budget(replace(LIMITS, per_second=2, per_second_reserved=0, per_minute=3, per_minute_reserved=0))
    first = taken_at(budget, 100.0)
    taken_at(budget, 100.4)
    budget.give_back(first, left=False)
    assert budget.day_sent == 1
    assert budget.take(100.5, DAY, urgent=False) == 0, "its second is free"
    assert budget.take(100.6, DAY, urgent=False) == pytest.approx(0.85), "the one of 100.4 still counts, to its end"
    assert budget.take(101.6, DAY, urgent=False) == 0, "its minute is free"
    assert budget.take(103.0, DAY, urgent=False) > 50


def test_a_command_that_left_but_reached_no_order_desk_counts_for_its_second_alone() -> None:
    budget = Budget(replace(LIMITS, per_second=1, per_second_reserved=0))
    budget.give_back(taken_at(budget, 100.0), left=True)
    assert budget.day_sent == 0
    assert budget.take(100.5, DAY, urgent=False) == pytest.approx(0.55)


def test_a_token_of_yesterday_makes_no_room_today() -> None:
    budget = Budget(LIMITS)
    yesterdays = taken_at(budget, 100.0)
    assert budget.take(103.0, DAY + timedelta(days=1), urgent=True) == 0
    budget.give_back(yesterdays, left=False)
    assert budget.day_sent == 1


@given(asks, st.sets(st.integers(0, 59)))
def test_what_leaves_keeps_the_second_whatever_is_given_back(
    steps: list[tuple[float, bool, float]], unsent: set[int]
) -> None:
    budget, now, left = Budget(LIMITS), 100.0, []
    for number, (gap, urgent, patience) in enumerate(steps):
        now += gap
        turn = Turn(now, DAY, now)
        if budget.take(now, DAY, urgent=urgent, turn=turn) == 0:
            if number in unsent:
                budget.give_back(turn, left=False)
            else:
                left.append(now)
        now += patience / 20
    assert most_in(left, 1.0) <= 8
    assert budget.day_sent == len(left)


stalls = st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 4), st.floats(0, REACH_S)), min_size=20, max_size=60)
"""Asks: time since the one before, how long the command took to leave after its turn was given, and how long to the broker."""


@given(stalls)
def test_commands_held_up_on_their_way_out_never_reach_the_broker_in_one_second(
    asks: list[tuple[float, float, float]],
) -> None:
    """A machine that stalls: the turns of several seconds wait, and their commands leave together."""
    budget, now, reached = Budget(LIMITS), 100.0, []
    under_way: list[tuple[float, Turn]] = []
    for gap, stall, way in asks:
        now += gap
        for leaves, one in under_way:
            if leaves <= now and one.reached is None:
                one.reached = leaves + REACH_S
        turn = Turn(now, DAY, None)
        if budget.take(now, DAY, urgent=True, turn=turn) == 0:
            under_way.append((now + stall, turn))
            reached.append(now + stall + way)
    assert most_in(sorted(reached), 1.0) <= 8


async def test_a_held_turn_counts_until_its_command_has_reached_the_broker() -> None:
    pacer = Pacer(narrow())
    held = await pacer.acquire(urgent=False, holds=True)
    assert held is not None
    assert not await pacer.acquire(urgent=False, timeout_s=1.2), "it has not left yet"
    held.leaves()
    before = time.monotonic()
    pacer.answered(held)
    after, today, budget = time.monotonic(), pacer._today(), pacer._budget
    assert budget.take(before + 1.0, today, urgent=False) > 0, "a second after the answer"
    assert budget.take(after + SECOND_S, today, urgent=False) == 0


class Surprise(Exception):
    """Something unforeseen while a command is under way."""


async def test_a_turn_in_hand_is_given_back_unless_a_command_may_have_left() -> None:
    pacer = Pacer(narrow())
    async with pacer.held(urgent=False) as leave:
        assert leave is not None
        async with pacer.held(urgent=False, timeout_s=0) as other:
            assert other is None, "it counts while it is held"
    assert pacer.day_sent == 0
    used: list[Held] = []

    async def fail() -> None:
        async with pacer.held(urgent=False) as leave:
            assert leave is not None
            leave.used = True
            used.append(leave)
            raise Surprise

    with pytest.raises(Surprise):
        await fail()
    assert pacer.day_sent == 1
    assert used[0].turn.reached is not None, "whatever happened, it may have left"
    assert not await pacer.acquire(urgent=False, timeout_s=0)


@pytest.mark.parametrize(
    ("code", "sent_today", "its_second_is_free"),
    [("UNREACHABLE", 0, True), ("NOT_SENT", 0, True), ("SESSION_EXPIRED", 0, False), ("RATE_LIMITED", 1, False)],
)
async def test_a_refused_command_counts_as_far_as_it_came(code: str, sent_today: int, its_second_is_free: bool) -> None:
    pacer = Pacer(narrow())
    async with pacer.held(urgent=False) as leave:
        assert leave is not None
        leave.used = True
        leave.refused(code)
    assert pacer.day_sent == sent_today
    assert bool(await pacer.acquire(urgent=False, timeout_s=0)) is its_second_is_free


async def test_a_token_given_back_goes_to_the_next_at_once() -> None:
    pacer = Pacer(narrow())
    first = await pacer.acquire(urgent=False)
    assert first is not None
    next_ = asyncio.create_task(pacer.acquire(urgent=False, timeout_s=10))
    await asyncio.sleep(0)
    pacer.give_back(first)
    await asyncio.wait({next_}, timeout=0.2)
    assert next_.done()
    assert pacer.day_sent == 1


async def test_an_asker_cancelled_the_moment_it_got_its_token_gives_it_back() -> None:
    pacer = Pacer(narrow())
    first = await pacer.acquire(urgent=False)
    assert first is not None
    gone = asyncio.create_task(pacer.acquire(urgent=False, timeout_s=10))
    await asyncio.sleep(0)
    pacer.give_back(first)  # `gone` has its token now, and has not run since
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert pacer.day_sent == 0


async def test_an_asker_that_goes_away_does_not_hold_up_the_next() -> None:
    pacer = Pacer(narrow())
    assert await pacer.acquire(urgent=False)
    gone = asyncio.create_task(pacer.acquire(urgent=False, timeout_s=10))
    await asyncio.sleep(0)
    gone.cancel()
    assert await pacer.acquire(urgent=False, timeout_s=10)
    assert pacer.day_sent == 2


def test_the_days_limit_is_the_sandboxs_own_on_local_and_zerodhas_elsewhere() -> None:
    on_local, elsewhere = (
        limits(Settings.model_construct(kite_target=target, sandbox_orders_per_day=100_000))
        for target in (KiteTarget.LOCAL, KiteTarget.PRODUCTION)
    )
    assert (on_local.per_day, on_local.per_day_reserved) == (100_000, 20_000)
    assert elsewhere == LIMITS
    assert replace(on_local, per_day=5000, per_day_reserved=1000) == LIMITS
