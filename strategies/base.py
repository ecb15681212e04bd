"""What a strategy is: one class, typed parameters, and pure answers to bars, ticks and order events.

A strategy keeps nothing on itself: the same events and context give the same signals from any restart on. What it must carry
from one event to the next it hands back as `Remember` and finds in `ctx.memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

from core.events.payloads import OrderEvent
from core.trading.bars import MAX_INTERVAL_S, Bar
from core.trading.context import Context, Scalar
from core.trading.signals import SignalSpec
from core.trading.ticks import Tick
from core.trading.types import Intent, OrderType, Side


class Parameters(BaseModel):
    """A strategy's parameters: give each one bounds, so that a bad row stops the start by name. Unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bar_s: int = Field(default=60, ge=1, le=MAX_INTERVAL_S, description="length of a bar, seconds")
    quantity: int = Field(default=1, ge=1, description="units of an entry")


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep `value` under `name` for this instrument: in `ctx.memory` from the next event on, and over restarts."""

    name: str
    value: Scalar


Action = SignalSpec | Remember
P = TypeVar("P", bound=Parameters)


class BaseStrategy(Generic[P]):
    """Override what you need; everything returns signals (or Remember), nothing by default.

    Called only when warm (`bars_needed` closed bars of every interval). An exception stops the instance, raises an alert and
    leaves the others alone.
    """

    parameters_model: ClassVar[type[Parameters]] = Parameters

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            arguments = get_args(base)
            if get_origin(base) is BaseStrategy and arguments and isinstance(arguments[0], type):
                cls.parameters_model = arguments[0]

    def __init__(self, parameters: P) -> None:
        object.__setattr__(self, "parameters", parameters)

    parameters: P

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"{type(self).__name__}.{name}: a strategy keeps no state; return Remember({name!r}, ...) instead"
        )

    # What it reads -------------------------------------------------------------------------------------------------

    @property
    def bar_intervals(self) -> tuple[int, ...]:
        """Lengths of the bars it wants, seconds; the first is the main one."""
        return (self.parameters.bar_s,)

    def bars_needed(self) -> int:
        """Closed bars of each interval before it may decide anything."""
        return 1

    def bars_kept(self) -> int:
        """How many closed bars `ctx.bars` holds at most."""
        return self.bars_needed()

    # What it decides -----------------------------------------------------------------------------------------------

    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[Action]:
        """A bar closed; it is the last of `ctx.bars`."""
        return ()

    def on_tick(self, tick: Tick, ctx: Context) -> Sequence[Action]:
        """A tick arrived (after the bars it closed)."""
        return ()

    def on_order(self, event: OrderEvent, ctx: Context) -> Sequence[Action]:
        """One of its own orders moved; `ctx` already shows it."""
        return ()

    # Words for signals ---------------------------------------------------------------------------------------------

    def enter(
        self,
        ctx: Context,
        side: Side,
        *,
        reason: str,
        quantity: int | None = None,
        limit: Decimal | None = None,
        leg: str = "0",
    ) -> SignalSpec:
        """Open or add: at market, or at `limit` rupees. Expires when it is older than the row's age limit."""
        return SignalSpec(
            instrument=ctx.instrument.key,
            side=side,
            quantity=quantity or self.parameters.quantity,
            intent=Intent.ENTRY,
            order_type=OrderType.MARKET if limit is None else OrderType.LIMIT,
            product=ctx.product,
            price=limit,
            leg=leg,
            reason=reason,
        )

    def exit(self, ctx: Context, *, reason: str, leg: str = "0") -> SignalSpec:
        """Close what is held of this instrument, at market. Never expires.

        Raises:
            ValueError: when nothing is held.
        """
        held = ctx.position.quantity
        if held == 0:
            raise ValueError(f"nothing of {ctx.instrument.key} is held: look at ctx.position.quantity before an exit")
        return SignalSpec(
            instrument=ctx.instrument.key,
            side=Side.SELL if held > 0 else Side.BUY,
            quantity=abs(held),
            intent=Intent.EXIT,
            product=ctx.product,
            leg=leg,
            reason=reason,
        )
