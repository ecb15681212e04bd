"""What a chart shows, as ECharts' options (echarts.apache.org/option.html): bars, our fills, working orders. Pure; makes nothing up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from api.models import OrderSummary
from api.pages import formats
from core.brokers.kite_http import Candle
from core.clock import to_ist
from core.storage.views import StoredEvent
from core.trading.types import Intent, Side

UP, DOWN, GREY = "#0f9d58", "#d93025", "#7c8794"
"""Read on light and on dark."""
EMPTY = "#ffffff"
MINUTES = {"minute": 1, "5minute": 5, "15minute": 15}

RUPEES = (
    "(value) => [value].flat().filter((each) => typeof each === 'number').map("
    "(each) => each.toLocaleString('en-IN', {maximumFractionDigits: 2})).join(' · ')"
)
"""A JavaScript function that writes a figure, or several, with Indian grouping."""


def axis(**label: Any) -> dict[str, Any]:
    return {
        "axisLabel": {"color": GREY, "hideOverlap": True, **label},
        "axisLine": {"lineStyle": {"color": GREY}},
        "splitLine": {"lineStyle": {"color": GREY, "opacity": 0.2}},
    }


def money_axis(**label: Any) -> dict[str, Any]:
    return {"type": "value", "scale": True, **axis(**{":formatter": RUPEES}, **label)}


@dataclass(frozen=True, slots=True)
class Mark:
    """One of our fills. `intent` is that of its order."""

    key: str
    at: datetime
    side: Side
    intent: Intent
    quantity: int
    price: Decimal
    instance: str
    order_id: str

    @staticmethod
    def of(event: StoredEvent) -> Mark:
        order, fill = event.data["order"], event.data["fill"]
        return Mark(
            str(event.event_id),
            datetime.fromisoformat(fill["filled_at"]),
            Side(order["side"]),
            Intent(order["intent"]),
            int(fill["quantity"]),
            Decimal(str(fill["price"])),
            order["instance"],
            order["order_id"],
        )


def label(at: datetime, length: str) -> str:
    """Of the bar that begins there: `23 Nov 09:31`, `23 Nov 2026` for a day's."""
    local = to_ist(at)
    return f"{local.day} {local:%b %Y}" if length == "day" else f"{local.day} {local:%b %H:%M}"


def bar_of(at: datetime, length: str) -> str:
    """The label of the bar a moment falls into; bars begin at whole multiples of their length from 09:15 IST."""
    local = to_ist(at).replace(second=0, microsecond=0)
    return label(local.replace(minute=local.minute - local.minute % MINUTES.get(length, 1)), length)


def drawn(marks: Sequence[Mark], bars: Sequence[Candle], length: str) -> list[Mark]:
    """Those that fall into one of the bars. A day's bar is too coarse for any."""
    labels = {label(bar.start, length) for bar in bars}
    return [mark for mark in marks if length in MINUTES and bar_of(mark.at, length) in labels]


def options(
    bars: Sequence[Candle], marks: Sequence[Mark], working: Sequence[OrderSummary], length: str, *, anew: bool
) -> dict[str, Any]:
    """`anew`: another chart than before, so it begins at the newest 90 bars; else where a person zoomed to stays."""
    labels = [label(bar.start, length) for bar in bars]
    start = {"start": max(0, 100 - 100 * 90 / len(bars)) if bars else 0, "end": 100} if anew else {}
    shown = drawn(marks, bars, length)
    return {
        "animation": False,
        "grid": {"left": 8, "right": 44, "top": 34, "bottom": 56, "containLabel": True},
        "legend": {"textStyle": {"color": GREY}, "top": 0, "left": 0, "type": "scroll"},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "cross"}, ":valueFormatter": RUPEES},
        "xAxis": {"type": "category", "data": labels, **axis(), "splitLine": {"show": False}},
        "yAxis": money_axis(showMinLabel=False, showMaxLabel=False) | _room_for(lines(working)),
        "dataZoom": [{"type": "inside", **start}, {"type": "slider", **start, "height": 18, "bottom": 8}],
        "series": [_bars(bars, working), *(_marks(side, intent, shown, labels, length) for side, intent in _KINDS)],
    }


def _bars(bars: Sequence[Candle], working: Sequence[OrderSummary]) -> dict[str, Any]:
    """A bar that closed higher is hollow, one that closed lower is filled: the colour is not alone."""
    return {
        "name": "price",
        "type": "candlestick",
        "data": [[float(bar.open), float(bar.close), float(bar.low), float(bar.high)] for bar in bars],
        "itemStyle": {"color": "transparent", "borderColor": UP, "color0": DOWN, "borderColor0": DOWN},
        "markLine": {"symbol": "none", "animation": False, "data": lines(working)},
    }


def lines(working: Sequence[OrderSummary]) -> list[dict[str, Any]]:
    """A dashed line at the price of each working order that has one, with what it still wants."""
    rows = []
    for order in working:
        at = order.price if order.price is not None else order.trigger_price
        if at is not None:
            left = formats.number(order.quantity - order.filled_quantity)
            words = f"{order.side} {left} @ {formats.price(at)} ({order.intent.lower()})"
            text = {"formatter": words, "position": "insideEndTop", "color": GREY}
            rows.append({"yAxis": float(at), "label": text, "lineStyle": {"type": "dashed", "color": GREY}})
    return rows


def _room_for(drawn: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The price axis reaches to every line, also where no bar was near it."""
    prices = [row["yAxis"] for row in drawn]
    if not prices:
        return {":min": "() => null", ":max": "() => null"}
    low, high = min(prices), max(prices)
    return {
        ":min": f"(range) => range.min <= {low} ? null : {low - high * 0.0005}",
        ":max": f"(range) => range.max >= {high} ? null : {high + high * 0.0005}",
    }


_KINDS = (
    (Side.BUY, Intent.ENTRY),
    (Side.SELL, Intent.ENTRY),
    (Side.BUY, Intent.EXIT),
    (Side.SELL, Intent.EXIT),
)
NAMES = {
    (Side.BUY, Intent.ENTRY): "entry, bought",
    (Side.SELL, Intent.ENTRY): "entry, sold",
    (Side.BUY, Intent.EXIT): "exit, bought",
    (Side.SELL, Intent.EXIT): "exit, sold",
}


def _marks(side: Side, intent: Intent, marks: Sequence[Mark], labels: Sequence[str], length: str) -> dict[str, Any]:
    """A buy points up, a sell down; an entry is filled, an exit hollow: the shape tells as much as the colour."""
    places = {name: number for number, name in enumerate(labels)}
    colour, turned = (UP, 0) if side is Side.BUY else (DOWN, 180)
    entry = intent is Intent.ENTRY
    data = [
        {
            "value": [places[bar_of(mark.at, length)], float(mark.price)],
            "name": f"{NAMES[side, intent]} {formats.number(mark.quantity)} @ {formats.price(mark.price)} · {mark.instance}",
        }
        for mark in marks
        if (mark.side, mark.intent) == (side, intent)
    ]
    return {
        "name": NAMES[side, intent],
        "type": "scatter",
        "symbol": "triangle",
        "symbolRotate": turned,
        "symbolSize": 15,
        "z": 5,
        "itemStyle": {"color": colour if entry else EMPTY, "borderColor": EMPTY if entry else colour, "borderWidth": 2},
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "data": data,
    }
