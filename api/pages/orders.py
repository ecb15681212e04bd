"""Orders as they are now: the newest first, filtered, a page at a time, changing in place."""

from __future__ import annotations

from typing import Any

from nicegui.element import Element

from api.pages import order_rows, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.facts import OPEN
from api.pages.page import Page
from api.pages.parts import Table
from api.routers import order_commands
from core.errors import CommandRefused
from core.storage.views import OrderFilter
from core.trading.types import Broker, Intent, OrderStatus, OrderType, Product, Side

SHOWN = 50
_STATES = {
    "": "any state",
    "open": "open",
    "ended": "ended",
    **{status.value: status.value.replace("_", " ").lower() for status in OrderStatus},
}


class _List:
    """What is looked at: filter and page."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cursors: list[str | None] = [None]
        self.following: str | None = None
        self.ask: Any = None
        asked = desk.request.query_params
        strategies = asked.get("strategy", "")
        self.broker = Field("broker", "Broker", options=_brokers(desk))
        self.state = Field("state", "State", options=_STATES, value=_known(asked.get("state", "")))
        self.strategy = Field("strategy", "Strategy", value=strategies, placeholder="any")
        self.instrument = Field("instrument", "Instrument", placeholder="NSE:INFY")

    def build(self) -> None:
        with Element("div").classes("filters"):
            for each in (self.broker, self.state, self.strategy, self.instrument):
                each.build(self._filtered)
        self.table = Table("Orders", order_rows.COLUMNS, empty="")
        with Element("div").classes("choices"):
            self.newer = parts.button("Newer", self._newer, "small hidden")
            self.older = parts.button("Older", self._older, "small hidden")
            self.where = parts.text("", "span", "quiet")

    def wanted(self) -> OrderFilter:
        state = self.state.value
        ended = tuple(each for each in OrderStatus if each.is_end)
        statuses = {"": (), "open": OPEN, "ended": ended}.get(state) if state in {"", "open", "ended"} else None
        return OrderFilter(
            statuses=statuses if statuses is not None else (OrderStatus(state),),
            strategy_id=str(self.strategy.value).strip() or None,
            instrument=str(self.instrument.value).strip().upper() or None,
        )

    async def load(self) -> None:
        broker = Broker(self.broker.value) if self.broker.value else None
        wanted = self.wanted()
        page = await self.desk.room.reads.orders(wanted, broker=broker, cursor=self.cursors[-1], limit=SHOWN)
        self.following = page.next
        filtered = wanted != OrderFilter() or broker is not None
        empty = "No order fits this filter." if filtered else "No order yet. Activate a strategy, or place one by hand."
        self.table.show([order_rows.row(order) for order in page.orders], empty=empty)
        parts.offer(self.newer, len(self.cursors) > 1)
        parts.offer(self.older, page.next is not None)
        parts.put(self.where, f"Page {len(self.cursors)}" if len(self.cursors) > 1 or page.next else "")

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


def _brokers(desk: Desk) -> dict[str, str]:
    return {"": "any"} | {broker.value: broker.value for broker in desk.room.settings.active_brokers}


def _known(state: str) -> str:
    return state if state in _STATES else ""


async def build(desk: Desk) -> None:
    listed = _List(desk)
    if desk.may(order_commands.place):
        with Element("div").classes("choices"):
            parts.button("Place an order …", lambda: ask_place(desk), "small")
    with Element("section").classes("card").props('aria-label="Orders"'):
        listed.build()
    listed.ask = await desk.refresh("order events", listed.load)


async def ask_place(desk: Desk) -> None:
    """An order of one's own; risk decides on it like on a strategy's."""
    seen = await desk.room.live.get("strategies")
    names = [row.strategy_id for row in seen.value.strategies] if seen.value else []
    instruments = sorted({key for row in seen.value.strategies for key in row.instruments}) if seen.value else []

    async def work(values: Values, key: str) -> str:
        given = {name: value for name, value in values.items() if value not in ("", None)}
        ticket = order_commands.Ticket.model_validate(given)
        answer = await desk.ask(order_commands.place, ticket, key=key, wait=3.0)
        if answer.accepted is None:
            return "Asked. Risk has not decided yet: look at Signals."
        if answer.accepted:
            return f"Accepted: order {str(answer.order_id)[-8:]} is on its way."
        why = "; ".join(f"{one.code}: {one.message}" for one in answer.denials)
        raise CommandRefused(f"Risk refused it: {why}")

    brokers = [broker.value for broker in desk.room.settings.active_brokers]
    fields = [
        Field("broker", "Broker", options=brokers, value=brokers[0]),
        Field("strategy", "Belongs to strategy", options=names, value=names[0] if names else ""),
        Field(
            "instrument",
            "Instrument",
            value=instruments[0] if instruments else "",
            required=True,
            placeholder="NSE:INFY",
        ),
        Field(
            "intent",
            "Intent",
            options={"ENTRY": "entry: opens or adds", "EXIT": "exit: towards zero"},
            value=Intent.ENTRY.value,
        ),
        Field("side", "Side", options=[each.value for each in Side], value=Side.BUY.value),
        Field("quantity", "Quantity (units)", kind="number", required=True, min=1, step=1),
        Field("order_type", "Order type", options=[each.value for each in OrderType], value=OrderType.MARKET.value),
        Field("price", "Limit price (₹)", kind="number", step="0.05", min=0),
        Field("trigger_price", "Trigger price (₹)", kind="number", step="0.05", min=0),
        Field("product", "Product", options=[each.value for each in Product], value=Product.MIS.value),
        reason(),
    ]
    Question(
        desk,
        "Place an order of your own",
        work,
        words=["It goes the same way as a strategy's: signal, risk, workflow. An entry expires after 60 s."],
        fields=fields,
        do="Place it",
    )


PAGE = Page("/orders", "Orders", build)
