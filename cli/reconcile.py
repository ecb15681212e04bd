"""`alpha-panda reconcile`: compare the journal with the broker now, and show what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli import remote, show
from cli.acting import act, acting
from cli.progress import console
from core.trading.types import Broker

if TYPE_CHECKING:
    from rich.table import Table

    from api.models import Round
    from api.reads import Reads
    from control.connections import Connections
    from core.events.payloads import ReconciledLine

WAIT_S = 90.0


def register(app: typer.Typer) -> None:
    @app.command()
    def reconcile(
        broker: Broker | None = typer.Option(None, help="One broker; all active ones without it."),
        last: bool = typer.Option(False, "--last", help="Show the last round instead of running one."),
        as_json: bool = typer.Option(False, "--json", help="A JSON list instead of tables."),
    ) -> None:
        """Compare each broker's book, trades and positions with what was booked here. Exit 0: no drift; 1: drift, or not compared."""
        rounds = show.reading(lambda reads: _last(reads, broker)) if last else _run(broker)
        if as_json:
            show.print_json(rounds)
        else:
            for row in rounds:
                _print(row)
            if not rounds:
                console.print("No round is on the log yet: is the service `orders-…` running? (`alpha-panda status`)")
        if not rounds or any(not row.judged or row.drifting for row in rounds):
            raise typer.Exit(1)


async def _last(reads: Reads, broker: Broker | None) -> list[Round]:
    return (await reads.reconciliations(broker=broker)).rounds


def _run(broker: Broker | None) -> list[Round]:
    """Ask every broker's workflow for a round and wait until the log tells of it.

    Raises:
        Transient: Temporal takes no request, or no round came in time; it says what to look at.
    """
    from api.models import Round
    from control.reconciliation import answer, ask

    asked = act(reason="asked by a person")
    if remote.is_on():
        from cli.remote_operations import reconcile

        return remote.asking(lambda api: reconcile(api, asked, broker, within_s=WAIT_S))

    async def work(links: Connections) -> list[Round]:
        brokers = links.settings.active_brokers if broker is None else (broker,)
        requests = {one: await ask(links, asked, one) for one in brokers}
        rounds = []
        for one, request_id in requests.items():
            with console.status(f"{one}: reading book, trades and positions"):
                found = await answer(links, one, request_id, within_s=WAIT_S)
            rounds.append(Round(**found.model_dump(), broker=one))
        return rounds

    return acting(work)


def _print(row: Round) -> None:
    verdict = f"[red]not compared[/]: {show.text(row.why_not)}"
    if row.judged:
        drifting = len(row.drifting)
        verdict = f"[red]drift in {_counted(drifting, 'instrument')}[/]" if drifting else "[green]no drift[/]"
    console.print(
        f"[bold]{row.broker}[/] account {show.text(row.account)} · {show.ist(row.finished_at)} IST · {verdict} · "
        f"{_counted(row.foreign_orders_count, 'foreign order')}"
    )
    mended = {
        "late fill": row.late_fills,
        "adopted row": len(row.adopted),
        "workflow started again": len(row.started_again),
        "event published late": row.published_late,
    }
    done = [f"{what}: {count}" for what, count in mended.items() if count]
    if done:
        console.print("  " + ", ".join(done))
    for trouble in row.trouble:
        console.print(f"  [yellow]{show.text(trouble)}[/]")
    if row.lines:
        show.put(_table(row.lines))
    for order in row.foreign_orders:
        console.print(
            f"  FOREIGN {order.side} {order.filled_quantity}/{order.quantity} {order.exchange}:{show.text(order.tradingsymbol)} "
            f"{order.product} {order.status} · broker order {show.text(order.broker_order_id)}"
        )
    if row.foreign_orders_count > len(row.foreign_orders):
        console.print(f"  and {row.foreign_orders_count - len(row.foreign_orders)} more")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(lines: tuple[ReconciledLine, ...]) -> Table:
    shown = show.table(
        ("instrument", "left"), ("product", "left"), ("broker", "right"), ("ours", "right"), ("FOREIGN", "right"),
        ("drift", "right"), ("note", "fold"),
    )  # fmt: skip
    for line in lines:
        notes = []
        if line.drift is None:
            notes.append("moves just now")
        if line.delivered:
            notes.append(f"{line.delivered} of ours are holdings by now")
        if line.uncovered:
            notes.append(f"{line.uncovered} of ours closed by somebody else")
        drift = "–" if line.drift is None else f"[red]{line.drift}[/]" if line.drift else "0"
        instrument = show.text(f"{line.exchange}:{line.tradingsymbol}")
        shown.add_row(
            instrument, line.product, str(line.broker), str(line.ours), str(line.foreign), drift, "; ".join(notes)
        )
    return shown
