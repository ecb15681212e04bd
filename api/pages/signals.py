"""What strategies and people wanted, and what risk made of it: an order, or every reason against it."""

from __future__ import annotations

from typing import Any

from nicegui.element import Element

from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field
from api.pages.guard import ROOM
from api.pages.page import Page
from api.pages.parts import Column, Row, Table, cell, chip
from api.routers import happenings
from api.routers.happenings import DecidedSignal
from core.trading.types import Broker

SHOWN = 50

_COLUMNS = (
    Column("Decided"),
    Column("Signal"),
    Column("Decision"),
    Column("Why", "wide"),
    Column("Strategy"),
    Column("Broker"),
)
_DECISIONS = {"": "accepted and rejected", "yes": "accepted", "no": "rejected"}


class _List:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cursors: list[str | None] = [None]
        self.following: str | None = None
        self.ask: Any = None
        brokers = {"": "any"} | {broker.value: broker.value for broker in desk.room.settings.active_brokers}
        chosen = desk.request.query_params.get("decision", "")
        self.broker = Field("broker", "Broker", options=brokers)
        self.decision = Field("decision", "Decision", options=_DECISIONS, value=chosen if chosen in _DECISIONS else "")
        self.strategy = Field("strategy", "Strategy", placeholder="any")
        self.instrument = Field("instrument", "Instrument", placeholder="NSE:INFY")

    def build(self) -> None:
        with Element("div").classes("filters"):
            for each in (self.decision, self.broker, self.strategy, self.instrument):
                each.build(self._filtered)
        self.table = Table("Signals", _COLUMNS, empty="")
        with Element("div").classes("choices"):
            self.newer = parts.button("Newer", self._newer, "small hidden")
            self.older = parts.button("Older", self._older, "small hidden")

    async def load(self) -> None:
        page = await happenings.signals(
            self.desk.room.reads,
            broker=Broker(self.broker.value) if self.broker.value else None,
            accepted={"": None, "yes": True, "no": False}[self.decision.value],
            strategy=str(self.strategy.value).strip() or None,
            instrument=str(self.instrument.value).strip().upper() or None,
            cursor=self.cursors[-1],
            limit=SHOWN,
        )
        self.following = page.next
        empty = "No signal fits. A running strategy signals once its bars are warm and its rule says so."
        self.table.show([_row(one) for one in page.signals], empty=empty)
        parts.offer(self.newer, len(self.cursors) > 1)
        parts.offer(self.older, page.next is not None)

    def _filtered(self) -> None:
        self.cursors = [None]
        self.ask()

    def _newer(self) -> None:
        if len(self.cursors) > 1:
            self.cursors.pop()
            self.ask()

    def _older(self) -> None:
        if self.following:
            self.cursors.append(self.following)
            self.ask()


def _row(one: DecidedSignal) -> Row:
    signal = one.signal
    price = f" @ {formats.price(signal.price)}" if signal.price is not None else ""
    what = f"{signal.side} {formats.number(signal.quantity)} {signal.instrument} {signal.order_type}{price}"
    why = "; ".join(f"{denial.code}: {denial.message}" for denial in one.denials)
    by_hand = "" if signal.source == "strategy" else "by hand"
    return Row(
        str(signal.signal_id),
        (
            parts.when(one.decided_at),
            cell(
                what,
                to=f"{ROOM}/order/{one.order_id}" if one.order_id else "",
                more=f"{signal.intent.lower()} · {signal.reason}",
            ),
            chip("accepted", "good") if one.accepted else chip("rejected", "bad"),
            cell(why or formats.NONE),
            cell(signal.strategy_id, more=by_hand),
            cell(one.broker.value),
        ),
    )


async def build(desk: Desk) -> None:
    listed = _List(desk)
    with Element("section").classes("card").props('aria-label="Signals"'):
        listed.build()
    listed.ask = await desk.refresh("signals", listed.load)


PAGE = Page("/signals", "Signals", build)
