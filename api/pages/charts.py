"""An instrument's bars with our fills and working orders drawn on. Prices are the broker's own history, and nothing is made up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from nicegui import ui
from nicegui.element import Element

from api.models import OrderSummary
from api.pages import formats, order_rows, parts
from api.pages.day_curve import GREY, axis
from api.pages.desk import Desk
from api.pages.dialogs import Field
from api.pages.facts import OPEN
from api.pages.page import Page
from api.pages.parts import Table
from core.brokers.kite_http import Candle
from core.clock import to_ist, trading_day, utc_now
from core.errors import AlphaPandaError
from core.storage import views
from core.storage.views import OrderFilter, StoredEvent
from core.trading.types import Side

UP, DOWN = "#0f9d58", "#d93025"
_NAMES = {"minute": "1 minute", "5minute": "5 minutes", "15minute": "15 minutes", "day": "1 day"}
_MARK = {Side.BUY: ("triangle", UP, 0), Side.SELL: ("triangle", DOWN, 180)}
"""A buy points up, a sell down: the shape tells as much as the colour."""


class _Chart:
    def __init__(self, desk: Desk, instruments: Sequence[str], chosen: str) -> None:
        self.desk = desk
        self.instrument = Field("instrument", "Instrument", options=instruments, value=chosen)
        self.length = Field("length", "Bars of", options=_NAMES, value="minute")
        self.ask: Any = None

    def build(self) -> None:
        with Element("section").classes("card").props('aria-label="Chart"'):
            with Element("div").classes("filters"):
                self.instrument.build(lambda: self.ask())
                self.length.build(lambda: self.ask())
            self.line = parts.text("", "p", "quiet")
            self.wrong = parts.text("", "p", "wrong")
            self.chart = ui.echart(_options([], [], [], "day"), renderer="canvas").classes("chart tall")
            self.chart.props["role"] = "img"
            parts.text("▲ our buys, ▼ our sells of today; dashed lines are orders that still work.", "p", "quiet")
        with parts.card("Working orders"):
            self.orders = Table("Working orders", order_rows.COLUMNS, empty="No order of this instrument is working.")

    async def load(self) -> None:
        instrument, length = str(self.instrument.value), str(self.length.value)
        working = await self.desk.room.reads.orders(OrderFilter(statuses=OPEN, instrument=instrument), limit=50)
        self.orders.show([order_rows.row(order) for order in working.orders])
        fills = await self._fills(instrument) if length != "day" else []
        try:
            bars = await self.desk.room.bars.bars(instrument, length)
        except AlphaPandaError as error:
            parts.put(self.wrong, f"The broker's history cannot be read: {error}")
            return
        parts.put(self.wrong, "" if bars else "The broker has no bars of this instrument for that span.")
        if bars:
            last = bars[-1]
            at = _label(last.start, length)
            words = f"Last {formats.price(last.close)} in the bar of {at}, {len(bars)} bars, {len(fills)} fills today"
            parts.put(self.line, words)
            self.chart.props["aria-label"] = f"Bars of {instrument}. {words}"
        wanted = _options(bars, fills, working.orders, length)
        if wanted != self.chart.options:
            self.chart.options.clear()
            self.chart.options.update(wanted)
            self.chart.update()

    async def _fills(self, instrument: str) -> list[StoredEvent]:
        reads, today = self.desk.room.reads, trading_day(utc_now())
        found = [
            event for broker in reads.brokers(None) for event in await views.fills_of_day(reads.views(broker), today)
        ]
        return [event for event in found if event.data["order"]["instrument"] == instrument]


def _label(at: datetime, length: str) -> str:
    local = to_ist(at)
    return f"{local.day} {local:%b %Y}" if length == "day" else f"{local.day} {local:%b %H:%M}"


def _options(
    bars: Sequence[Candle], fills: Sequence[StoredEvent], working: Sequence[OrderSummary], length: str
) -> dict[str, Any]:
    labels = [_label(bar.start, length) for bar in bars]
    first = max(0, 100 - 100 * 90 / len(bars)) if bars else 0
    return {
        "animation": False,
        "grid": {"left": 8, "right": 44, "top": 16, "bottom": 56, "containLabel": True},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "cross"}},
        "xAxis": {"type": "category", "data": labels, **axis(), "splitLine": {"show": False}},
        "yAxis": {"type": "value", "scale": True, **axis()},
        "dataZoom": [{"type": "inside", "start": first}, {"type": "slider", "start": first, "height": 18, "bottom": 8}],
        "series": [
            {
                "name": "price",
                "type": "candlestick",
                "data": [[float(bar.open), float(bar.close), float(bar.low), float(bar.high)] for bar in bars],
                "itemStyle": {"color": UP, "borderColor": UP, "color0": DOWN, "borderColor0": DOWN},
                "markLine": {"symbol": "none", "animation": False, "data": _lines(working)},
            },
            *(_marks(side, fills, labels, length) for side in Side),
        ],
    }


def _lines(working: Sequence[OrderSummary]) -> list[dict[str, Any]]:
    rows = []
    for order in working:
        at = order.price if order.price is not None else order.trigger_price
        if at is not None:
            words = f"{order.side} {order.quantity - order.filled_quantity} @ {formats.price(at)}"
            label = {"formatter": words, "position": "insideEndTop", "color": GREY}
            rows.append({"yAxis": float(at), "label": label, "lineStyle": {"type": "dashed", "color": GREY}})
    return rows


def _marks(side: Side, fills: Sequence[StoredEvent], labels: Sequence[str], length: str) -> dict[str, Any]:
    shape, colour, turned = _MARK[side]
    places = {label: number for number, label in enumerate(labels)}
    data = []
    for event in fills:
        order, fill = event.data["order"], event.data["fill"]
        at = _bar_of(datetime.fromisoformat(fill["filled_at"]), length)
        if order["side"] == side and at in places:
            name = f"{side} {fill['quantity']} @ {fill['price']} · {order['instance']}"
            data.append({"value": [at, float(fill["price"])], "name": name})
    return {
        "name": f"our {side.lower()}s",
        "type": "scatter",
        "symbol": shape,
        "symbolRotate": turned,
        "symbolSize": 15,
        "z": 5,
        "itemStyle": {"color": colour, "borderColor": "#ffffff", "borderWidth": 1.5},
        "tooltip": {"trigger": "item"},
        "data": data,
    }


def _bar_of(at: datetime, length: str) -> str:
    """The label of the bar a moment falls into; bars begin at whole multiples of their length from 09:15 IST."""
    minutes = {"minute": 1, "5minute": 5, "15minute": 15}.get(length, 1)
    local = to_ist(at).replace(second=0, microsecond=0)
    return _label(local.replace(minute=local.minute - local.minute % minutes), length)


async def build(desk: Desk) -> None:
    seen = await desk.room.live.get("strategies")
    named = sorted({key for row in seen.value.strategies for key in row.instruments}) if seen.value else []
    wanted = desk.request.query_params.get("instrument", "").upper()
    instruments = sorted({*named, wanted} - {""})
    if not instruments:
        parts.text("No instrument yet: charts show what strategies trade. Make a strategy first.", "p", "empty")
        return
    shown = _Chart(desk, instruments, wanted or instruments[0])
    shown.build()
    shown.ask = await desk.refresh("chart", shown.load)


PAGE = Page("/charts", "Charts", build)
