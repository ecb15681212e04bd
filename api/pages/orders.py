"""Orders as they are now: the newest first, filtered, a page at a time, changing in place."""

from __future__ import annotations

from nicegui.element import Element

from api.pages import order_rows, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.facts import OPEN
from api.pages.listing import (
    SHOWN,
    Listed,
    Listing,
    broker_filter,
    broker_of,
    instrument_filter,
    instrument_of,
    strategy_filter,
    text_of,
)
from api.pages.page import Page
from api.routers import order_commands
from core.errors import CommandRefused
from core.storage.views import OrderFilter
from core.trading.types import Intent, OrderStatus, OrderType, Product, Side

_STATES = {
    "": "any state",
    "open": "open",
    "ended": "ended",
    **{status.value: status.value.replace("_", " ").lower() for status in OrderStatus},
}
_ENDED = tuple(status for status in OrderStatus if status.is_end)


def _statuses(state: str) -> tuple[OrderStatus, ...]:
    several: dict[str, tuple[OrderStatus, ...]] = {"": (), "open": OPEN, "ended": _ENDED}
    return several[state] if state in several else (OrderStatus(state),)


async def build(desk: Desk) -> None:
    asked = desk.request.query_params
    chosen = asked.get("state", "")
    broker, strategy, instrument = broker_filter(desk), strategy_filter(asked.get("strategy", "")), instrument_filter()
    state = Field("state", "State", options=_STATES, value=chosen if chosen in _STATES else "")

    async def read(cursor: str | None) -> Listed:
        wanted = OrderFilter(_statuses(state.value), text_of(strategy), instrument_of(instrument))
        page = await desk.room.reads.orders(wanted, broker=broker_of(broker), cursor=cursor, limit=SHOWN)
        filtered = wanted != OrderFilter() or bool(broker.value)
        empty = "No order fits this filter." if filtered else "No order yet. Activate a strategy, or place one by hand."
        return Listed([order_rows.row(order) for order in page.orders], page.next, empty)

    if desk.may(order_commands.place):
        with Element("div").classes("choices"):
            parts.button("Place an order …", lambda: ask_place(desk), "small")
    listing = Listing("Orders", order_rows.COLUMNS, (broker, state, strategy, instrument), read)
    with Element("p"):
        parts.link("Download as CSV", "/api/v1/exports/orders.csv")
    await listing.follow(desk, "order events")


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
