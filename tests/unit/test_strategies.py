"""Each strategy as a table: closing prices, what is held, and what it decides. And what BaseStrategy promises."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from core.trading.bars import Bar
from core.trading.context import Context, Holding, WorkingOrder
from core.trading.signals import SignalSpec
from core.trading.types import Intent, OrderType, Product, Side
from strategies import registry
from strategies.base import BaseStrategy, Parameters, Remember
from strategies.mean_reversion import MeanReversion, MeanReversionParameters
from strategies.momentum import Momentum, MomentumParameters
from tests.strategy_world import BOOK, INFY, at

D = Decimal
KEY = "NSE:INFY"


def make_bars(closes: Sequence[float], *, complete: bool = True) -> tuple[Bar, ...]:
    bars = []
    for number, close in enumerate(closes):
        price = D(str(close))
        bars.append(Bar(INFY, 5, at(5 * number), at(5 * number + 5), price, price, price, price, 0, complete))
    return tuple(bars)


def make_context(closes: Sequence[float], *, held: int = 0, complete: bool = True, **changes: Any) -> Context:
    bars = make_bars(closes, complete=complete)
    instrument = BOOK.by_key(KEY)
    assert instrument is not None
    values: dict[str, Any] = {
        "instrument": instrument,
        "product": Product.MIS,
        "now": bars[-1].end,
        "capital": D(100_000),
        "bars": bars,
        "windows": {5: bars},
        "holdings": {(KEY, Product.MIS): Holding(held, D(100))} if held else {},
    }
    return Context(**{**values, **changes})


def decide(strategy: BaseStrategy[Any], ctx: Context) -> tuple[str, str, int] | None:
    """Intent, side and quantity of the one signal, or None."""
    answer = [spec for spec in strategy.on_bar(ctx.bars[-1], ctx) if not isinstance(spec, Remember)]
    assert len(answer) <= 1
    if not answer:
        return None
    (spec,) = answer
    assert isinstance(spec, SignalSpec)
    assert spec.reason
    return spec.intent.value, spec.side.value, spec.quantity


BUSY = (WorkingOrder(UUID(int=1), None, KEY, Product.MIS, Side.BUY, Intent.ENTRY, 1),)
UP, DOWN, FLAT = (10, 9, 8, 12), (10, 11, 12, 8), (10, 10, 10, 10)


@pytest.mark.parametrize(
    ("closes", "held", "short", "extra", "expected"),
    [
        (UP, 0, False, {}, ("ENTRY", "BUY", 3)),
        (UP, 5, False, {}, None),  # already in
        (UP, -5, False, {}, ("EXIT", "BUY", 5)),
        (DOWN, 0, False, {}, None),  # no shorts allowed
        (DOWN, 0, True, {}, ("ENTRY", "SELL", 3)),
        (DOWN, 5, False, {}, ("EXIT", "SELL", 5)),
        (FLAT, 0, True, {}, None),
        ((10, 9, 12, 14), 0, False, {}, None),  # crossed a bar earlier
        (UP, 0, False, {"working": BUSY}, None),  # something is on its way
        (UP, -5, False, {"working": BUSY}, None),
        (UP, 0, False, {"complete": False}, None),  # ticks may be missing: no entry
        (UP, -5, False, {"complete": False}, ("EXIT", "BUY", 5)),  # but out is out
        (UP, 0, False, {"last_fill_at": at(15)}, None),  # 5 s after a fill: cooling
        (UP, 0, False, {"last_fill_at": at(10)}, ("ENTRY", "BUY", 3)),
    ],
)
def test_momentum(
    closes: tuple[float, ...], held: int, short: bool, extra: dict[str, Any], expected: tuple[str, str, int] | None
) -> None:
    parameters = MomentumParameters(bar_s=5, quantity=3, fast=2, slow=3, allow_short=short, cooldown_s=10)
    assert decide(Momentum(parameters), make_context(closes, held=held, **extra)) == expected


LOW, HIGH, MIDDLE = (10, 10, 10, 7), (10, 10, 10, 13), (9, 11, 9.5, 10)


@pytest.mark.parametrize(
    ("closes", "held", "short", "extra", "expected"),
    [
        (LOW, 0, False, {}, ("ENTRY", "BUY", 2)),
        (LOW, 5, False, {}, None),
        (LOW, -5, False, {}, ("EXIT", "BUY", 5)),
        (HIGH, 0, False, {}, None),
        (HIGH, 0, True, {}, ("ENTRY", "SELL", 2)),
        (HIGH, 5, False, {}, ("EXIT", "SELL", 5)),
        (MIDDLE, 5, False, {}, ("EXIT", "SELL", 5)),  # back at the mean
        (MIDDLE, 0, True, {}, None),
        (FLAT, 0, True, {}, None),  # no width: no z
        (FLAT, 5, False, {}, None),
        (LOW, 5, False, {"last_fill_at": at(20) - timedelta(seconds=60)}, ("EXIT", "SELL", 5)),  # held long enough
        (LOW, 0, False, {"working": BUSY}, None),
        (LOW, 0, False, {"complete": False}, None),
        (LOW, 0, False, {"last_fill_at": at(11)}, None),
    ],
)
def test_mean_reversion(
    closes: tuple[float, ...], held: int, short: bool, extra: dict[str, Any], expected: tuple[str, str, int] | None
) -> None:
    parameters = MeanReversionParameters(
        bar_s=5, quantity=2, period=4, entry_z=1.5, exit_z=0.3, allow_short=short, cooldown_s=10, max_hold_s=60
    )
    assert decide(MeanReversion(parameters), make_context(closes, held=held, **extra)) == expected


@pytest.mark.parametrize(
    ("model", "values", "names"),
    [
        (MomentumParameters, {"fast": 9, "slow": 3}, "fast"),
        (MomentumParameters, {"fast": 0}, "fast"),
        (MomentumParameters, {"bar_s": 0}, "bar_s"),
        (MomentumParameters, {"fats": 3}, "fats"),
        (MeanReversionParameters, {"entry_z": 0.2, "exit_z": 0.3}, "exit_z"),
        (MeanReversionParameters, {"period": 1}, "period"),
        (MeanReversionParameters, {"quantity": 0}, "quantity"),
    ],
)
def test_bad_parameters_are_refused_by_name(model: type[Parameters], values: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        model.model_validate(values)


def test_the_registry_knows_every_strategy_by_class_name() -> None:
    known = registry.known()
    assert known["Momentum"] is Momentum
    assert known["MeanReversion"] is MeanReversion
    assert "BaseStrategy" not in known
    assert known["Momentum"].parameters_model is MomentumParameters


def test_a_strategy_cannot_keep_state_on_itself() -> None:
    strategy = Momentum(MomentumParameters())
    with pytest.raises(AttributeError, match="Remember"):
        strategy.last_price = 5  # type: ignore[attr-defined]


def test_entries_and_exits_have_words() -> None:
    strategy = Momentum(MomentumParameters(quantity=7))
    ctx = make_context(FLAT, held=-4)
    entry = strategy.enter(ctx, Side.SELL, reason="r", limit=D("10.5"), leg="a")
    assert (entry.quantity, entry.order_type, entry.price, entry.leg) == (7, OrderType.LIMIT, D("10.5"), "a")
    assert strategy.enter(ctx, Side.BUY, reason="r", quantity=2).order_type is OrderType.MARKET
    out = strategy.exit(ctx, reason="r")
    assert (out.intent, out.side, out.quantity) == (Intent.EXIT, Side.BUY, 4)
    with pytest.raises(ValueError, match="nothing of NSE:INFY is held"):
        strategy.exit(make_context(FLAT), reason="r")


def test_day_pnl_is_realised_and_marked_together() -> None:
    ctx = make_context(FLAT, held=10, realized_today=D(5), prices={KEY: D("101.5")})
    assert ctx.unrealized == D(15)
    assert ctx.day_pnl == D(20)
    assert make_context(FLAT, held=10).unrealized == 0  # no price seen: not guessed
