"""What is held, marked to the last tick, with a way out of each position. An exit goes as any order does: signal, risk, workflow."""

from __future__ import annotations

from decimal import Decimal

from nicegui.element import Element

from api.models import Position
from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.guard import ROOM
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.parts import Act, Column, Row, Table, cell
from api.routers import order_commands
from core.errors import CommandRefused
from core.trading.types import Intent, OrderType, Side

_COLUMNS = (
    Column("Instrument"),
    Column("Strategy"),
    Column("Broker"),
    Column("Units", "num"),
    Column("Average", "num"),
    Column("Last price", "num"),
    Column("Open PnL", "num"),
    Column("Realised", "num"),
    Column("Charges", "num"),
    Column("Net today", "num"),
    Column("", sorts=False),
)


def _key(row: Position) -> str:
    return f"{row.broker}|{row.instance}|{row.instrument}|{row.product}"


def _row(row: Position, may_exit: bool) -> Row:
    leave = (
        (Act("exit", "Exit …", f"Exit {row.instrument} of {row.instance}", "danger"),)
        if may_exit and row.quantity
        else ()
    )
    return Row(
        _key(row),
        (
            cell(row.instrument, more=row.product.value, to=f"{ROOM}/charts?instrument={row.instrument}"),
            cell(row.strategy_id),
            cell(row.broker.value),
            cell(formats.signed(row.quantity) if row.quantity else "flat", order=row.quantity),
            parts.price(row.average_price if row.quantity else None),
            cell(formats.price(row.last_price), hint=formats.moment(row.marked_at), order=float(row.last_price or 0)),
            parts.gain(row.unrealized_pnl if row.quantity else Decimal(0)),
            parts.gain(row.day_realized_pnl),
            parts.amount(row.day_charges),
            parts.gain(row.day_net_pnl),
            parts.acts(*leave),
        ),
    )


async def build(desk: Desk) -> None:
    may_exit = desk.may(order_commands.place)
    known: dict[str, Position] = {}

    async def acted(key: str, _: str) -> None:
        if key in known:
            _ask_exit(desk, known[key])

    with parts.card("Open") as box:
        away = parts.text("", "p", "wrong")
        empty = "Nothing is held. A running strategy enters by its own rule; Orders places one by hand."
        open_ = Table("Open positions", _COLUMNS, empty=empty, on_act=acted)
    with parts.card("Closed today") as below:
        closed = Table("Positions closed today", _COLUMNS[:-1], empty="Nothing was closed today.")
    with Element("p"):
        parts.link("Download as CSV", "/api/v1/exports/positions.csv")

    def show(seen: Seen) -> None:
        parts.put(away, f"These figures are old: {seen.away}" if seen.away else "")
        for each in (box, below):
            parts.old(each, bool(seen.away))
        if seen.value is None:
            return
        known.clear()
        known.update({_key(row): row for row in seen.value.positions if row.quantity})
        open_.show([_row(row, may_exit) for row in seen.value.positions if row.quantity])
        flat = [row for row in seen.value.positions if not row.quantity and row.day_charges]
        closed.show([Row(row.key, row.cells[:-1]) for row in (_row(one, False) for one in flat)])

    await desk.follow("positions", show)


def _ask_exit(desk: Desk, row: Position) -> None:
    held = abs(row.quantity)

    async def work(values: Values, key: str) -> str:
        ticket = order_commands.Ticket.model_validate(
            {
                "broker": row.broker,
                "strategy": row.strategy_id,
                "instrument": row.instrument,
                "side": Side.SELL if row.quantity > 0 else Side.BUY,
                "quantity": values["quantity"],
                "intent": Intent.EXIT,
                "order_type": OrderType.MARKET,
                "product": row.product,
                "reason": values["reason"],
            }
        )
        answer = await desk.ask(order_commands.place, ticket, key=key, wait=3.0)
        if answer.accepted is False:
            raise CommandRefused(
                "Risk refused it: " + "; ".join(f"{one.code}: {one.message}" for one in answer.denials)
            )
        return "The exit is on its way: follow it on Orders." if answer.accepted else "Asked. Risk has not decided yet."

    Question(
        desk,
        f"Exit {row.instrument}",
        work,
        words=[
            f"{row.instance} holds {formats.signed(row.quantity)} {row.product}. "
            "The exit is a market order, never more than is held, and goes on until the position is flat.",
            "A strategy that is still active may enter again: pause it first if it should not.",
        ],
        fields=[Field("quantity", "Units", kind="number", value=held, min=1, max=held, required=True), reason()],
        do="Exit",
        danger=True,
    )


PAGE = Page("/positions", "Positions", build)
