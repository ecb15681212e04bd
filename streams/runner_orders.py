"""One instance's own orders, positions and day, folded from the log's order events alone. Pure: no I/O, no clock.

Events come from topics without an order among each other: a state is taken only with a higher `order_seq`, a fill once
by its identity, and a late fill re-folds what it changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.events.payloads import FillRecord, OrderEvent, OrderState
from core.trading.context import Holding, WorkingOrder
from core.trading.positions import PositionFill, PositionState, apply_fill
from core.trading.signals import Signal
from core.trading.types import Exchange, Intent, OrderStatus, Product, Side

REFOLD_DEPTH = 64
"""A fill that comes later than this many newer ones moves quantity and PnL rightly, the average price nearly."""

EXIT_PATIENCE_S = 60.0
ENTRY_PATIENCE_S = 30.0
"""Seconds after which a signal nobody answered no longer counts as on its way (an entry: on top of its age limit)."""


@dataclass(slots=True)
class _Position:
    """`base` holds what is too old to be re-folded, `recent` the fills after it by (fill time, trade id)."""

    base: PositionState = field(default_factory=PositionState)
    recent: list[PositionFill] = field(default_factory=list)
    now: PositionState = field(default_factory=PositionState)

    def add(self, fill: PositionFill) -> None:
        in_order = not self.recent or self.recent[-1].order <= fill.order
        self.recent.append(fill)
        if in_order:
            self.now = _apply(self.now, fill)
        else:
            self.recent.sort(key=lambda row: row.order)
            self.now = self.base
            for row in self.recent:
                self.now = _apply(self.now, row)
        while len(self.recent) > REFOLD_DEPTH:
            self.base = _apply(self.base, self.recent.pop(0))


def _apply(state: PositionState, fill: PositionFill) -> PositionState:
    return apply_fill(state, fill.side, fill.quantity, fill.price, fill.charges)[0]


@dataclass(slots=True)
class _Seen:
    """What must be known of an order for ever (that is: its trading day and the next): its sequence and its fills."""

    seq: int
    day: date
    ended: bool
    fills: set[str]


@dataclass(frozen=True, slots=True)
class _Pending:
    order: WorkingOrder
    until: datetime


class InstanceBook:
    """What one instance holds and has under way. State is plain JSON (`snapshot`, `restore`)."""

    def __init__(self) -> None:
        self._orders: dict[UUID, _Seen] = {}
        self._working: dict[UUID, WorkingOrder] = {}
        self._pending: dict[UUID, _Pending] = {}
        self._positions: dict[tuple[str, Product], _Position] = {}
        self._last_fill: dict[str, datetime] = {}
        self._day: date = date.min
        self._realized = Decimal(0)
        self._trades = 0

    # Folding -------------------------------------------------------------------------------------------------------

    def on_signal(self, signal: Signal, received_at: datetime) -> None:
        """A signal went out: until its order shows up, is refused, or patience ends, it counts as working."""
        patience = signal.age_limit_s + ENTRY_PATIENCE_S if signal.intent is Intent.ENTRY else EXIT_PATIENCE_S
        order = WorkingOrder(
            signal.signal_id, None, signal.instrument, signal.product, signal.side, signal.intent, signal.quantity
        )
        self._pending[signal.signal_id] = _Pending(order, received_at + timedelta(seconds=patience))

    def on_refusal(self, signal_id: UUID) -> None:
        """Risk said no: the signal is over."""
        self._pending.pop(signal_id, None)

    def on_time(self, received_at: datetime) -> None:
        """Forget signals nobody answered in time (time of the merged input, not of a clock)."""
        if self._pending:
            self._pending = {key: row for key, row in self._pending.items() if row.until > received_at}

    def on_order(self, event: OrderEvent) -> bool:
        """Take an order event in; False when it told nothing new."""
        order = event.order
        day = order.updated_at.date()
        if event.fill is not None:
            day = event.fill.trading_day
            self._roll(day)
        seen = self._orders.setdefault(order.order_id, _Seen(-1, day, False, set()))
        news = event.fill is not None and self._book(order, event.fill, seen)
        self._pending.pop(order.signal_id, None)
        if event.order_seq <= seen.seq:
            return news
        seen.seq = event.order_seq
        seen.day = max(seen.day, day)
        seen.ended = seen.ended or order.status.is_end
        if seen.ended:
            self._working.pop(order.order_id, None)
        else:
            self._working[order.order_id] = _working(order)
        return True

    def _book(self, order: OrderState, fill: FillRecord, seen: _Seen) -> bool:
        identity = f"{fill.account}/{fill.trading_day}/{fill.exchange}/{fill.broker_order_id}/{fill.trade_id}"
        if identity in seen.fills:
            return False
        if not seen.fills and fill.trading_day >= self._day:
            self._trades += 1
        seen.fills.add(identity)
        self._positions.setdefault((order.instrument, order.product), _Position()).add(_position_fill(order, fill))
        if fill.trading_day >= self._day:
            self._realized += fill.realized_pnl - fill.charges
        last = self._last_fill.get(order.instrument)
        self._last_fill[order.instrument] = max(last, fill.filled_at) if last else fill.filled_at
        return True

    def _roll(self, day: date) -> None:
        """A new trading day: its counts start at nothing; orders that ended before yesterday are forgotten."""
        if day <= self._day:
            return
        self._day, self._realized, self._trades = day, Decimal(0), 0
        oldest = day - timedelta(days=1)
        self._orders = {key: row for key, row in self._orders.items() if not row.ended or row.day >= oldest}

    # Reading -------------------------------------------------------------------------------------------------------

    @property
    def working(self) -> tuple[WorkingOrder, ...]:
        known = {order.signal_id for order in self._working.values()}
        waiting = (row.order for key, row in self._pending.items() if key not in known)
        return (*self._working.values(), *waiting)

    def holdings(self) -> dict[tuple[str, Product], Holding]:
        """What is held now; flat positions are left out."""
        return {
            key: Holding(row.now.quantity, row.now.average_price)
            for key, row in self._positions.items()
            if row.now.quantity
        }

    def last_fill_at(self, instrument: str) -> datetime | None:
        return self._last_fill.get(instrument)

    def day(self, today: date) -> tuple[int, Decimal]:
        """Orders with a fill, and realised PnL less charges, of the trading day (nothing yet when its first fill is to come)."""
        return (self._trades, self._realized) if self._day >= today else (0, Decimal(0))

    # Checkpoint ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        return {
            "day": self._day.isoformat(),
            "realized": str(self._realized),
            "trades": self._trades,
            "last_fill": {key: at.isoformat() for key, at in self._last_fill.items()},
            "orders": {
                str(key): [row.seq, row.day.isoformat(), row.ended, sorted(row.fills)]
                for key, row in self._orders.items()
            },
            "working": [_pack_working(order) for order in self._working.values()],
            "pending": [[_pack_working(row.order), row.until.isoformat()] for row in self._pending.values()],
            "positions": [
                [key, product.value, _pack_state(row.base), [_pack_fill(fill) for fill in row.recent]]
                for (key, product), row in self._positions.items()
            ],
        }

    @staticmethod
    def restore(state: dict[str, Any]) -> InstanceBook:
        book = InstanceBook()
        book._day = date.fromisoformat(state["day"])
        book._realized = Decimal(state["realized"])
        book._trades = state["trades"]
        book._last_fill = {key: datetime.fromisoformat(at) for key, at in state["last_fill"].items()}
        for key, (seq, day, ended, fills) in state["orders"].items():
            book._orders[UUID(key)] = _Seen(seq, date.fromisoformat(day), ended, set(fills))
        for row in state["working"]:
            order = _unpack_working(row)
            assert order.order_id is not None
            book._working[order.order_id] = order
        for row, until in state["pending"]:
            order = _unpack_working(row)
            book._pending[order.signal_id] = _Pending(order, datetime.fromisoformat(until))
        for instrument, product, base, fills in state["positions"]:
            position = _Position(base=_unpack_state(base), now=_unpack_state(base))
            for fill in fills:
                position.add(_unpack_fill(fill))
            book._positions[(instrument, Product(product))] = position
        return book


def _working(order: OrderState) -> WorkingOrder:
    return WorkingOrder(
        order.signal_id,
        order.order_id,
        order.instrument,
        order.product,
        order.side,
        order.intent,
        order.quantity,
        order.filled_quantity,
        order.status,
    )


def _position_fill(order: OrderState, fill: FillRecord) -> PositionFill:
    return PositionFill(
        fill.account,
        fill.trading_day,
        fill.exchange,
        fill.broker_order_id,
        fill.trade_id,
        order.side,
        fill.quantity,
        fill.price,
        fill.filled_at,
        fill.charges,
    )


def _pack_working(order: WorkingOrder) -> list[Any]:
    return [
        str(order.signal_id),
        str(order.order_id) if order.order_id else None,
        order.instrument,
        order.product.value,
        order.side.value,
        order.intent.value,
        order.quantity,
        order.filled_quantity,
        order.status.value if order.status else None,
    ]


def _unpack_working(row: list[Any]) -> WorkingOrder:
    signal_id, order_id, instrument, product, side, intent, quantity, filled, status = row
    return WorkingOrder(
        UUID(signal_id),
        UUID(order_id) if order_id else None,
        instrument,
        Product(product),
        Side(side),
        Intent(intent),
        quantity,
        filled,
        OrderStatus(status) if status else None,
    )


def _pack_state(state: PositionState) -> list[Any]:
    return [state.quantity, str(state.average_price), str(state.realized_pnl), str(state.charges)]


def _unpack_state(row: list[Any]) -> PositionState:
    return PositionState(row[0], Decimal(row[1]), Decimal(row[2]), Decimal(row[3]))


def _pack_fill(fill: PositionFill) -> list[Any]:
    return [
        fill.account,
        fill.trading_day.isoformat(),
        fill.exchange.value,
        fill.broker_order_id,
        fill.trade_id,
        fill.side.value,
        fill.quantity,
        str(fill.price),
        fill.filled_at.isoformat(),
        str(fill.charges),
    ]


def _unpack_fill(row: list[Any]) -> PositionFill:
    account, day, exchange, broker_order_id, trade_id, side, quantity, price, filled_at, charges = row
    return PositionFill(
        account,
        date.fromisoformat(day),
        Exchange(exchange),
        broker_order_id,
        trade_id,
        Side(side),
        quantity,
        Decimal(price),
        datetime.fromisoformat(filled_at),
        Decimal(charges),
    )
