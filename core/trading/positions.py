"""A position as the fold of its fills: average cost, shorts, crossing zero. Pure: no I/O, no clock.

Never reads a position from anywhere else: what is held is what the fills add up to, by (fill time, trade id).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from core.trading.types import Exchange, Product, Side

PRICE_QUANTUM = Decimal("0.0000000001")
"""Average prices are kept to 1e-10 rupees, so that a million shares cost right to a hundredth of a paisa."""

MONEY_QUANTUM = Decimal("0.000001")
"""Realised PnL is kept to 1e-6 rupees: what the stores keep, so that a fold read back goes on exactly."""

ZERO = Decimal(0)

FillIdentity = tuple[str, date, str, str, str]
"""(account, trading day, exchange, broker order id, trade id): the same execution, however often it is reported."""

PositionKey = tuple[str, str, Product]
"""(strategy instance, instrument, product)."""


@dataclass(frozen=True, slots=True)
class PositionState:
    """Signed quantity (short below zero), average price of what is open, gross realised PnL and charges; rupees."""

    quantity: int = 0
    average_price: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    charges: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class PositionFill:
    """One execution as a position sees it. `filled_at` is the broker's fill time (UTC); price and charges in rupees."""

    account: str
    trading_day: date
    exchange: Exchange
    broker_order_id: str
    trade_id: str
    side: Side
    quantity: int
    price: Decimal
    filled_at: datetime
    charges: Decimal = ZERO

    @property
    def identity(self) -> FillIdentity:
        return (self.account, self.trading_day, str(self.exchange), self.broker_order_id, self.trade_id)

    @property
    def order(self) -> tuple[datetime, str, FillIdentity]:
        """What fills are folded by. The identity breaks the tie of two orders whose trade ids agree."""
        return (self.filled_at, self.trade_id, self.identity)


@dataclass(frozen=True, slots=True)
class FoldedFill:
    """A fill with what it did: the gross PnL it realised and the position after it."""

    fill: PositionFill
    realized_pnl: Decimal
    after: PositionState


def apply_fill(
    state: PositionState, side: Side, quantity: int, price: Decimal, charges: Decimal
) -> tuple[PositionState, Decimal]:
    """The position after one fill, and the gross PnL (rupees, before charges) that this fill realised.

    Adding to a position moves its average price and realises nothing; reducing it realises against the average price,
    which stays; crossing zero closes the old side in full and opens the new one at the fill's price.

    Raises:
        ValueError: a quantity below 1 or a negative price.
    """
    if quantity < 1 or price < 0:
        raise ValueError(f"a fill has a quantity of at least 1 and a price of at least 0, got {quantity} at {price}")
    signed = side.sign * quantity
    held = state.quantity
    total = held + signed
    if held == 0 or (held > 0) == (signed > 0):
        average = _average(abs(held), state.average_price, quantity, price)
        return PositionState(total, average, state.realized_pnl, state.charges + charges), ZERO
    closed = min(abs(held), quantity)
    direction = 1 if held > 0 else -1
    gross = ((price - state.average_price) * closed * direction).quantize(MONEY_QUANTUM, ROUND_HALF_EVEN)
    if total == 0:
        average = ZERO
    elif (total > 0) == (held > 0):
        average = state.average_price
    else:
        average = price.quantize(PRICE_QUANTUM)
    return PositionState(total, average, state.realized_pnl + gross, state.charges + charges), gross


def _average(held: int, held_price: Decimal, added: int, added_price: Decimal) -> Decimal:
    if held == 0 or held_price == added_price:
        return added_price.quantize(PRICE_QUANTUM)
    cost = held * held_price + added * added_price
    return (cost / (held + added)).quantize(PRICE_QUANTUM, ROUND_HALF_EVEN)


def fold(fills: Iterable[PositionFill], start: PositionState | None = None) -> Iterator[FoldedFill]:
    """Fold fills in the order of (fill time, trade id), whatever order they are given in; each identity counts once."""
    state = start or PositionState()
    seen: set[FillIdentity] = set()
    for fill in sorted(fills, key=lambda row: row.order):
        if fill.identity in seen:
            continue
        seen.add(fill.identity)
        state, gross = apply_fill(state, fill.side, fill.quantity, fill.price, fill.charges)
        yield FoldedFill(fill, gross, state)


def position_of(fills: Iterable[PositionFill]) -> PositionState:
    """The position these fills add up to."""
    state = PositionState()
    for step in fold(fills):
        state = step.after
    return state


def same_money(one: PositionState, other: PositionState) -> bool:
    """True where two folds agree: quantity to the unit, money to MONEY_QUANTUM (stores round to it)."""
    return _rounded(one) == _rounded(other)


def _rounded(state: PositionState) -> PositionState:
    return replace(
        state,
        average_price=state.average_price.quantize(MONEY_QUANTUM),
        realized_pnl=state.realized_pnl.quantize(MONEY_QUANTUM),
        charges=state.charges.quantize(MONEY_QUANTUM),
    )
