"""The example in docs/write-a-strategy.md runs as printed, and does what the page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from core.events.envelope import Envelope
from core.trading.types import Side
from streams.runner_engine import Decided, Engine
from tests.order_events import FakeJournal
from tests.strategy_world import at, make_plans, make_row, make_tick, tick_id
from tests.unit.test_strategies import decide, make_context

GUIDE = Path(__file__).parents[2] / "docs" / "write-a-strategy.md"
EXAMPLE, TEST = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def module() -> Iterator[ModuleType]:
    """The page's file, imported."""
    made = ModuleType("guide_breakout")
    sys.modules[made.__name__] = made
    exec(compile(EXAMPLE, str(GUIDE), "exec"), made.__dict__)  # noqa: S102 - our own page
    yield made
    del sys.modules[made.__name__]


def test_the_pages_test_passes(module: ModuleType) -> None:
    names = {**module.__dict__, "pytest": pytest, "decide": decide, "make_context": make_context}
    exec(compile(TEST, str(GUIDE), "exec"), names)  # noqa: S102 - our own page
    (table,) = names["test_breakout"].pytestmark
    for values in table.args[1]:
        names["test_breakout"](*values)


def test_the_example_buys_a_breakout_and_leaves_at_its_trailing_stop(module: ModuleType) -> None:
    row = make_row(class_name="Breakout", parameters={"bar_s": 5, "lookback": 3, "stop_percent": 1, "quantity": 10})
    engine = Engine()
    engine.configure(make_plans(row, classes=[module.Breakout]))
    (entry,) = feed(engine, 0, (100, 101, 100, 101, 105, 105))
    assert (entry.signal.side, entry.signal.intent) == (Side.BUY, "ENTRY")
    event = filled(FakeJournal().fill(Side.BUY, 10, Decimal(105), strategy_id="s", at_s=30), entry)
    engine.on_order(event.data, event.id, event.correlation_id)  # type: ignore[arg-type]
    assert feed(engine, 30, (106, 110, 109)) == []
    (out,) = feed(engine, 45, (108.9,))
    assert (out.signal.side, out.signal.intent, out.signal.quantity) == (Side.SELL, "EXIT", 10)
    assert out.signal.slot.startswith("tick:")
    assert not engine.failures


def feed(engine: Engine, start_s: float, prices: Any) -> list[Decided]:
    """A tick a bar."""
    ticks = [make_tick(start_s + 5 * number, price) for number, price in enumerate(prices)]
    return [each for tick in ticks for each in engine.on_tick(tick, tick_id(tick))]


def filled(event: Envelope, entry: Decided) -> Envelope:
    """The journal's event as the end of this very signal's order."""
    order = event.data.order.model_copy(update={"signal_id": entry.signal.signal_id})  # type: ignore[attr-defined]
    assert order.updated_at > at(0)
    return event.model_copy(update={"data": event.data.model_copy(update={"order": order})})
