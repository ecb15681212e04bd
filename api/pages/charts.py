"""An instrument's bars with our fills and working orders drawn on. Prices are the broker's own history, and nothing is made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nicegui import ui
from nicegui.element import Element

from api.pages import chart_drawing, formats, order_rows, parts
from api.pages.chart_drawing import NAMES, Mark
from api.pages.desk import Desk
from api.pages.dialogs import Field
from api.pages.facts import OPEN
from api.pages.guard import ROOM
from api.pages.page import Page
from api.pages.parts import Column, Row, Table, cell
from core.brokers.kite_http import Candle
from core.clock import trading_day, utc_now
from core.errors import AlphaPandaError
from core.storage import views
from core.storage.views import OrderFilter

_LENGTHS = {"minute": "1 minute", "5minute": "5 minutes", "15minute": "15 minutes", "day": "1 day"}
_FILLS = (
    Column("Filled at"),
    Column("What"),
    Column("Units", "num"),
    Column("Price", "num"),
    Column("Instance"),
)


class _Chart:
    def __init__(self, desk: Desk, instruments: Sequence[str], chosen: str) -> None:
        self.desk = desk
        self.instrument = Field("instrument", "Instrument", options=instruments, value=chosen)
        self.length = Field("length", "Bars of", options=_LENGTHS, value="minute")
        self.again: Callable[[], None] = lambda: None
        self._shown: tuple[str, str] | None = None

    def build(self) -> None:
        with Element("section").classes("card").props('aria-label="Chart"'):
            with Element("div").classes("filters"):
                self.instrument.build(lambda: self.again())
                self.length.build(lambda: self.again())
            self.line = parts.text("", "p", "quiet")
            self.wrong = parts.text("", "p", "wrong")
            empty = chart_drawing.options([], [], [], "day", anew=True)
            self.chart = ui.echart(empty, renderer="canvas").classes("chart tall")
            self.chart.props["role"] = "img"
            self.chart.props["aria-label"] = "Bars"
            parts.text(
                "▲ bought, ▼ sold; filled is an entry, hollow an exit. Dashed lines are orders that still work. "
                "A hollow bar closed higher than it opened, a filled one lower.",
                "p",
                "quiet",
            )
        with parts.card("Working orders"):
            self.orders = Table(
                "Working orders", order_rows.COLUMNS, empty="No order of this instrument is working now."
            )
        with parts.card("Our fills today"):
            self.fills = Table("Our fills today", _FILLS, empty="None of this instrument today.")

    async def load(self) -> None:
        instrument, length = str(self.instrument.value), str(self.length.value)
        working = await self.desk.room.reads.orders(OrderFilter(statuses=OPEN, instrument=instrument), limit=50)
        self.orders.show([order_rows.row(order) for order in working.orders])
        marks = await self._marks(instrument)
        self.fills.show([_fill(mark) for mark in reversed(marks)])
        try:
            bars = await self.desk.room.bars.bars(instrument, length)
        except AlphaPandaError as error:
            parts.put(self.wrong, f"The broker's history cannot be read: {error}")
            parts.old(self.chart, True)
            return
        parts.old(self.chart, False)
        parts.put(self.wrong, "" if bars else "The broker has no bars of this instrument for that span.")
        self._say(instrument, length, bars, marks)
        anew = self._shown != (instrument, length)
        self._shown = (instrument, length)
        wanted = chart_drawing.options(bars, marks, working.orders, length, anew=anew)
        if wanted != self.chart.options:
            self.chart.options.clear()
            self.chart.options.update(wanted)
            self.chart.update()

    def _say(self, instrument: str, length: str, bars: Sequence[Candle], marks: Sequence[Mark]) -> None:
        if not bars:
            parts.put(self.line, "")
            return
        last = bars[-1]
        number = len(chart_drawing.drawn(marks, bars, length))
        fills = f"{number} of {len(marks)} fills of today drawn" if marks else "no fill today"
        at = chart_drawing.label(last.start, length)
        words = f"Last {formats.price(last.close)} in the bar of {at}, {len(bars)} bars, {fills}"
        parts.put(self.line, words)
        self.chart.props["aria-label"] = f"Bars of {instrument}. {words}"

    async def _marks(self, instrument: str) -> list[Mark]:
        reads, today = self.desk.room.reads, trading_day(utc_now())
        found = [
            Mark.of(event)
            for broker in reads.brokers(None)
            for event in await views.fills_of_day(reads.views(broker), today)
            if event.data["order"]["instrument"] == instrument
        ]
        return sorted(found, key=lambda mark: mark.at)


def _fill(mark: Mark) -> Row:
    return Row(
        mark.key,
        (
            parts.when(mark.at),
            cell(NAMES[mark.side, mark.intent], to=f"{ROOM}/order/{mark.order_id}"),
            parts.count(mark.quantity),
            parts.price(mark.price),
            cell(mark.instance),
        ),
    )


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
    shown.again = await desk.refresh("chart", shown.load)


PAGE = Page("/charts", "Charts", build)
