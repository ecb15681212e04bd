"""`alpha-panda orders` and `alpha-panda order ID`: what the log says of orders, as tables or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import typer

from cli import show
from cli.progress import console
from core.trading.types import Broker, OrderStatus

if TYPE_CHECKING:
    from api.models import OrderDetail, OrderSummary
    from api.reads import Reads
    from core.storage.views import OrderFilter

PAGE = 500
SHORT_ID = 12
"""The end of an id is its random part; the beginning is a time that many orders share."""

COLOURS = {
    OrderStatus.FILLED: "green",
    OrderStatus.REJECTED: "red",
    OrderStatus.EXPIRED: "yellow",
    OrderStatus.CANCELLED: "yellow",
    OrderStatus.UNKNOWN: "bold magenta",
    OrderStatus.UNRESOLVED: "bold red",
}


def register(app: typer.Typer) -> None:
    @app.command()
    def orders(
        broker: Broker | None = typer.Option(None, help="One broker; all active ones without it."),
        status: list[OrderStatus] = typer.Option([], help="May be given several times."),
        strategy: str | None = typer.Option(None, help="A strategy's id."),
        instrument: str | None = typer.Option(None, help="For example NSE:INFY."),
        limit: int = typer.Option(50, min=1, help="How many, newest first."),
        as_json: bool = typer.Option(False, "--json", help="A JSON list instead of a table."),
    ) -> None:
        """List orders, newest first."""
        from core.storage.views import OrderFilter

        wanted = OrderFilter(statuses=status, strategy_id=strategy, instrument=instrument)
        rows = show.reading(lambda reads: _collect(reads, wanted, broker, limit))
        if as_json:
            show.print_json(rows)
        else:
            _print_orders(rows)

    @app.command()
    def order(
        order_id: str = typer.Argument(metavar="ID", help="The order's id, or the end of it as `orders` shows."),
        as_json: bool = typer.Option(False, "--json", help="The whole order as JSON."),
    ) -> None:
        """Show an order's whole life: signal, decision, sends, fills, every step, and where to see it in Temporal UI."""
        found = show.reading(lambda reads: _find(reads, order_id))
        if isinstance(found, str):
            typer.echo(found, err=True)
            raise typer.Exit(1)
        if as_json:
            show.print_json(found)
        else:
            _print_order(found)


async def _collect(reads: Reads, wanted: OrderFilter, broker: Broker | None, limit: int) -> list[OrderSummary]:
    rows: list[OrderSummary] = []
    cursor: str | None = None
    while len(rows) < limit:
        page = await reads.orders(wanted, broker=broker, cursor=cursor, limit=min(PAGE, limit - len(rows)))
        rows += page.orders
        cursor = page.next
        if cursor is None:
            break
    return rows


async def _find(reads: Reads, text: str) -> OrderDetail | str:
    """The order with this id, or the only recent one whose id ends so; else what to say."""
    try:
        found = await reads.order(UUID(text))
        return found or f"No broker's log knows order {text}."
    except ValueError:
        pass
    from core.storage.views import OrderFilter

    recent = await _collect(reads, OrderFilter(), None, PAGE)
    matches = [row for row in recent if str(row.order_id).endswith(text.lower())]
    if len(matches) != 1:
        return (
            f"{len(matches)} of the last {len(recent)} orders end with {text!r}: give the whole id (`orders --json`)."
        )
    found = await reads.order(matches[0].order_id)
    return found or f"No broker's log knows order {text}."


def _state(row: OrderSummary) -> str:
    return f"[{COLOURS.get(row.state, 'cyan')}]{row.state}[/]"


def _print_orders(rows: list[OrderSummary]) -> None:
    if not rows:
        console.print("No orders.")
        return
    from core.clock import utc_now

    shown = show.table(
        ("IST", "left"), ("order", "left"), ("state", "left"), ("side", "left"), ("filled", "right"),
        ("instrument", "left"), ("average", "right"), ("net", "right"), ("instance", "fold"),
    )  # fmt: skip
    for row in rows:
        shown.add_row(
            show.ist_short(row.created_at, utc_now()),
            str(row.order_id)[-SHORT_ID:],
            _state(row),
            row.side,
            f"{row.filled_quantity}/{row.quantity}",
            show.text(row.instrument),
            show.rupees(row.average_price),
            show.gain(row.net_pnl) if row.filled_quantity else "–",
            show.text(row.instance),
        )
    show.put(shown)
    if rows[0].simulated:
        console.print(show.SIMULATED)


def _print_order(found: OrderDetail) -> None:
    row = found.order
    price = f" @ {show.rupees(row.price)}" if row.price is not None else ""
    console.print(
        f"[bold]{row.side} {row.quantity} {show.text(row.instrument)} {row.order_type}{price} {row.product}[/]"
        f"  {_state(row)}  {row.broker} · {show.text(row.instance)}"
    )
    if row.reason:
        console.print(f"  {show.text(row.reason)}")
    console.print(
        f"  filled {row.filled_quantity}/{row.quantity} at {show.rupees(row.average_price)} · "
        f"realised {show.gain(row.realized_pnl)} · charges {show.rupees(row.charges)} · net {show.gain(row.net_pnl)}"
    )
    console.print(
        f"  order {row.order_id} · broker order {show.text(row.broker_order_id or '–')} · account {found.account}"
    )
    for send in found.sends:
        answer = f": {show.text(send.answer)}" if send.answer else ""
        console.print(f"  send {send.send_no} tag {send.tag} {send.state} at {show.ist(send.claimed_at)} IST{answer}")
    steps = show.table(("time (IST)", "left"), ("seq", "right"), ("what", "fold"))
    for event in found.events:
        seq = "" if event.order_seq is None else str(event.order_seq)
        steps.add_row(show.ist(event.at), seq, show.text(event.text))
    show.put(steps)
    console.print(f"Temporal UI: {found.temporal_url}", soft_wrap=True)
    if row.simulated:
        console.print(show.SIMULATED)
