"""What a strategy may know besides the event itself: its own position, orders, day and capital. Frozen; no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from core.trading.bars import Bar
from core.trading.instruments import Instrument
from core.trading.types import Intent, OrderStatus, Product, Side

Scalar = str | int | float | bool | None
"""What a strategy may ask to be remembered: plain JSON, so that a checkpoint holds it."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What an instance holds of an instrument in a product: units (negative = short), average price in rupees."""

    quantity: int = 0
    average_price: Decimal = Decimal(0)


FLAT = Holding()


@dataclass(frozen=True, slots=True)
class WorkingOrder:
    """An order that has not ended, or a signal still on its way (`order_id` and `status` are None)."""

    signal_id: UUID
    order_id: UUID | None
    instrument: str
    product: Product
    side: Side
    intent: Intent
    quantity: int
    filled_quantity: int = 0
    status: OrderStatus | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """The world as one instance sees it at one event about one instrument.

    `now` is the event's time (UTC): a tick's exchange time, an order's update time. `bars` are the last closed bars of the event's
    interval (on ticks and orders: of the strategy's first), oldest first; `holdings`, `working`, `trades_today` and
    `realized_today` cover the whole instance. Money in rupees. Valid during the call only.
    """

    instrument: Instrument
    product: Product
    now: datetime
    capital: Decimal
    last_price: Decimal | None = None
    bars: tuple[Bar, ...] = ()
    windows: Mapping[int, tuple[Bar, ...]] = field(default_factory=dict)
    holdings: Mapping[tuple[str, Product], Holding] = field(default_factory=dict)
    working: tuple[WorkingOrder, ...] = ()
    trades_today: int = 0
    realized_today: Decimal = Decimal(0)
    last_fill_at: datetime | None = None
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    memory: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def position(self) -> Holding:
        """What is held of this instrument in the strategy's product."""
        return self.holdings.get((self.instrument.key, self.product), FLAT)

    @property
    def busy(self) -> bool:
        """True while a signal or an order of this instrument is on its way: wait for its end before the next."""
        return any(order.instrument == self.instrument.key for order in self.working)

    @property
    def closes(self) -> list[float]:
        """Closing prices of `bars` as floats, for indicators."""
        return [float(bar.close) for bar in self.bars]

    @property
    def unrealized(self) -> Decimal:
        """All open positions marked to their last prices (those seen), before charges."""
        total = Decimal(0)
        for (key, _), held in self.holdings.items():
            price = self.prices.get(key)
            if held.quantity and price is not None:
                total += (price - held.average_price) * held.quantity
        return total

    @property
    def day_pnl(self) -> Decimal:
        """Realised less charges of the trading day, plus unrealised now."""
        return self.realized_today + self.unrealized

    def bars_of(self, interval_s: int) -> tuple[Bar, ...]:
        """Closed bars of one of the strategy's intervals."""
        return self.windows[interval_s]

    def seconds_since_fill(self) -> float | None:
        """Seconds of event time since this instrument's last fill; None when it never had one."""
        return None if self.last_fill_at is None else (self.now - self.last_fill_at).total_seconds()
