"""The comparison of a broker with the journal, by table and by property, and what of it is told to a person."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.order_work import LateRowInput
from core.reconcile_work import day_ended
from core.storage.reconcile import kept, opening_of
from core.trading.reconcile import (
    Assumed,
    DayTrade,
    Held,
    Line,
    LineKey,
    Once,
    Opening,
    Openings,
    Watched,
    compare,
    moving_lines,
    observe,
    uncovered,
)
from core.trading.types import Exchange, Product, Side

T0 = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
INFY = LineKey(Exchange.NSE, "INFY", Product.MIS)
CNC = LineKey(Exchange.NSE, "INFY", Product.CNC)
OURS = UUID(int=1)


def trade(signed: int, *, ours: bool, key: LineKey = INFY, name: str | None = None, at: datetime = T0) -> DayTrade:
    side = Side.BUY if signed > 0 else Side.SELL
    return DayTrade("B1", name or str(uuid4()), key, side, abs(signed), at, OURS if ours else None)


def line(
    *,
    broker: int = 0,
    position: int = 0,
    today: int = 0,
    own: int = 0,
    others: int = 0,
    opening: int | None = None,
    first: bool = False,
    key: LineKey = INFY,
    moving: bool = False,
    delivers: bool = True,
) -> Line:
    """The comparison of one line: `own` and `others` are what today's listed trades net to."""
    trades = [trade(signed, ours=ours, key=key) for signed, ours in ((own, True), (others, False)) if signed]
    openings: Openings | None = None if first else {} if opening is None else {key: opening}
    rest: Opening = 0
    for _ in range(2 if first else 1):
        found = compare(
            net={key: broker} if broker else {},
            trades=trades,
            held={key: Held(position, today)} if position or today else {},
            openings=openings,
            moving={key} if moving else (),
            delivers=delivers,
            rest=rest,
        )
        openings, rest = found.openings, found.rest
    return next((row for row in found.lines if row.key == key), Line(key, broker, 0, 0, 0))


@pytest.mark.parametrize(
    ("what", "given", "ours", "foreign", "drift"),
    [
        ("nothing anywhere", {}, 0, 0, 0),
        ("ours, booked", {"broker": 10, "position": 10, "today": 10, "own": 10}, 10, 0, 0),
        ("ours, not booked", {"broker": 10, "own": 10}, 0, 0, 10),
        ("booked twice", {"broker": 10, "position": 20, "today": 20, "own": 10}, 20, 0, -10),
        ("booked and gone from the broker", {"position": 10, "today": 10}, 10, 0, -10),
        ("the trader's own trade", {"broker": 5, "others": 5}, 0, 5, 0),
        ("both", {"broker": 15, "position": 10, "today": 10, "own": 10, "others": 5}, 10, 5, 0),
        ("the trader against us", {"broker": 0, "position": 10, "today": 10, "own": 10, "others": -10}, 10, -10, 0),
        ("the net moved without a trade", {"broker": 7}, 0, 0, 7),
        ("carried by the trader", {"broker": 7, "opening": 7}, 0, 7, 0),
        ("carried by us", {"broker": 10, "opening": 10, "position": 10}, 10, 0, 0),
        ("carried by both, some sold", {"broker": 9, "opening": 15, "position": 4, "today": -6, "own": -6}, 4, 5, 0),
        ("first sight: what is there is carry", {"broker": 7, "first": True}, 0, 7, 0),
        ("first sight: ours carried", {"broker": 10, "position": 10, "first": True}, 10, 0, 0),
        ("first sight at noon", {"broker": 15, "others": 5, "position": 3, "first": True}, 3, 12, 0),
        ("first sight, our fill not booked", {"broker": 10, "own": 10, "first": True}, 0, 0, 10),
    ],
)  # fmt: skip
def test_a_line_adds_up(what: str, given: dict[str, int], ours: int, foreign: int, drift: int) -> None:
    found = line(**given)  # type: ignore[arg-type]
    assert (found.ours, found.foreign, found.drift) == (ours, foreign, drift), what


def test_shares_delivered_overnight_are_neither_drift_nor_foreign() -> None:
    found = line(key=CNC, position=10)
    assert (found.delivered, found.ours, found.foreign, found.drift) == (10, 0, 0, 0)
    sold = line(key=CNC, broker=-4, position=6, today=-4, own=-4)
    assert (sold.delivered, sold.ours, sold.foreign, sold.drift, sold.uncovered) == (10, -4, 0, 0, 0)


def test_a_broker_that_delivers_nothing_goes_on_listing_cnc() -> None:
    found = line(key=CNC, broker=10, opening=10, position=10, delivers=False)
    assert (found.delivered, found.ours, found.drift) == (0, 10, 0)


def test_a_fill_of_yesterday_booked_today_moves_from_foreign_to_ours() -> None:
    before = line(broker=10, opening=10)
    after = line(broker=10, opening=10, position=10)
    assert (before.ours, before.foreign, before.drift) == (0, 10, 0)
    assert (after.ours, after.foreign, after.drift) == (10, 0, 0)


def test_a_line_that_moves_is_not_judged_and_its_opening_waits() -> None:
    first = compare(net={INFY: 7}, trades=[], held={}, openings=None, moving={INFY}, delivers=True)
    assert (first.lines[0].drift, first.openings) == (None, {INFY: None})
    second = compare(net={INFY: 9}, trades=[], held={}, openings=first.openings, moving=(), delivers=True)
    assert (second.lines[0].drift, second.openings) == (None, {INFY: Once(9)})
    third = compare(net={INFY: 9}, trades=[], held={}, openings=second.openings, moving=(), delivers=True)
    assert (third.lines[0].foreign, third.lines[0].drift, third.openings) == (9, 0, {INFY: 9})


@pytest.mark.parametrize(
    ("nets", "drifts", "foreign"),
    [
        ((7, 7, 7), (None, 0, 0), 7),
        ((0, 7, 7, 7), (0, None, 0, 0), 7),
        ((7, 0, 7, 7), (None, 0, None, 0), 7),
        ((7, 7, 0, 7), (None, 0, -7, 0), 7),
        ((0, 0, 7, 7), (0, 0, None, 0), 7),
        ((0, 0, 0, 0, 7, 7), (0, 0, 0, 0, None, 0), 7),
    ],
    ids=["agree at once", "empty at first", "empty second", "empty later", "empty twice", "empty for long"],
)
def test_an_opening_is_believed_when_two_rounds_in_a_row_agree(
    nets: tuple[int, ...], drifts: tuple[int | None, ...], foreign: int
) -> None:
    """A net of 0 is an answer without positions: Kite gives one now and then."""
    found = rounds(*({INFY: net} if net else {} for net in nets))
    assert tuple(drift for drift, _ in found) == drifts
    assert found[-1][1] == foreign


def rounds(*nets: dict[LineKey, int]) -> list[tuple[int | None, int]]:
    """Drift and FOREIGN of INFY in one round after the other, from the first sight of the day on."""
    openings: Openings | None = None
    rest: Opening = 0
    seen: list[tuple[int | None, int]] = []
    for net in nets:
        found = compare(net=net, trades=[], held={}, openings=openings, moving=(), delivers=True, rest=rest)
        openings, rest = found.openings, found.rest
        row = next((line for line in found.lines if line.key == INFY), None)
        seen.append((0, 0) if row is None else (row.drift, row.foreign))
    return seen


def test_a_line_that_appears_after_answers_that_listed_others_is_drift() -> None:
    """They said that it was flat: an answer that lists some positions has not lost sight of them."""
    there: dict[LineKey, int] = {CNC: 3}
    assert rounds(there, there, there | {INFY: 7}, there | {INFY: 7})[2:] == [(7, 0), (7, 0)]
    assert rounds({}, {}, there, there | {INFY: 7})[-1] == (7, 0)


def test_a_trade_explains_the_first_position_of_an_account_that_was_flat() -> None:
    bought = trade(7, ours=False)
    flat = compare(net={}, trades=[], held={}, openings=None, moving=(), delivers=True)
    twice = compare(net={}, trades=[], held={}, openings=flat.openings, moving=(), delivers=True, rest=flat.rest)
    assert (flat.rest, twice.rest) == (Once(0, weak=True), Assumed(0))
    first = compare(
        net={INFY: 7}, trades=[bought], held={}, openings=twice.openings, moving=(), delivers=True, rest=twice.rest
    )
    assert (first.openings[INFY], first.rest, first.mended) == (0, 0, ())
    assert (first.lines[0].foreign, first.lines[0].drift) == (7, 0)


def test_what_we_carried_is_judged_by_empty_answers_and_mended_by_a_full_one() -> None:
    """Closed by Zerodha overnight, or positions that are not to be seen: until one answer lists some, a person is told the worse."""
    openings: Openings | None = None
    rest: Opening = 0
    found = []
    nets: list[dict[LineKey, int]] = [{}, {}, {}, {INFY: 10}, {INFY: 10}]
    for net in nets:
        one = compare(
            net=net, trades=[], held={INFY: Held(10, 0)}, openings=openings, moving=(), delivers=True, rest=rest
        )
        openings, rest = one.openings, one.rest
        found.append((one.lines[0].drift, one.lines[0].foreign, one.lines[0].uncovered, one.mended))
    assert found == [
        (None, 0, 0, ()),
        (0, -10, 10, ()),
        (0, -10, 10, ()),
        (None, 0, 0, (INFY,)),
        (0, 0, 0, ()),
    ]


@pytest.mark.parametrize("opening", [7, 0, None, Once(7), Once(0, weak=True), Assumed(0), Assumed(-3)])
def test_an_opening_is_kept_as_it_is(opening: Opening) -> None:
    assert opening_of(json.loads(json.dumps(kept(opening)))) == opening


def test_openings_kept_by_older_code_are_read() -> None:
    assert opening_of([0]) == Once(0)


def test_a_line_that_moves_later_in_the_day_is_not_judged_either() -> None:
    assert line(broker=12, opening=10, moving=True).drift is None
    assert line(broker=12, opening=10).drift == 2


def test_a_line_first_seen_later_in_the_day_began_flat() -> None:
    found = compare(net={INFY: 7}, trades=[], held={}, openings={}, moving=(), delivers=True)
    assert (found.lines[0].foreign, found.lines[0].drift) == (0, 7)


def test_sold_by_somebody_else_is_uncovered() -> None:
    assert line(broker=0, position=10, today=10, own=10, others=-10).uncovered == 10
    assert (uncovered(4, 10), uncovered(-4, 10), uncovered(12, 10), uncovered(-10, -10), uncovered(0, 0)) == (
        6, 10, 0, 0, 0,
    )  # fmt: skip


def test_a_key_reads_back_whatever_the_symbol() -> None:
    odd = LineKey(Exchange.NFO, "M&M:25NOV", Product.NRML)
    assert LineKey.parse(str(odd)) == odd


def test_what_differs_between_the_reads_moves() -> None:
    old, new = trade(5, ours=True), trade(5, ours=True)
    held = {INFY: Held(5, 5)}
    assert moving_lines([old], [old], held, held, (), ()) == set()
    assert moving_lines([old], [old, new], held, held, (), ()) == {INFY}
    assert moving_lines([old], [old], held, {INFY: Held(10, 10)}, (), ()) == {INFY}
    assert moving_lines([old], [old], {}, held, (), ()) == {INFY}
    assert moving_lines([], [], {}, {}, {CNC}, {INFY}) == {CNC, INFY}


signed = st.integers(-50, 50).filter(bool)


@given(
    carry_ours=st.integers(-50, 50),
    carry_foreign=st.integers(-50, 50),
    own=st.lists(signed, max_size=5),
    others=st.lists(signed, max_size=5),
    seen=st.integers(0, 5),
    lost=st.integers(-20, 20),
)
def test_whatever_happens_the_line_adds_up_and_only_the_unexplained_is_drift(
    carry_ours: int, carry_foreign: int, own: list[int], others: list[int], seen: int, lost: int
) -> None:
    """First sight after any number of the day's trades; `lost` is what the net moves later without a trade."""
    opening = carry_ours + carry_foreign
    openings: Openings | None = None
    rest: Opening = 0
    for number, part in enumerate((seen, seen, 5)):
        done_own, done_others = own[:part], others[:part]
        moved = lost if number == 2 else 0
        net = opening + sum(done_own) + sum(done_others) + moved
        trades = [trade(q, ours=True) for q in done_own] + [trade(q, ours=False) for q in done_others]
        held = {INFY: Held(carry_ours + sum(done_own), sum(done_own))}
        found = compare(
            net={INFY: net},
            trades=trades,
            held=held,
            openings=openings,
            moving=(),
            delivers=True,
            rest=rest,
        )
        openings, rest = found.openings, found.rest
        if number == 0:
            assert openings[INFY] == Once(opening)
            continue
        assert openings[INFY] == opening
        row = next((one for one in found.lines), None)
        if row is None:
            assert net == 0
            assert moved == 0
            continue
        assert row.drift == moved
        assert row.broker == row.ours + row.foreign + row.drift
        assert row.foreign == carry_foreign + sum(done_others)


def test_what_a_late_rows_input_does_not_know_is_refused_not_dropped() -> None:
    with pytest.raises(ValidationError):
        LateRowInput.model_validate({"broker_order_id": "B1", "durations": {}})


# what is told -----------------------------------------------------------------------------------------------------


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def test_a_difference_is_told_once_when_it_stands_and_said_to_be_gone() -> None:
    watched, told, gone = Watched(), [], []
    for second, found in ((0, {"a"}), (60, {"a"}), (120, {"a"}), (180, set()), (240, {"a"}), (300, {"a"})):
        seen = observe(watched, found, (), now=at(second), confirm_s=45)
        watched = seen.watched
        told += [(second, name) for name in seen.raised]
        gone += [(second, name) for name in seen.gone]
    assert told == [(60, "a"), (300, "a")]
    assert gone == [(180, "a")]


def test_two_rounds_right_after_each_other_are_one_sight() -> None:
    first = observe(Watched(), {"a"}, (), now=at(0), confirm_s=45)
    second = observe(first.watched, {"a"}, (), now=at(2), confirm_s=45)
    third = observe(second.watched, {"a"}, (), now=at(50), confirm_s=45)
    assert (first.raised, second.raised, third.raised) == ((), (), ("a",))


def test_a_difference_that_comes_and_goes_is_never_told() -> None:
    watched = Watched()
    for second in range(0, 600, 60):
        seen = observe(watched, {"a"} if second % 120 else set(), (), now=at(second), confirm_s=45)
        watched = seen.watched
        assert not seen.raised


def test_what_is_not_judged_stands_as_it_stood() -> None:
    first = observe(Watched(), {"a"}, (), now=at(0), confirm_s=45)
    second = observe(first.watched, set(), {"a"}, now=at(60), confirm_s=45)
    third = observe(second.watched, {"a"}, (), now=at(120), confirm_s=45)
    assert (second.raised, second.gone, third.raised) == ((), (), ("a",))


def test_one_round_a_day_is_named_its_last() -> None:
    close = datetime(2026, 11, 20, 10, 15, tzinfo=UTC)
    minute = timedelta(minutes=1)
    assert day_ended(close - minute, close)
    assert not day_ended(close, close + minute)
    assert not day_ended(close - 2 * minute, close - minute)
    assert not day_ended(close + minute, close + timedelta(hours=12))
