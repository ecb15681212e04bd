"""PnL of positions: marking to a price, adding up, the trading day's part. Pure: no I/O, no clock.

Gross = realised + unrealised; net = gross − charges. A position without a price has no unrealised PnL: never zero in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal

from core.trading.positions import MONEY_QUANTUM, ZERO, FoldedFill, PositionState


def unrealized(state: PositionState, last_price: Decimal | None) -> Decimal | None:
    """What closing at `last_price` would realise, rupees, before charges. Zero when flat, None without a price."""
    if state.quantity == 0:
        return ZERO
    if last_price is None:
        return None
    return ((last_price - state.average_price) * state.quantity).quantize(MONEY_QUANTUM, ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Pnl:
    """Rupees. `unmarked` counts open positions that have no price yet: their unrealised PnL is missing from the sum."""

    realized: Decimal = ZERO
    unrealized: Decimal = ZERO
    charges: Decimal = ZERO
    unmarked: int = 0

    @property
    def gross(self) -> Decimal:
        return self.realized + self.unrealized

    @property
    def net(self) -> Decimal:
        return self.gross - self.charges

    def __add__(self, other: Pnl) -> Pnl:
        return Pnl(
            self.realized + other.realized,
            self.unrealized + other.unrealized,
            self.charges + other.charges,
            self.unmarked + other.unmarked,
        )


def add_up(parts: Iterable[Pnl]) -> Pnl:
    total = Pnl()
    for part in parts:
        total += part
    return total


def pnl_of(state: PositionState, last_price: Decimal | None) -> Pnl:
    """A position's PnL since it was first traded."""
    open_pnl = unrealized(state, last_price)
    return Pnl(state.realized_pnl, open_pnl or ZERO, state.charges, unmarked=int(open_pnl is None))


@dataclass(slots=True)
class DayBooks:
    """Realised PnL and charges by trading day."""

    realized: dict[date, Decimal] = field(default_factory=dict)
    charges: dict[date, Decimal] = field(default_factory=dict)

    def add(self, step: FoldedFill) -> None:
        day = step.fill.trading_day
        self.realized[day] = self.realized.get(day, ZERO) + step.realized_pnl
        self.charges[day] = self.charges.get(day, ZERO) + step.fill.charges

    def pnl(self, day: date, state: PositionState, last_price: Decimal | None) -> Pnl:
        """The day's PnL: realised and charged on that day, plus the whole unrealised PnL of what is open now.

        A position carried over night counts from its average price, not from yesterday's close.
        """
        open_pnl = unrealized(state, last_price)
        return Pnl(
            self.realized.get(day, ZERO), open_pnl or ZERO, self.charges.get(day, ZERO), unmarked=int(open_pnl is None)
        )
