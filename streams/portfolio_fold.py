"""One broker's portfolio as a fold of its filled events; used live and by the rebuild. No I/O, no clock.

Trusts only what the log says of each execution (side, quantity, price, time, charges) and folds the PnL by itself; what the
journal computed is compared, never taken.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime

from core.errors import Poison
from core.events.envelope import Envelope
from core.events.payloads import FillRecord, OrderEvent, OrderState
from core.trading.pnl import DayBooks
from core.trading.positions import (
    FillIdentity,
    FoldedFill,
    PositionFill,
    PositionKey,
    PositionState,
    apply_fill,
    fold,
    same_money,
)
from core.trading.types import Exchange, Product

RECENT = 8
"""How many of the journal's latest statements about a position are kept to compare with."""

Offsets = dict[tuple[str, int], int]
"""(topic, partition) → the next offset to read: everything below is folded."""


@dataclass(slots=True)
class Position:
    """A position with the fills it is made of, in fold order. `order` tells who it belongs to and what it is."""

    order: OrderState
    steps: list[FoldedFill] = field(default_factory=list)
    days: DayBooks = field(default_factory=DayBooks)
    said: list[tuple[datetime, FillRecord]] = field(default_factory=list)

    @property
    def state(self) -> PositionState:
        return self.steps[-1].after if self.steps else PositionState()

    @property
    def key(self) -> PositionKey:
        return key_of(self.order)

    @property
    def product(self) -> Product:
        return self.order.product

    @property
    def exchange(self) -> Exchange:
        return self.order.exchange

    @property
    def last_fill_at(self) -> datetime | None:
        return self.steps[-1].fill.filled_at if self.steps else None

    def add(self, fill: PositionFill) -> bool:
        """Book one more fill; True when it came late and the whole position was folded again."""
        if self.steps and fill.order < self.steps[-1].fill.order:
            fills = [step.fill for step in self.steps]
            bisect.insort(fills, fill, key=lambda row: row.order)
            self.steps = list(fold(fills))
            self.days = DayBooks()
            for step in self.steps:
                self.days.add(step)
            return True
        after, gross = apply_fill(self.state, fill.side, fill.quantity, fill.price, fill.charges)
        step = FoldedFill(fill, gross, after)
        self.steps.append(step)
        self.days.add(step)
        return False

    def heard(self, ts: datetime, record: FillRecord) -> None:
        """Keep what the journal said after its latest bookings, by the time of the event."""
        bisect.insort(self.said, (ts, record), key=lambda row: row[0])
        del self.said[:-RECENT]

    def disagreement(self) -> str | None:
        """How the fold differs from the position the journal stated last; None where they agree.

        One of the latest bookings must have left the position where the fold stands: which of them was the last is not
        known, because different orders have no order among each other. A fill still on its way looks like a
        difference: judge only one that stays.
        """
        ours = PositionState(self.state.quantity, self.state.average_price)
        if not self.said or any(same_money(_stated(record), ours) for _, record in self.said):
            return None
        record = self.said[-1][1]
        return (
            f"the journal says {record.position_quantity} at {record.position_average_price:f} after trade "
            f"{record.trade_id}, the log folds to {ours.quantity} at {ours.average_price:f}"
        )


def _stated(record: FillRecord) -> PositionState:
    return PositionState(record.position_quantity, record.position_average_price)


def key_of(order: OrderState) -> PositionKey:
    return (order.instance, order.instrument, order.product)


def key_text(key: PositionKey) -> str:
    """The key as topics and Redis write it: instance:instrument:product."""
    instance, instrument, product = key
    return f"{instance}:{instrument}:{product}"


def position_fill(order: OrderState, record: FillRecord) -> PositionFill:
    return PositionFill(
        account=record.account,
        trading_day=record.trading_day,
        exchange=record.exchange,
        broker_order_id=record.broker_order_id,
        trade_id=record.trade_id,
        side=order.side,
        quantity=record.quantity,
        price=record.price,
        filled_at=record.filled_at,
        charges=record.charges,
    )


class PortfolioFold:
    """Positions of one broker and the offsets they stand at."""

    def __init__(self) -> None:
        self.positions: dict[PositionKey, Position] = {}
        self.offsets: Offsets = {}
        self.latest_day: date | None = None
        self._known: set[FillIdentity] = set()

    def apply(self, envelope: Envelope) -> Position | None:
        """Book the fill of a filled event; the position it moved, or None where this execution was booked before.

        Raises:
            Poison: the event carries no fill, or an impossible one.
        """
        event = envelope.data
        if not isinstance(event, OrderEvent) or event.fill is None:
            raise Poison(f"{envelope.type} {envelope.id} carries no fill", stage="validate")
        fill = position_fill(event.order, event.fill)
        if fill.identity in self._known:
            return None
        if fill.quantity < 1 or fill.price < 0:
            raise Poison(f"fill {fill.trade_id} is of {fill.quantity} at {fill.price}", stage="validate")
        position = self.positions.setdefault(key_of(event.order), Position(event.order))
        position.add(fill)
        position.order = max(position.order, event.order, key=lambda order: order.updated_at)
        position.heard(envelope.ts, event.fill)
        self._known.add(fill.identity)
        self.latest_day = max(self.latest_day or fill.trading_day, fill.trading_day)
        return position

    def advance(self, topic: str, partition: int, offset: int) -> None:
        """The record at `offset` has been dealt with."""
        self.offsets[(topic, partition)] = offset + 1

    def states(self) -> dict[PositionKey, PositionState]:
        return {key: position.state for key, position in self.positions.items()}


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one position in which the rebuilt portfolio and the live one do not agree."""

    key: PositionKey
    field: str
    live: str
    rebuilt: str


def differences(live: dict[PositionKey, PositionState], rebuilt: dict[PositionKey, PositionState]) -> list[Difference]:
    """Every difference in quantity, average price, realised PnL and charges; a missing position counts as an empty one."""
    rows: list[Difference] = []
    for key in sorted({*live, *rebuilt}):
        one, other = live.get(key, PositionState()), rebuilt.get(key, PositionState())
        if same_money(one, other):
            continue
        for name, left, right in _fields(one, other):
            if left != right:
                rows.append(Difference(key, name, str(left), str(right)))
    return rows


def _fields(one: PositionState, other: PositionState) -> Iterable[tuple[str, object, object]]:
    return (
        ("quantity", one.quantity, other.quantity),
        ("average_price", one.average_price, other.average_price),
        ("realized_pnl", one.realized_pnl, other.realized_pnl),
        ("charges", one.charges, other.charges),
    )
