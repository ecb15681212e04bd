"""The strategy runner's pure core: one fold of ticks, gaps, order events and configuration into signals.

The same merged input gives the same signals from any restart point: state is plain JSON (`snapshot`, `restore`), ids are derived
from what was decided on, time comes from the events. No I/O, no clock, no randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from control.plans import Plan
from core.clock import trading_day
from core.events.payloads import OrderEvent, SignalRejected
from core.ids import derive, derive_at
from core.trading.bars import Bar
from core.trading.context import Context, Scalar
from core.trading.instruments import Instrument
from core.trading.signals import Signal, SignalSpec
from core.trading.ticks import Gap, Tick
from core.trading.types import Broker
from strategies.base import Action, Remember
from streams.runner_market import Market, WindowKey
from streams.runner_orders import InstanceBook


@dataclass(frozen=True, slots=True)
class Decided:
    """A signal to publish; `correlation_id` is the tick or command it all began with, `causation_id` what it was decided on."""

    broker: Broker
    signal: Signal
    correlation_id: UUID
    causation_id: UUID


@dataclass(frozen=True, slots=True)
class Failure:
    """A strategy raised: its instance is stopped until a person changes its row."""

    instance: str
    strategy_id: str
    version: int
    error: str


@dataclass(frozen=True, slots=True)
class _Slot:
    """What is being decided on: at most one signal per slot and leg, whichever side it takes."""

    name: str
    make_id: Callable[..., UUID]
    correlation_id: UUID
    causation_id: UUID
    origin_at: datetime
    now: datetime


@dataclass(slots=True)
class Running:
    """One instance at work. `failed` is why it was stopped; `silent` while a restart catches up under a newer version."""

    plan: Plan
    failed: str = ""
    silent: bool = False
    memory: dict[int, dict[str, Scalar]] = field(default_factory=dict)
    signals: int = 0
    last_signal_at: datetime | None = None


class Engine:
    """All instances of all brokers on one market. Methods return what to publish; failures gather in `failures`."""

    def __init__(self) -> None:
        self.market = Market()
        self.instances: dict[str, Running] = {}
        self.failures: list[Failure] = []
        self._books: dict[str, InstanceBook] = {}
        self._by_token: dict[int, list[Running]] = {}
        self._kept: dict[str, dict[str, Any]] = {}
        self._catching_up = False

    # Configuration -------------------------------------------------------------------------------------------------

    def configure(self, plans: Iterable[Plan]) -> list[WindowKey]:
        """Run exactly these plans from the next event on; returns the bar windows that start empty.

        A plan whose version is unchanged goes on untouched. A new version keeps position, bars and memory, and decides what later
        ticks close: an instrument's ticks come in order, so the old version can have decided none of that. One that had
        failed gets its new chance.
        """
        instances: dict[str, Running] = {}
        for plan in plans:
            old = self.instances.get(plan.name)
            if old is not None and old.plan.version == plan.version:
                old.plan = plan
                instances[plan.name] = old
            else:
                instances[plan.name] = self._started(plan, old)
        for name, gone in self.instances.items():
            if name not in instances:
                self._kept[name] = _pack_running(gone)
        self.instances = instances
        self._by_token = {}
        for running in instances.values():
            for instrument in running.plan.instruments:
                self._by_token.setdefault(instrument.instrument_token, []).append(running)
        return self.market.want(
            ((instrument.instrument_token, interval_s), running.plan.bars_kept())
            for running in instances.values()
            for instrument in running.plan.instruments
            for interval_s in running.plan.strategy.bar_intervals
        )

    def _started(self, plan: Plan, old: Running | None) -> Running:
        """A new version of a running instance, or one found in a checkpoint or switched off earlier."""
        running = Running(plan)
        state = _pack_running(old) if old is not None else self._kept.pop(plan.name, None)
        if state is None:
            return running
        same_version = state["version"] == plan.version
        if same_version:
            running.failed = state["failed"]
        if state["class_name"] == plan.config.class_name:
            running.memory = {int(token): dict(row) for token, row in state["memory"].items()}
        running.signals = state["signals"]
        running.silent = self._catching_up and state["running"] and (state["silent"] or not same_version)
        return running

    def caught_up(self) -> None:
        """Everything that could have been decided before the last stop has been read: newer versions may speak."""
        self._catching_up = False
        for running in self.instances.values():
            running.silent = False

    def put_history(self, key: WindowKey, bars: Sequence[Bar]) -> int:
        """Warm a window up with the broker's bars; returns how many were older than our own and taken."""
        window = self.market.windows.get(key)
        return window.put_history(bars) if window else 0

    def watches_key(self, key: bytes) -> bool:
        """Whether a market record with this key (an instrument_token) concerns anyone; an odd key does, to be looked at."""
        return not key.isdigit() or int(key) in self._by_token

    # The merged input ----------------------------------------------------------------------------------------------

    def on_tick(self, tick: Tick, tick_id: UUID) -> list[Decided]:
        """Fold a tick; the bars it closes are decided first, then the tick itself."""
        token = tick.instrument_token
        watching = self._by_token.get(token)
        if not watching:
            return []
        closed = self.market.on_tick(tick)
        decided: list[Decided] = []
        for running in watching:
            if running.failed:
                continue
            if closed or running.plan.uses_ticks:
                self._book(running).on_time(tick.received_at)
                self._decide_bars(running, tick, tick_id, closed, decided)
                self._decide_tick(running, tick, tick_id, decided)
        return decided

    def on_gap(self, gap: Gap) -> None:
        self.market.on_gap(gap)

    def on_order(self, event: OrderEvent, event_id: UUID, correlation_id: UUID) -> list[Decided]:
        """Fold one of an instance's order events; a strategy that runs may answer it."""
        order = event.order
        book = self._books.setdefault(order.instance, InstanceBook())
        if not book.on_order(event):
            return []
        running = self.instances.get(order.instance)
        last = self.market.last.get(order.instrument_token)
        if running is None or running.failed or last is None:
            return []
        instrument = _named(running.plan.instruments, order.instrument)
        if instrument is None:
            return []
        slot = _Slot(
            f"order:{order.order_id}:{event.order_seq}",
            lambda *rest: derive(event_id, *rest),
            correlation_id,
            event_id,
            last[1],  # an answer to a fill stands on the prices of now, not on the tick that began the order
            order.updated_at,
        )
        decided: list[Decided] = []
        interval_s = running.plan.strategy.bar_intervals[0]
        self._decide(
            running, instrument, slot, interval_s, lambda ctx: running.plan.strategy.on_order(event, ctx), decided
        )
        return decided

    def on_refusal(self, refusal: SignalRejected) -> None:
        """Risk refused a signal: it is no longer on its way."""
        book = self._books.get(refusal.signal.instance)
        if book is not None:
            book.on_refusal(refusal.signal.signal_id)

    # Deciding ------------------------------------------------------------------------------------------------------

    def _decide_bars(
        self, running: Running, tick: Tick, tick_id: UUID, closed: Sequence[Bar], decided: list[Decided]
    ) -> None:
        plan = running.plan
        for bar in closed:
            if bar.interval_s not in plan.strategy.bar_intervals:
                continue
            instrument = _tokened(plan.instruments, bar.instrument_token)
            slot = _Slot(
                f"bar:{bar.interval_s}s:{bar.end.isoformat()}",
                lambda *rest, bar=bar: derive_at(bar.end, bar.interval_s, *rest),
                tick_id,
                tick_id,
                tick.received_at,
                tick.exchange_ts,
            )
            self._decide(
                running,
                instrument,
                slot,
                bar.interval_s,
                lambda ctx, bar=bar: plan.strategy.on_bar(bar, ctx),  # type: ignore[misc]
                decided,
            )

    def _decide_tick(self, running: Running, tick: Tick, tick_id: UUID, decided: list[Decided]) -> None:
        plan = running.plan
        if not plan.uses_ticks:
            return
        slot = _Slot(
            f"tick:{tick_id}",
            lambda *rest: derive(tick_id, *rest),
            tick_id,
            tick_id,
            tick.received_at,
            tick.exchange_ts,
        )
        instrument = _tokened(plan.instruments, tick.instrument_token)
        interval_s = plan.strategy.bar_intervals[0]
        self._decide(running, instrument, slot, interval_s, lambda ctx: plan.strategy.on_tick(tick, ctx), decided)

    def _decide(
        self,
        running: Running,
        instrument: Instrument,
        slot: _Slot,
        interval_s: int,
        ask: Callable[[Context], Sequence[Action]],
        decided: list[Decided],
    ) -> None:
        """Ask the strategy and turn its answer into signals; what it raises stops this instance alone."""
        if running.failed or running.silent or not self.is_warm(running.plan, instrument):
            return
        try:
            answer = list(ask(self._context(running, instrument, slot, interval_s)))
            signals = [_signal(running.plan, slot, action) for action in answer if not isinstance(action, Remember)]
            _check_legs(signals)
            memories = {action.name: _scalar(action) for action in answer if isinstance(action, Remember)}
        except Exception as error:
            running.failed = f"{type(error).__name__}: {error}"
            plan = running.plan
            self.failures.append(Failure(plan.name, plan.config.strategy_id, plan.version, running.failed))
            return
        if memories:
            running.memory.setdefault(instrument.instrument_token, {}).update(memories)
        for signal in signals:
            self._book(running).on_signal(signal, slot.origin_at)
            running.signals += 1
            running.last_signal_at = slot.origin_at
            decided.append(Decided(running.plan.broker, signal, slot.correlation_id, slot.causation_id))

    def is_warm(self, plan: Plan, instrument: Instrument) -> bool:
        """True once every interval has the closed bars the strategy asked for."""
        needed = plan.strategy.bars_needed()
        return all(
            len(self.market.windows[(instrument.instrument_token, interval_s)].bars) >= needed
            for interval_s in plan.strategy.bar_intervals
        )

    def bars_seen(self, plan: Plan, instrument: Instrument) -> int:
        """Closed bars at hand, in the interval that has fewest."""
        return min(
            len(self.market.windows[(instrument.instrument_token, interval_s)].bars)
            for interval_s in plan.strategy.bar_intervals
        )

    def last_bar_end(self, plan: Plan, instrument: Instrument) -> datetime | None:
        """End of the newest closed bar of the main interval."""
        bars = self.market.windows[(instrument.instrument_token, plan.strategy.bar_intervals[0])].bars
        return bars[-1].end if bars else None

    def _context(self, running: Running, instrument: Instrument, slot: _Slot, interval_s: int) -> Context:
        plan = running.plan
        token = instrument.instrument_token
        kept = plan.bars_kept()
        windows = {each: self.market.windows[(token, each)].bars[-kept:] for each in plan.strategy.bar_intervals}
        book = self._book(running)
        trades, realized = book.day(trading_day(slot.now))
        last = self.market.last
        prices = {row.key: last[row.instrument_token][0] for row in plan.instruments if row.instrument_token in last}
        return Context(
            instrument=instrument,
            product=plan.product,
            now=slot.now,
            capital=plan.capital,
            last_price=prices.get(instrument.key),
            bars=windows[interval_s],
            windows=MappingProxyType(windows),
            holdings=MappingProxyType(book.holdings()),
            working=book.working,
            trades_today=trades,
            realized_today=realized,
            last_fill_at=book.last_fill_at(instrument.key),
            prices=MappingProxyType(prices),
            memory=MappingProxyType(running.memory.get(token, {})),
        )

    def _book(self, running: Running) -> InstanceBook:
        return self._books.setdefault(running.plan.name, InstanceBook())

    # Checkpoint ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Everything the next events are folded into, as plain JSON."""
        instances = dict(self._kept)
        for name, running in self.instances.items():
            instances[name] = _pack_running(running) | {"running": True}
        return {
            "market": self.market.snapshot(),
            "books": {name: book.snapshot() for name, book in self._books.items()},
            "instances": instances,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a snapshot; call before `configure`."""
        self.market.restore(state["market"])
        self._books = {name: InstanceBook.restore(row) for name, row in state["books"].items()}
        self._kept = dict(state["instances"])
        self._catching_up = True


def _pack_running(running: Running) -> dict[str, Any]:
    """An instance's own state. `running` tells one at work from one switched off: only the former may have decided since."""
    return {
        "version": running.plan.version,
        "class_name": running.plan.config.class_name,
        "failed": running.failed,
        "memory": {str(token): dict(row) for token, row in running.memory.items()},
        "silent": running.silent,
        "signals": running.signals,
        "running": False,
    }


def _signal(plan: Plan, slot: _Slot, spec: SignalSpec) -> Signal:
    """The signal a strategy's wish becomes; its id says who decided on what, never which side."""
    instrument = _named(plan.instruments, spec.instrument)
    if instrument is None:
        raise ValueError(f"signal for {spec.instrument}, which is not among the row's instruments")
    discriminator = ("signal", plan.broker.value, plan.name, plan.version, spec.instrument, spec.leg)
    return Signal(
        signal_id=slot.make_id(*discriminator),
        strategy_id=plan.config.strategy_id,
        instance=plan.name,
        strategy_version=plan.version,
        instrument=spec.instrument,
        instrument_token=instrument.instrument_token,
        exchange=instrument.exchange,
        tradingsymbol=instrument.tradingsymbol,
        side=spec.side,
        intent=spec.intent,
        quantity=spec.quantity,
        order_type=spec.order_type,
        product=spec.product,
        validity=spec.validity,
        price=spec.price,
        trigger_price=spec.trigger_price,
        slot=slot.name,
        leg=spec.leg,
        origin_at=slot.origin_at,
        age_limit_s=plan.age_limit_s,
        reason=spec.reason,
    )


def _check_legs(signals: Sequence[Signal]) -> None:
    seen = {(signal.instrument, signal.leg) for signal in signals}
    if len(seen) != len(signals):
        raise ValueError("two signals of one slot share instrument and leg: give each its own leg")


def _scalar(action: Remember) -> Scalar:
    value = action.value
    if value is not None and not isinstance(value, str | int | float | bool):
        raise TypeError(
            f"Remember({action.name!r}): {type(value).__name__} is not plain JSON (str, int, float, bool, None)"
        )
    return value


def _named(instruments: Sequence[Instrument], key: str) -> Instrument | None:
    return next((row for row in instruments if row.key == key), None)


def _tokened(instruments: Sequence[Instrument], token: int) -> Instrument:
    return next(row for row in instruments if row.instrument_token == token)
