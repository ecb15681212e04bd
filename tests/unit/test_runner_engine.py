"""The runner's fold: the same merged input gives the same signals from any restart point, and nobody decides a slot twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from control.plans import Plan
from core.events.payloads import OrderEvent
from core.trading.bars import Bar
from core.trading.context import Context
from core.trading.signals import Signal
from core.trading.ticks import Gap, Tick
from core.trading.types import Broker, OrderStatus, Side
from strategies.base import Action, BaseStrategy, Parameters, Remember
from streams.runner_engine import Decided, Engine
from tests.order_events import FakeJournal, make_order_event, make_order_state, make_rejected_event, make_signal
from tests.strategy_world import INFY, PAPER_AND_ZERODHA, TCS, at, make_plans, make_row, make_tick, tick_id, ticks_of

D = Decimal
UP = (100, 99, 98, 97, 96, 103, 104)
"""A tick a bar: EMA 2 crosses EMA 3 upwards in the bar of 103, which the tick of 104 closes."""


class EveryBar(BaseStrategy[Parameters]):
    """Enters on every bar, whatever is under way; counts its bars in memory."""

    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[Action]:
        count = int(ctx.memory.get("bars") or 0) + 1
        return [Remember("bars", count), self.enter(ctx, Side.BUY, reason=f"bar {count}")]


class Restless(BaseStrategy[Parameters]):
    """Uses everything: ticks, bars, orders, memory, position, day."""

    def bars_needed(self) -> int:
        return 2

    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[Action]:
        if ctx.position.quantity:
            return [self.exit(ctx, reason=f"{ctx.position.average_price} {ctx.day_pnl}")]
        return () if ctx.busy else [self.enter(ctx, Side.BUY, reason=f"{bar.close} {len(ctx.working)}")]

    def on_tick(self, tick: Tick, ctx: Context) -> Sequence[Action]:
        seen = int(ctx.memory.get("ticks") or 0) + 1
        if seen % 7 == 0:
            return [Remember("ticks", seen), self.enter(ctx, Side.SELL, reason=f"{seen} {ctx.trades_today}")]
        return [Remember("ticks", seen)]

    def on_order(self, event: OrderEvent, ctx: Context) -> Sequence[Action]:
        if event.fill and event.fill.quantity % 2:
            return [self.enter(ctx, Side.BUY, reason=f"{ctx.position} {ctx.realized_today}", leg="answer")]
        return ()


class Broken(BaseStrategy[Parameters]):
    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[Action]:
        raise RuntimeError("divided by nothing")


CLASSES = (EveryBar, Restless, Broken)


def plans(*rows: Any, **changes: Any) -> list[Plan]:
    return make_plans(*rows, classes=CLASSES, **changes)


def engine_of(*rows: Any) -> Engine:
    engine = Engine()
    engine.configure(plans(*rows))
    return engine


def feed(engine: Engine, ticks: Any) -> list[Decided]:
    return [each for tick in ticks for each in engine.on_tick(tick, tick_id(tick))]


def restarted(engine: Engine, new_plans: list[Plan]) -> Engine:
    """As after a crash: the state through JSON, configured anew."""
    state = json.loads(json.dumps(engine.snapshot()))
    other = Engine()
    other.restore(state)
    other.configure(new_plans)
    return other


# Deciding ----------------------------------------------------------------------------------------------------------


def test_a_crossing_becomes_one_signal_a_broker() -> None:
    row = make_row(opt_ins=PAPER_AND_ZERODHA, age_limit_s=7)
    decided = feed(engine_of(row), ticks_of(UP, every_s=5))
    assert [(each.broker, each.signal.instance) for each in decided] == [
        (Broker.PAPER, "s@paper"),
        (Broker.ZERODHA, "s@zerodha"),
    ]
    signal = decided[0].signal
    closing = make_tick(30, 104, volume=60)
    assert signal.side is Side.BUY
    assert signal.slot == f"bar:5s:{at(30).isoformat()}"
    assert signal.origin_at == closing.received_at
    assert signal.age_limit_s == 7
    assert decided[0].correlation_id == tick_id(closing)
    assert decided[0].signal.signal_id != decided[1].signal.signal_id


def test_the_side_is_not_in_the_id_but_version_slot_and_leg_are() -> None:
    def ids(**changes: Any) -> list[Any]:
        row = make_row(class_name="EveryBar", parameters={"bar_s": 5}, **changes)
        return [each.signal.signal_id for each in feed(engine_of(row), ticks_of((1, 2, 3), every_s=5))]

    assert ids() == ids()
    assert len(set(ids())) == 2
    assert not set(ids()) & set(ids(version=2))
    assert not set(ids()) & set(ids(strategy_id="t"))


def test_until_warm_nothing_is_decided() -> None:
    engine = engine_of(make_row(class_name="Restless", parameters={"bar_s": 5}))
    assert feed(engine, ticks_of(range(100, 110), every_s=1)) == []
    assert feed(engine, [make_tick(10, 100)]) != []


def test_while_something_is_under_way_the_strategy_waits() -> None:
    engine = engine_of(make_row())
    (first,) = feed(engine, ticks_of(UP, every_s=5))
    again = [make_tick(35 + 5 * n, price) for n, price in enumerate((96, 95, 94, 110, 111))]
    assert feed(engine, again) == []  # the entry has not been answered
    engine.on_refusal(make_rejected_event(Broker.PAPER, first.signal).data)  # type: ignore[arg-type]
    later = [make_tick(60 + 5 * n, price) for n, price in enumerate((96, 95, 94, 110, 111))]
    assert len(feed(engine, later)) == 1


def test_a_signal_nobody_answers_is_given_up_in_time() -> None:
    engine = engine_of(make_row())
    feed(engine, ticks_of(UP, every_s=5))
    late = [make_tick(120 + 5 * n, price) for n, price in enumerate((96, 95, 94, 110, 111))]
    assert len(feed(engine, late)) == 1


def test_fills_make_the_position_an_exit_closes() -> None:
    engine = engine_of(make_row(parameters={"bar_s": 5, "fast": 2, "slow": 3, "quantity": 10}))
    (entry,) = feed(engine, ticks_of(UP, every_s=5))
    journal = FakeJournal()
    event = journal.fill(Side.BUY, 10, D(104), strategy_id="s", name="e")
    event = answer(event, entry.signal)
    assert engine.on_order(event.data, event.id, event.correlation_id) == []  # type: ignore[arg-type]
    (out,) = feed(engine, [make_tick(35, 90), make_tick(40, 80)])
    assert (out.signal.intent, out.signal.side, out.signal.quantity) == ("EXIT", Side.SELL, 10)


def answer(event: Any, signal: Signal) -> Any:
    """The journal's event as an answer to this very signal."""
    order = event.data.order.model_copy(update={"signal_id": signal.signal_id})
    return event.model_copy(update={"data": event.data.model_copy(update={"order": order})})


# Restart -----------------------------------------------------------------------------------------------------------

Step = Callable[[Engine], list[Decided]]


def tick_step(number: int, token: int, price: int, pause: int) -> Step:
    tick = make_tick(number * 2 + pause, price, token=token, volume=number)
    return lambda engine: engine.on_tick(tick, tick_id(tick))


def gap_step(number: int) -> Step:
    gap = Gap(instrument_token=INFY, since=at(number * 2 - 1), until=at(number * 2), reason="test")

    def step(engine: Engine) -> list[Decided]:
        engine.on_gap(gap)
        return []

    return step


def fill_step(journal: FakeJournal, side: Side, quantity: int, price: int, at_s: float) -> Step:
    event = journal.fill(side, quantity, D(price), strategy_id="restless", at_s=at_s)
    return lambda engine: engine.on_order(event.data, event.id, event.correlation_id)  # type: ignore[arg-type]


@some.composite
def inputs(draw: some.DrawFn) -> list[Step]:
    journal = FakeJournal()
    steps: list[Step] = []
    for number in range(draw(some.integers(10, 60))):
        kind = draw(some.integers(0, 9))
        if kind <= 6:
            token = draw(some.sampled_from([INFY, TCS]))
            steps.append(tick_step(number, token, draw(some.integers(90, 110)), draw(some.integers(0, 1))))
        elif kind == 7:
            steps.append(gap_step(number))
        else:
            side = draw(some.sampled_from(list(Side)))
            at_s = number * 2 - draw(some.integers(0, 5))
            steps.append(fill_step(journal, side, draw(some.integers(1, 9)), draw(some.integers(90, 110)), at_s))
    return steps


def fleet() -> list[Plan]:
    return plans(
        make_row(strategy_id="restless", class_name="Restless", parameters={"bar_s": 3}, instruments=("NSE:INFY", "NSE:TCS")),
        make_row(strategy_id="momentum", instruments=("NSE:TCS", "NSE:INFY"), opt_ins=PAPER_AND_ZERODHA),
        make_row(
            strategy_id="reversion", class_name="MeanReversion",
            parameters={"bar_s": 3, "period": 3, "entry_z": 0.5, "exit_z": 0.1, "allow_short": True},
        ),
    )  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(inputs(), some.lists(some.integers(0, 59), max_size=3))
def test_the_same_input_gives_the_same_signals_from_any_restart_point(steps: list[Step], cuts: list[int]) -> None:
    whole, broken = Engine(), Engine()
    for engine in (whole, broken):
        engine.configure(fleet())
    expected: list[Decided] = []
    got: list[Decided] = []
    for number, step in enumerate(steps):
        if number in cuts:
            broken = restarted(broken, fleet())
        expected += step(whole)
        got += step(broken)
    assert got == expected
    assert broken.snapshot() == whole.snapshot()
    assert not whole.failures


def test_slots_since_the_checkpoint_are_decided_again_under_the_same_ids() -> None:
    row = make_row(class_name="EveryBar", parameters={"bar_s": 5})
    engine = engine_of(row)
    ticks = list(ticks_of(range(100, 110), every_s=5))
    feed(engine, ticks[:4])
    again = restarted(engine, plans(row))
    first, second = feed(engine, ticks[4:]), feed(again, ticks[4:])
    assert [each.signal for each in first] == [each.signal for each in second]
    assert len(first) == 6


# Versions ----------------------------------------------------------------------------------------------------------


def test_a_new_version_starts_with_the_next_tick_and_keeps_bars_and_memory() -> None:
    row = make_row(class_name="EveryBar", parameters={"bar_s": 5})
    engine = engine_of(row)
    ticks = list(ticks_of(range(100, 106), every_s=5))
    old = feed(engine, ticks[:3])
    engine.configure(plans(replace(row, version=2, parameters={"bar_s": 5, "quantity": 4})))
    new = feed(engine, ticks[3:])
    assert {each.signal.strategy_version for each in old} == {1}
    assert [(each.signal.strategy_version, each.signal.quantity, each.signal.reason) for each in new] == [
        (2, 4, "bar 3"), (2, 4, "bar 4"), (2, 4, "bar 5"),
    ]  # fmt: skip
    assert not {each.signal.slot for each in old} & {each.signal.slot for each in new}


@pytest.mark.parametrize("bar_s", [1, 3, 5, 10])
def test_a_new_version_never_decides_a_bar_the_old_one_could_have(bar_s: int) -> None:
    row = make_row(class_name="EveryBar", parameters={"bar_s": 5})
    wide = make_row(strategy_id="other", class_name="EveryBar", parameters={"bar_s": bar_s})
    engine = engine_of(row, wide)  # the other's bars are there already
    ticks = list(ticks_of(range(100, 140), every_s=1))
    old = [each.signal for each in feed(engine, ticks[:22]) if each.signal.strategy_id == "s"]
    engine.configure(plans(replace(row, version=2, parameters={"bar_s": bar_s}), wide))
    new = [each.signal for each in feed(engine, ticks[22:]) if each.signal.strategy_id == "s"]
    assert max(end(signal) for signal in old) < min(end(signal) for signal in new)


def end(signal: Signal) -> str:
    return signal.slot.split(":", 2)[2]


def test_after_a_crash_a_newer_version_is_silent_until_everything_old_is_read() -> None:
    row = make_row(class_name="EveryBar", parameters={"bar_s": 5})
    engine = engine_of(row)
    ticks = list(ticks_of(range(100, 112), every_s=5))
    feed(engine, ticks[:3])
    again = restarted(engine, plans(replace(row, version=2)))
    assert feed(again, ticks[3:8]) == []  # version 1 may have decided these before the crash
    again = restarted(again, plans(replace(row, version=2)))  # crashing again changes nothing
    assert feed(again, ticks[8:9]) == []
    again.caught_up()
    decided = feed(again, ticks[9:])
    assert [each.signal.strategy_version for each in decided] == [2, 2, 2]


def test_switched_off_it_decides_nothing_and_switched_on_it_knows_its_position() -> None:
    row = make_row(class_name="Restless", parameters={"bar_s": 5})
    engine = engine_of(row)
    feed(engine, ticks_of(range(100, 104), every_s=5))
    engine.configure([])
    event = FakeJournal().fill(Side.BUY, 10, D(104), strategy_id="s")
    engine.on_order(event.data, event.id, event.correlation_id)  # type: ignore[arg-type]
    assert feed(engine, ticks_of(range(100, 105), every_s=5, start_s=40)) == []
    engine.configure(plans(replace(row, version=2)))
    decided = feed(engine, ticks_of(range(100, 105), every_s=5, start_s=80))
    assert decided[0].signal.quantity == 10
    assert decided[0].signal.intent == "EXIT"


# Failures ----------------------------------------------------------------------------------------------------------


def test_a_strategy_that_raises_is_stopped_and_the_others_go_on() -> None:
    broken = make_row(strategy_id="broken", class_name="Broken", parameters={"bar_s": 5})
    fine = make_row(class_name="EveryBar", parameters={"bar_s": 5})
    engine = engine_of(broken, fine)
    ticks = list(ticks_of(range(100, 108), every_s=5))
    assert len(feed(engine, ticks[:4])) == 3
    (failure,) = engine.failures
    assert (failure.instance, failure.error) == ("broken@paper", "RuntimeError: divided by nothing")
    again = restarted(engine, plans(broken, fine))
    assert again.instances["broken@paper"].failed  # a restart does not forget it
    again.configure(plans(replace(broken, class_name="EveryBar", version=2), fine))
    assert {each.signal.instance for each in feed(again, ticks[4:])} == {"broken@paper", "s@paper"}


class Foreign(BaseStrategy[Parameters]):
    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[Action]:
        return [self.enter(ctx, Side.BUY, reason="r").model_copy(update={"instrument": "NSE:TCS"})]


class Doubled(BaseStrategy[Parameters]):
    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[Action]:
        return [self.enter(ctx, Side.BUY, reason="r"), self.enter(ctx, Side.SELL, reason="r")]


class Hoarder(BaseStrategy[Parameters]):
    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[Action]:
        return [Remember("bar", bar)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strategy", "says"),
    [(Foreign, "not among the row's instruments"), (Doubled, "its own leg"), (Hoarder, "plain JSON")],
)
def test_an_answer_that_cannot_be_is_the_strategys_failure(strategy: type[BaseStrategy[Any]], says: str) -> None:
    engine = Engine()
    row = make_row(class_name=strategy.__name__, parameters={"bar_s": 5})
    engine.configure(make_plans(row, classes=[strategy]))
    assert feed(engine, ticks_of((1, 2, 3), every_s=5)) == []
    assert says in engine.failures[0].error


# History -----------------------------------------------------------------------------------------------------------


def test_history_warms_a_window_up_without_overlapping_live_bars() -> None:
    engine = engine_of(make_row())
    feed(engine, ticks_of((100, 101), every_s=5))
    old = [Bar(INFY, 5, at(5 * n), at(5 * n + 5), D(n), D(n), D(n), D(n), 1, True) for n in range(-6, 3)]
    assert engine.put_history((INFY, 5), old) == 6
    bars = engine.market.windows[(INFY, 5)].bars
    assert [bar.end for bar in bars] == [at(5 * n + 5) for n in range(-6, 1)]
    assert [bar.start for bar in bars][-1] == at(0)


def test_order_events_of_other_instances_and_steps_seen_before_change_nothing() -> None:
    engine = engine_of(make_row(class_name="Restless", parameters={"bar_s": 5}))
    feed(engine, ticks_of(range(100, 104), every_s=5))
    signal = make_signal(Broker.PAPER, strategy_id="s")
    event = make_order_event(Broker.PAPER, make_order_state(signal, OrderStatus.ACKED), 2)
    engine.on_order(event.data, event.id, event.correlation_id)  # type: ignore[arg-type]
    before = engine.snapshot()
    stale = make_order_event(Broker.PAPER, make_order_state(signal, OrderStatus.SUBMITTED), 1)
    engine.on_order(stale.data, stale.id, stale.correlation_id)  # type: ignore[arg-type]
    assert engine.snapshot() == before
