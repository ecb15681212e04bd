"""What a chart shows: our entries, exits and working orders where they belong, in IST, never by colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from api.models import OrderSummary
from api.pages import chart_drawing
from api.pages.chart_drawing import Mark, bar_of, drawn, label, lines, options
from core.brokers.kite_http import Candle
from core.trading.types import Broker, Intent, OrderStatus, Side
from tests.order_events import make_order_state, make_signal

OPENS = datetime(2026, 11, 23, 3, 45, tzinfo=UTC)  # 09:15 IST
MARK = Mark("1", OPENS + timedelta(minutes=1, seconds=30), Side.BUY, Intent.ENTRY, 10, Decimal("1500"), "m@paper", "o1")


def bars(number: int, minutes: int = 1) -> list[Candle]:
    price = [Decimal(each) for each in (1500, 1505, 1499, 1503)]
    return [Candle(OPENS + timedelta(minutes=minutes * at), *price, 100) for at in range(number)]


def marks_of(shown: dict[str, Any]) -> dict[str, list[Any]]:
    return {one["name"]: [point["value"] for point in one["data"]] for one in shown["series"][1:]}


def working(**changes: Any) -> OrderSummary:
    state = make_order_state(make_signal(), OrderStatus.ACKED, **changes)
    return OrderSummary.of(Broker.PAPER, state, simulated=True)


@pytest.mark.parametrize(
    ("length", "seconds", "bar"),
    [
        ("minute", 59, "23 Nov 09:15"),
        ("minute", 60, "23 Nov 09:16"),
        ("5minute", 299, "23 Nov 09:15"),
        ("5minute", 300, "23 Nov 09:20"),
        ("15minute", 3599, "23 Nov 10:00"),
    ],
)
def test_a_fill_belongs_to_the_bar_it_fell_into(length: str, seconds: int, bar: str) -> None:
    assert bar_of(OPENS + timedelta(seconds=seconds), length) == bar


def test_a_days_bar_is_named_by_its_date() -> None:
    assert label(datetime(2026, 11, 22, 18, 30, tzinfo=UTC), "day") == "23 Nov 2026"


def test_entries_and_exits_of_both_sides_are_apart() -> None:
    kinds = [(side, intent) for side in Side for intent in Intent]
    marks = [replace(MARK, side=side, intent=intent) for side, intent in kinds]
    shown = options(bars(3), marks, [], "minute", anew=True)
    assert marks_of(shown) == {name: [[1, 1500.0]] for name in chart_drawing.NAMES.values()}
    looks = {(one["symbolRotate"], one["itemStyle"]["color"] == chart_drawing.EMPTY) for one in shown["series"][1:]}
    assert len(looks) == len(kinds), "two kinds look the same without their colour"


@pytest.mark.parametrize(("length", "number"), [("minute", 1), ("day", 0)])
def test_a_fill_outside_the_bars_is_not_drawn_into_another(length: str, number: int) -> None:
    before = replace(MARK, key="2", at=OPENS - timedelta(minutes=1))
    assert len(drawn([MARK, before], bars(3), length)) == number


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"price": Decimal("1480.5")}, [(1480.5, "BUY 10 @ 1,480.50 (entry)")]),
        ({"price": Decimal("1480.5"), "filled_quantity": 4}, [(1480.5, "BUY 6 @ 1,480.50 (entry)")]),
        ({"trigger_price": Decimal("1470")}, [(1470.0, "BUY 10 @ 1,470.00 (entry)")]),
        ({}, []),
    ],
)
def test_a_working_order_is_a_line_at_its_price(changes: dict[str, Any], wanted: Sequence[tuple[float, str]]) -> None:
    assert [(row["yAxis"], row["label"]["formatter"]) for row in lines([working(**changes)])] == list(wanted)


def test_where_a_person_zoomed_to_stays_while_bars_come() -> None:
    first = options(bars(180), [], [], "minute", anew=True)
    later = options(bars(181), [], [], "minute", anew=False)
    assert [zoom["start"] for zoom in first["dataZoom"]] == [50, 50]
    assert all("start" not in zoom and "end" not in zoom for zoom in later["dataZoom"])


def test_rising_and_falling_bars_differ_in_more_than_colour() -> None:
    style = options(bars(1), [], [], "minute", anew=True)["series"][0]["itemStyle"]
    assert style["color"] == "transparent"
    assert style["color0"] != "transparent"


def test_the_price_axis_reaches_to_every_working_order() -> None:
    far = [working(price=Decimal("1400")), working(price=Decimal("1600"))]
    axis = options(bars(3), [], far, "minute", anew=True)["yAxis"]
    assert axis[":min"] == "(range) => range.min <= 1400.0 ? null : 1399.2"
    assert axis[":max"] == "(range) => range.max >= 1600.0 ? null : 1600.8"
