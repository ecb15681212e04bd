"""Momentum: follow the crossing of two exponential averages of closing prices. Pure: decides from the bars it is given."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator
from talipp.indicators import EMA

from core.trading.bars import Bar
from core.trading.context import Context
from core.trading.signals import SignalSpec
from core.trading.types import Side
from strategies.base import BaseStrategy, Parameters


class MomentumParameters(Parameters):
    """Periods in bars, cooldown in seconds of exchange time after a fill before the next entry."""

    fast: int = Field(default=9, ge=2, le=200)
    slow: int = Field(default=21, ge=3, le=400)
    allow_short: bool = False
    cooldown_s: float = Field(default=0, ge=0, le=86_400)

    @model_validator(mode="after")
    def _fast_is_faster(self) -> MomentumParameters:
        if self.fast >= self.slow:
            raise ValueError(f"fast ({self.fast}) must be smaller than slow ({self.slow})")
        return self


class Momentum(BaseStrategy[MomentumParameters]):
    """Buys when the fast average crosses above the slow one, leaves when it crosses back."""

    def bars_needed(self) -> int:
        return self.parameters.slow + 1

    def bars_kept(self) -> int:
        return self.parameters.slow * 4

    def on_bar(self, bar: Bar, ctx: Context) -> Sequence[SignalSpec]:
        if ctx.busy:
            return ()
        before, after = self._spread(ctx.closes)
        held = ctx.position.quantity
        if (held > 0 and after < 0) or (held < 0 and after > 0):
            return [self.exit(ctx, reason=f"EMA spread turned to {after:+.4f}")]
        if held or not bar.complete or self._cooling(ctx):
            return ()
        if before <= 0 < after:
            return [
                self.enter(ctx, Side.BUY, reason=f"EMA {self.parameters.fast} crossed above {self.parameters.slow}")
            ]
        if before >= 0 > after and self.parameters.allow_short:
            return [
                self.enter(ctx, Side.SELL, reason=f"EMA {self.parameters.fast} crossed below {self.parameters.slow}")
            ]
        return ()

    def _spread(self, closes: list[float]) -> tuple[float, float]:
        """Fast less slow average, at the bar before and at this one."""
        fast, slow = EMA(self.parameters.fast, closes), EMA(self.parameters.slow, closes)
        return fast[-2] - slow[-2], fast[-1] - slow[-1]

    def _cooling(self, ctx: Context) -> bool:
        since = ctx.seconds_since_fill()
        return since is not None and since < self.parameters.cooldown_s
