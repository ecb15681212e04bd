"""One order, from the tick it began with to its PnL: each step with its latency, the sends, and what a person may do."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from nicegui.element import Element

from api.models import OrderDetail
from api.pages import formats, order_evidence, order_rows, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.guard import ROOM
from api.pages.page import Page
from api.pages.parts import Column, Figure, Row, Table, cell
from api.routers import order_commands
from core.errors import AlphaPandaError, CommandRefused
from core.trading.commands import CommandOutcome, Resolution
from core.trading.types import OrderStatus

WAIT_S = 5.0
"""How long a dialog waits for a command's outcome before it says that it goes on."""

_SENDS = (
    Column("Send", "num"),
    Column("State"),
    Column("Units", "num"),
    Column("Left us", "num"),
    Column("Answered", "num"),
    Column("Broker order"),
    Column("Tag"),
    Column("The broker's answer", "wide"),
)
_FILLS = (
    Column("Filled at", "num"),
    Column("Units", "num"),
    Column("Price", "num"),
    Column("Realised, gross", "num"),
    Column("Charges", "num"),
    Column("Position after", "num"),
    Column("Trade"),
)


class _View:
    """The page's pieces, filled anew whenever an order event comes."""

    def __init__(self, desk: Desk, order_id: UUID) -> None:
        self.desk, self.order_id = desk, order_id
        self.found: OrderDetail | None = None
        self._told: list[tuple[str, str, str]] | None = None

    def build(self) -> None:
        with Element("section").classes("card"):
            self.title = parts.text("", "h2")
            self.line = parts.text("", "p", "quiet")
            with Element("div").classes("figures four"):
                self.state, self.filled = Figure("State"), Figure("Filled")
                self.average, self.net = Figure("Average price"), Figure("Net PnL")
            with Element("div").classes("choices"):
                self.cancel = parts.button("Cancel …", lambda: _ask_cancel(self.desk, self.order_id), "danger hidden")
                self.modify = parts.button("Modify …", self._modify, "hidden")
                self.resolve = parts.button(
                    "Resolve …", lambda: _ask_resolve(self.desk, self.order_id), "primary hidden"
                )
                self.temporal = parts.link("Its workflow in Temporal", "#")
                self.temporal.props('target="_blank" rel="noopener"')
        with parts.card("Timeline"):
            self.steps = Element("ol").classes("timeline")
        with parts.card("Sends to the broker"):
            self.sends = Table("Sends", _SENDS, empty="Nothing was sent yet.")
        with parts.card("Fills"):
            self.fills = Table("Fills", _FILLS, empty="No fill yet.")
        self.rests_on = order_evidence.EvidenceCards()

    async def load(self) -> None:
        found = await self.desk.room.reads.order(self.order_id)
        if found is None:
            parts.put(self.title, f"No order {self.order_id} is on the log (yet).")
            return
        self.found = found
        self._show_order(found)
        self._show_steps(found)
        self.sends.show([_send(row) for row in found.sends])
        self.fills.show([_fill(row) for row in found.fills])
        self.rests_on.show(await order_evidence.read(self.desk.room.links, found.order.broker, self.order_id))

    def _show_order(self, found: OrderDetail) -> None:
        order = found.order
        parts.put(self.title, order_rows.what(order))
        where = f"{order.broker} ({found.target})" if found.target != order.broker else order.broker.value
        words = [
            order.intent.lower(),
            f"{order.product} {order.validity}",
            order.instance,
            where,
            f"order {order.order_id}",
        ]
        words += [f"broker order {order.broker_order_id}"] if order.broker_order_id else []
        parts.put(self.line, " · ".join(words))
        tone = {"bad": "down", "warn": "warn", "good": "up"}.get(order_rows.TONES.get(order.state, ""), "")
        self.state.show(order.state, tone, order.reason or "")
        self.filled.show(f"{formats.number(order.filled_quantity)} of {formats.number(order.quantity)}")
        self.average.show(formats.price(order.average_price))
        made = order.filled_quantity > 0
        self.net.show(
            formats.gain(order.net_pnl if made else None), formats.tone(order.net_pnl), _charges(order.charges)
        )
        self.temporal.props["href"] = found.temporal_url
        for button, route, there in (
            (self.cancel, order_commands.cancel, not order.state.is_end),
            (self.modify, order_commands.modify, order.state in {OrderStatus.ACKED, OrderStatus.PARTIALLY_FILLED}),
            (self.resolve, order_commands.resolve, order.state is OrderStatus.UNRESOLVED),
        ):
            parts.offer(button, there and self.desk.may(route))

    def _show_steps(self, found: OrderDetail) -> None:
        told = _steps(found)
        if told == self._told:
            return
        self._told = told
        self.steps.clear()
        with self.steps:
            for at, since, words in told:
                with Element("li"):
                    parts.text(at, "span", "at")
                    parts.text(since, "span", "step")
                    parts.text(words, "span")

    async def _modify(self) -> None:
        if self.found is not None:
            _ask_modify(self.desk, self.found)


def _charges(charges: Decimal) -> str:
    return f"after {formats.rupees(charges)} charges" if charges else ""


def _steps(found: OrderDetail) -> list[tuple[str, str, str]]:
    """(when, how long after the step before, what happened), from the tick on."""
    rows: list[tuple[datetime, str]] = []
    if found.signal is not None:
        began = "a person asked" if found.signal.source != "strategy" else "the tick it began with came in"
        rows.append((found.signal.origin_at, began))
    rows += [(event.at, event.text) for event in found.events]
    told = []
    before: datetime | None = None
    for at, words in rows:
        since = f"+{formats.span((at - before).total_seconds())}" if before is not None else ""
        told.append((f"{formats.clock(at)}.{at.microsecond // 1000:03d}", since, words))
        before = at
    return told


def _send(row: Any) -> Row:
    return Row(
        str(row.send_no),
        (
            parts.count(row.send_no),
            cell(row.state),
            parts.count(row.quantity),
            parts.when(row.claimed_at),
            parts.when(row.answered_at),
            cell(row.broker_order_id or formats.NONE),
            cell(row.tag),
            cell(row.answer or formats.NONE),
        ),
    )


def _fill(row: Any) -> Row:
    return Row(
        f"{row.trading_day} {row.trade_id}",
        (
            parts.when(row.filled_at),
            parts.count(row.quantity),
            parts.price(row.price),
            parts.gain(row.realized_pnl),
            parts.amount(row.charges),
            cell(formats.signed(row.position_quantity), order=row.position_quantity),
            cell(row.trade_id),
        ),
    )


# commands -----------------------------------------------------------------------------------------------------------------


def _outcome(answer: order_commands.Command) -> str:
    """What to tell of a command. Raises CommandRefused where it was not applied: the dialog stays and says so."""
    if answer.outcome is CommandOutcome.APPLIED:
        return f"{answer.kind.capitalize()}: done. {answer.evidence or ''}".strip()
    if answer.outcome is CommandOutcome.NOT_APPLIED:
        raise CommandRefused(f"Not applied: {answer.evidence or 'the broker refused it'}")
    if answer.outcome is CommandOutcome.ORDER_ENDED:
        return f"The order ended first. {answer.evidence or ''}".strip()
    return f"Asked for and recorded; it goes on. {answer.note or answer.evidence or ''}".strip()


def _ask_cancel(desk: Desk, order_id: UUID) -> None:
    async def work(values: Values, key: str) -> str:
        asked = order_commands.Cancel(reason=values["reason"])
        return _outcome(await desk.ask(order_commands.cancel, order_id, asked, key=key, wait=WAIT_S))

    Question(
        desk,
        "Cancel this order",
        work,
        words=["What filled before the cancel arrives stays filled."],
        fields=[reason()],
        do="Cancel the order",
        danger=True,
    )


def _ask_modify(desk: Desk, found: OrderDetail) -> None:
    order = found.order

    async def work(values: Values, key: str) -> str:
        now = {"price": order.price, "trigger_price": order.trigger_price, "quantity": order.quantity}
        given = {name: values[name] for name in now if str(values.get(name) or "").strip()}
        changed = {
            name: value for name, value in given.items() if now[name] is None or Decimal(str(value)) != now[name]
        }
        if not changed:
            raise CommandRefused("Nothing is different from now.")
        asked = order_commands.Modify.model_validate(changed | {"reason": values["reason"]})
        return _outcome(await desk.ask(order_commands.modify, order.order_id, asked, key=key, wait=WAIT_S))

    fields = [
        Field("price", "Limit price (₹)", kind="number", value=order.price, step="0.05", min=0),
        Field("trigger_price", "Trigger price (₹)", kind="number", value=order.trigger_price, step="0.05", min=0),
        Field(
            "quantity", "Quantity", kind="number", value=order.quantity, min=1, hint="Less than now; on paper alone."
        ),
        reason(),
    ]
    Question(
        desk, "Modify this order", work, words=["Sent once, then read back from the book."], fields=fields, do="Modify"
    )


async def _ask_resolve(desk: Desk, order_id: UUID) -> None:
    words = ["Look at the broker's own app first. The book, where it can be read, has the last word."]
    try:
        words += order_evidence.in_words(await order_commands.evidence(order_id, desk.room.links))
    except AlphaPandaError as error:
        words.append(f"The evidence cannot be read: {error}")

    async def work(values: Values, key: str) -> str:
        given = {name: value for name, value in values.items() if value not in ("", None, False) and name != "typed"}
        if given.get("filled_at"):
            given["filled_at"] = f"{given['filled_at']}+05:30"
        asked = order_commands.Resolve.model_validate(given | {"order_id": order_id})
        return _outcome(await desk.ask(order_commands.resolve, order_id, asked, key=key, wait=WAIT_S))

    choices = {
        Resolution.ADOPT.value: "it is this broker order",
        Resolution.NEVER_PLACED.value: "it was never placed, or nothing more filled",
        Resolution.BOOK_FILL.value: "it filled, as follows",
    }
    fields = [
        Field("resolution", "What became of it", options=choices, value=Resolution.ADOPT.value),
        Field("broker_order_id", "Broker order id (as Kite shows it)"),
        Field("quantity", "Filled units", kind="number", min=1),
        Field("price", "Fill price (₹)", kind="number", step="0.05"),
        Field("trade_id", "Trade id"),
        Field("filled_at", "Filled at (IST)", kind="datetime-local", step="1"),
        Field("more", "Another fill follows", kind="checkbox", value=False),
        reason(),
    ]
    Question(
        desk, "Decide this order", work, words=words, fields=fields, do="Decide", danger=True, typed=str(order_id)[-8:]
    )


async def build(desk: Desk) -> None:
    parts.link("← All orders", f"{ROOM}/orders")
    try:
        order_id = UUID(desk.request.path_params["order_id"])
    except ValueError:
        parts.text("This is no order's address. Go to Orders and open one from the list.", "p", "empty")
        return
    view = _View(desk, order_id)
    view.build()
    await desk.refresh("order events", view.load)


PAGE = Page("/order/{order_id}", "Order", build, listed=False)
