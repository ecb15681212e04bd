"""The day's PnL as a curve: realised steps of each strategy instance, net of charges. Draws what the API tells, nothing more."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any

from nicegui import ui
from nicegui.element import Element

from api.pages import formats, parts
from api.pages.chart_drawing import GREY, RUPEES, axis, money_axis
from api.pages.desk import Desk
from api.pages.live import Seen
from core.clock import IST, to_ist

LINES = ("#3b82f6", "#d97706", "#8b5cf6", "#0d9488", "#db2777", "#65a30d")
"""Read on light and on dark."""


async def day_curve(desk: Desk) -> None:
    with Element("div").classes("curve"):
        parts.text("Realised today, net of charges (₹)", "h3")
        empty = parts.text("No fill today. The curve begins with the first.", "p", "empty")
        chart = ui.echart(_options([]), renderer="svg").classes("chart hidden")
        chart.props["role"] = "img"
        words = parts.text("", "p", "unseen")

    def show(seen: Seen) -> None:
        points = seen.value.points if seen.value else []
        if not points:
            return
        parts.put(empty, "", "hidden")
        chart.classes(remove="hidden")
        series: dict[str, list[list[Any]]] = defaultdict(list)
        for point in points:
            series[point.instance].append([_wall(point.at), float(point.net_pnl)])
        last = {name: formats.gain(_last(points, name)) for name in series}
        chart.props["aria-label"] = "Realised net PnL of the day: " + ", ".join(f"{k} {v}" for k, v in last.items())
        parts.put(words, f"Last step at {to_ist(points[-1].at):%H:%M:%S} IST")
        wanted = _options([_line(name, rows, at) for at, (name, rows) in enumerate(sorted(series.items()))])
        if wanted != chart.options:
            chart.options.clear()
            chart.options.update(wanted)
            chart.update()

    await desk.follow("curve", show)


def _wall(at: datetime) -> int:
    """Milliseconds that an axis in UTC writes as the time of day in IST, wherever the browser is."""
    offset = IST.utcoffset(None)
    return int((at + offset).timestamp() * 1000)


def _last(points: list[Any], name: str) -> Any:
    return next(point.net_pnl for point in reversed(points) if point.instance == name)


def _line(name: str, rows: list[list[Any]], at: int) -> dict[str, Any]:
    return {
        "name": name,
        "type": "line",
        "step": "end",
        "showSymbol": len(rows) < 30,
        "data": rows,
        "color": LINES[at % len(LINES)],
        "lineStyle": {"width": 2, "type": ("solid", "dashed", "dotted")[at // len(LINES) % 3]},
    }


def _options(series: list[dict[str, Any]]) -> dict[str, Any]:
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
