"""How an order meets a market snapshot: fills, triggers, protection prices; shared by paper exchange and sandbox.

Pure: no I/O, no clock, no state. The caller keeps the book, books the fills and decides what a fill costs.

What it assumes, for both users alike:
- The visible depth is all there is. Nothing fills beyond the five levels, and an empty side fills nothing.
- We only take: an execution happens at the book's price, which is the order's own price or better. There is no queue
  position for a resting limit; it fills once the other side shows a price that crosses it.
- Our order moves nothing. A new snapshot is a new book, so liquidity taken from the last one is back; within one
  snapshot the caller takes it out with `consume` before it matches the next order (oldest accepted first).
- SL and SL-M trigger on the last traded price (BUY at or above the trigger, SELL at or below), for good, and may fill
  on the very snapshot that triggered them.
- A MARKET or SL-M order whose `price` is None walks the depth without a limit. Both users convert instead: on
  acceptance the caller sets `price` to `protection_price(...)` (of the last price for MARKET, of the trigger price for
  SL-M), and what that price does not reach rests as a limit.
- IOC lives for one look: whatever the first eligible snapshot leaves is cancelled. A stop waits for its trigger first.
- A snapshot older than the order proves nothing about it and does nothing to it. Kite's ticks carry whole seconds, so
  with them an order may wait up to a second longer than it would have at the exchange.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from core.trading.types import OrderType, Side, Validity

AUTO_PROTECTION = Decimal(-1)
"""`market_protection` that asks the broker to choose the band (support.zerodha.com, market price protection)."""

_STOPS = frozenset({OrderType.SL, OrderType.SL_M})


@dataclass(frozen=True, slots=True)
class DepthLevel:
    """One level of the book: price in rupees, quantity in units (shares, not lots)."""

    price: Decimal
    quantity: int


@dataclass(frozen=True, slots=True)
class MarketSnapshot:
    """What the market showed at `exchange_ts` (aware UTC). Best level first on both sides."""

    last_price: Decimal
    bids: tuple[DepthLevel, ...]
    asks: tuple[DepthLevel, ...]
    exchange_ts: datetime


@dataclass(frozen=True, slots=True)
class RestingOrder:
    """An accepted order as the exchange holds it: `quantity` in all, `filled_quantity` filled by earlier looks."""

    broker_order_id: str
    side: Side
    order_type: OrderType
    validity: Validity
    quantity: int
    filled_quantity: int
    price: Decimal | None
    trigger_price: Decimal | None
    triggered: bool
    accepted_at: datetime

    @property
    def pending_quantity(self) -> int:
        return self.quantity - self.filled_quantity


@dataclass(frozen=True, slots=True)
class Execution:
    """One fill of this look: price in rupees, quantity in units."""

    price: Decimal
    quantity: int


@dataclass(frozen=True, slots=True)
class MatchResult:
    """What one snapshot does to one order. `triggered` is the state afterwards; `cancel_remainder` is IOC's end."""

    executions: tuple[Execution, ...]
    triggered: bool
    cancel_remainder: bool

    @property
    def quantity(self) -> int:
        return sum(execution.quantity for execution in self.executions)


def match(order: RestingOrder, snapshot: MarketSnapshot, *, max_quantity: int | None = None) -> MatchResult:
    """Match one order against one snapshot.

    Args:
        max_quantity: the most this look may fill, in units; None for no such limit. The rest rests (IOC: is cancelled).

    Raises:
        ValueError: an SL or SL-M order without a trigger price, or a LIMIT or SL order without a price.
    """
    _check(order)
    if snapshot.exchange_ts < order.accepted_at or order.pending_quantity <= 0:
        return MatchResult((), order.triggered, False)
    triggered = order.triggered or _is_triggered(order, snapshot.last_price)
    if order.order_type in _STOPS and not triggered:
        return MatchResult((), False, False)
    wanted = order.pending_quantity if max_quantity is None else min(order.pending_quantity, max_quantity)
    executions = tuple(_walk(order, snapshot, wanted))
    filled = sum(execution.quantity for execution in executions)
    cancel = order.validity is Validity.IOC and filled < order.pending_quantity
    return MatchResult(executions, triggered, cancel)


def consume(snapshot: MarketSnapshot, side: Side, executions: tuple[Execution, ...]) -> MarketSnapshot:
    """The snapshot without the liquidity that an order of `side` took in `executions` (BUY takes asks, SELL bids)."""
    taken: dict[Decimal, int] = {}
    for execution in executions:
        taken[execution.price] = taken.get(execution.price, 0) + execution.quantity
    levels = []
    for level in snapshot.asks if side is Side.BUY else snapshot.bids:
        gone = min(level.quantity, taken.get(level.price, 0))
        if gone:
            taken[level.price] -= gone
        if level.quantity > gone:
            levels.append(replace(level, quantity=level.quantity - gone))
    if side is Side.BUY:
        return replace(snapshot, asks=tuple(levels))
    return replace(snapshot, bids=tuple(levels))


def protection_price(
    side: Side, last_price: Decimal, protection_percent: Decimal, tick_size: Decimal, instrument_type: str
) -> Decimal:
    """The LIMIT price, in rupees, that a MARKET or SL-M order with `market_protection` becomes.

    Rounded to the tick inside the band (a BUY down, a SELL up), and never less than one tick.

    Args:
        last_price: reference price: the last price for MARKET, the trigger price for SL-M.
        protection_percent: above 0 up to 100, or AUTO_PROTECTION (-1) for the broker's bands.
        instrument_type: EQ, FUT, CE or PE as in the instrument dump; it chooses the automatic band.

    Raises:
        ValueError: a percentage that is neither -1 nor in (0, 100], or a price or tick size that is not positive.
    """
    if last_price <= 0 or tick_size <= 0:
        raise ValueError(f"protection needs a positive price and tick size, got {last_price} and {tick_size}")
    percent = protection_percent
    if percent == AUTO_PROTECTION:
        percent = auto_protection_percent(last_price, instrument_type)
    if not 0 < percent <= 100:
        raise ValueError(f"market protection must be -1 or in (0, 100], got {protection_percent}")
    raw = last_price * (1 + side.sign * percent / 100)
    rounding = ROUND_FLOOR if side is Side.BUY else ROUND_CEILING
    ticks = (raw / tick_size).to_integral_value(rounding=rounding)
    return max(ticks * tick_size, tick_size)


def auto_protection_percent(last_price: Decimal, instrument_type: str) -> Decimal:
    """Zerodha's automatic market protection in percent, by price and kind (support.zerodha.com, read 2026)."""
    if instrument_type in {"CE", "PE"}:
        if last_price < 10:
            return Decimal(5)
        if last_price < 100:
            return Decimal(3)
        return Decimal(2) if last_price <= 500 else Decimal(1)
    if last_price < 100:
        return Decimal(2)
    return Decimal(1) if last_price <= 500 else Decimal("0.5")


def _check(order: RestingOrder) -> None:
    if order.order_type in _STOPS and order.trigger_price is None:
        raise ValueError(f"{order.order_type} order {order.broker_order_id} has no trigger price")
    if order.order_type in {OrderType.LIMIT, OrderType.SL} and order.price is None:
        raise ValueError(f"{order.order_type} order {order.broker_order_id} has no price")


def _is_triggered(order: RestingOrder, last_price: Decimal) -> bool:
    if order.trigger_price is None:
        return False
    if order.side is Side.BUY:
        return last_price >= order.trigger_price
    return last_price <= order.trigger_price


def _walk(order: RestingOrder, snapshot: MarketSnapshot, wanted: int) -> Iterator[Execution]:
    """Take the other side level by level, best first, while the price crosses and something is wanted."""
    buying = order.side is Side.BUY
    for level in snapshot.asks if buying else snapshot.bids:
        if wanted <= 0:
            return
        if order.price is not None and (level.price > order.price if buying else level.price < order.price):
            return
        quantity = min(wanted, level.quantity)
        if quantity > 0 and level.price > 0:
            wanted -= quantity
            yield Execution(level.price, quantity)
