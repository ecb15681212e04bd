"""The day's PnL as a curve: what each broker and strategy instance was worth over the day, with what is open at its mark, and what
of it was realised. Draws what the API tells, nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from nicegui import ui
from nicegui.element import Element

from api.curve import CurveMark
from api.pages import formats, parts
from api.pages.chart_drawing import GREY, RUPEES, axis, money_axis
from api.pages.desk import Desk
from api.pages.live import Seen
from api.routers.reports import CurvePoint
from core.clock import IST, to_ist
from core.storage.redis import EVERYTHING
from core.trading.signals import instance_name
from core.trading.types import Broker

LINES = ("#3b82f6", "#d97706", "#8b5cf6", "#0d9488", "#db2777", "#65a30d")
"""Read on light and on dark."""
EMPTY = "No fill today and nothing held. The curve begins with the first fill."


async def day_curve(desk: Desk) -> None:
    with Element("div").classes("curve") as box:
        parts.text("Net today, with what is open at its mark (₹)", "h3")
        away = parts.text("", "p", "wrong")
        empty = parts.text(EMPTY, "p", "empty")
        chart = ui.echart(options([], []), renderer="svg").classes("chart hidden")
        chart.props["role"] = "img"
        chart.props["aria-label"] = "Net PnL of the day"
        words = parts.text("", "p", "quiet")

    def show(seen: Seen) -> None:
        parts.put(away, f"The curve is old: {seen.away}" if seen.away else "")
        parts.old(box, bool(seen.away))
        marks = seen.value.marks if seen.value else []
        steps = seen.value.points if seen.value else []
        parts.offer(empty, not marks)
        parts.offer(chart, bool(marks))
        parts.put(words, in_words(marks))
        if marks:
            chart.props["aria-label"] = "Net PnL of the day: " + ", ".join(
                f"{name} {formats.gain(rows[-1].net_pnl)}" for name, rows in curves(marks).items()
            )
        wanted = options(marks, steps)
        if wanted != chart.options:
            chart.options.clear()
            chart.options.update(wanted)
            chart.update()

    await desk.follow("curve", show)


def curves(marks: Sequence[CurveMark]) -> dict[str, list[CurveMark]]:
    """By name, in the order they are told: a broker's whole first, then its instances where there are several."""

    def key(mark: CurveMark) -> tuple[str, bool, str]:
        return mark.broker.value, mark.instance != EVERYTHING, mark.instance

    found = {name: list(rows) for name, rows in groupby(sorted(marks, key=lambda mark: (key(mark), mark.at)), key=key)}
    several = {broker for broker in (name[0] for name in found) if sum(name[0] == broker for name in found) > 2}
    return {
        instance if single else broker: rows
        for (broker, single, instance), rows in found.items()
        if not single or broker in several
    }


def in_words(marks: Sequence[CurveMark]) -> str:
    """When the curve ends, and what is missing from it."""
    if not marks:
        return ""
    last = {mark.broker: mark for mark in marks if mark.instance == EVERYTHING}
    missing = sum(mark.unmarked for mark in last.values())
    without = f"; {missing} open without a price, missing from the sums" if missing else ""
    return f"Dotted: realised, fill by fill, net of charges. The last point is of {to_ist(marks[-1].at):%H:%M:%S} IST{without}."


def _wall(at: datetime) -> int:
    """Milliseconds that an axis in UTC writes as the time of day in IST, wherever the browser is."""
    return int((at + IST.utcoffset(None)).timestamp() * 1000)


def realised(steps: Sequence[CurvePoint], broker: Broker) -> list[tuple[datetime, Decimal]]:
    """What all instances of a broker had realised after each fill, net of charges."""
    last: dict[str, Decimal] = {}
    rows = []
    for step in steps:
        if step.instance.endswith(instance_name("", broker)):
            last[step.instance] = step.net_pnl
            rows.append((step.at, sum(last.values(), Decimal(0))))
    return rows


def options(marks: Sequence[CurveMark], steps: Sequence[CurvePoint]) -> dict[str, Any]:
    series: list[dict[str, Any]] = []
    for number, (name, rows) in enumerate(curves(marks).items()):
        colour = LINES[number % len(LINES)]
        whole = rows[0].instance == EVERYTHING
        series.append(_line(name, [(row.at, row.net_pnl) for row in rows], colour, width=3 if whole else 1.5))
        if whole:
            fills = realised(steps, rows[0].broker)
            series.append(_line(f"{name}, realised", fills, colour, width=1.5, kind="dotted", step="end"))
    return {
        "animation": False,
        "useUTC": True,
        "grid": {"left": 8, "right": 36, "top": 36, "bottom": 8, "containLabel": True},
        "legend": {"textStyle": {"color": GREY}, "top": 0, "left": 0, "type": "scroll"},
        "tooltip": {"trigger": "axis", ":valueFormatter": RUPEES},
        "xAxis": {"type": "time", **axis()},
        "yAxis": money_axis(),
        "series": series,
    }


def _line(
    name: str,
    rows: Sequence[tuple[datetime, Decimal]],
    colour: str,
    *,
    width: float,
    kind: str = "solid",
    step: str | bool = False,
) -> dict[str, Any]:
    return {
        "name": name,
        "type": "line",
        "step": step,
        "showSymbol": len(rows) < 30,
        "data": [[_wall(at), float(money)] for at, money in rows],
        "color": colour,
        "lineStyle": {"width": width, "type": kind},
    }
