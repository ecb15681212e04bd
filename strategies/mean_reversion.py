"""Mean reversion: fade prices far from their Bollinger mean, leave when they return. Pure: decides from the bars it is given."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator
from talipp.indicators import BB

from core.trading.bars import Bar
from core.trading.context import Context
from core.trading.signals import SignalSpec
from core.trading.types import Side
from strategies.base import BaseStrategy, Parameters


class MeanReversionParameters(Parameters):
    """Period in bars, z-scores in standard deviations, times in seconds of exchange time."""

    period: int = Field(default=20, ge=3, le=400)
    entry_z: float = Field(default=2.0, gt=0, le=10)
    exit_z: float = Field(default=0.3, ge=0, le=5)
    allow_short: bool = False
    cooldown_s: float = Field(default=0, ge=0, le=86_400, description="after a fill, before the next entry")
    max_hold_s: float = Field(default=3600, gt=0, le=86_400, description="leave by then, whatever the price")

    @model_validator(mode="after")
    def _exit_is_nearer(self) -> MeanReversionParameters:
        if self.exit_z >= self.entry_z:
            raise ValueError(f"exit_z ({self.exit_z}) must be smaller than entry_z ({self.entry_z})")
        return self


class MeanReversion(BaseStrategy[MeanReversionParameters]):
    """Buys far below the mean (sells far above, where shorts are allowed), leaves near it."""

    def bars_needed(self) -> int:
        return self.parameters.period

    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[SignalSpec]:
        if ctx.busy:
            return ()
        z = self._z_score(ctx.closes)
        held = ctx.position.quantity
        since = ctx.seconds_since_fill()
        if held:
            if since is not None and since >= self.parameters.max_hold_s:
                return [self.exit(ctx, reason=f"held for {since:.0f} s")]
            if z is not None and (z >= -self.parameters.exit_z if held > 0 else z <= self.parameters.exit_z):
                return [self.exit(ctx, reason=f"back at z {z:+.2f}")]
            return ()
        if z is None or not bar.complete or (since is not None and since < self.parameters.cooldown_s):
            return ()
        if z <= -self.parameters.entry_z:
            return [self.enter(ctx, Side.BUY, reason=f"z {z:+.2f} is below -{self.parameters.entry_z:g}")]
        if z >= self.parameters.entry_z and self.parameters.allow_short:
            return [self.enter(ctx, Side.SELL, reason=f"z {z:+.2f} is above {self.parameters.entry_z:g}")]
        return ()

    def _z_score(self, closes: list[float]) -> float | None:
        """Standard deviations of the last close from the mean; None where prices have not moved at all."""
        band = BB(self.parameters.period, 1.0, closes)[-1]
        width = band.ub - band.cb
        return (closes[-1] - band.cb) / width if width > 0 else None
