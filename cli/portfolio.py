"""`alpha-panda positions` and `rebuild-portfolio`: what is held and earned, and whether the log says the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli import show
from cli.progress import console
from core.trading.types import Broker

if TYPE_CHECKING:
    from api.models import PnlReport, PositionList
    from api.reads import Reads
    from streams.portfolio_rebuild import Rebuilt

NOTHING_LIVE = 2
"""Exit code of a rebuild that has no live portfolio to compare with."""


def register(app: typer.Typer) -> None:
    @app.command()
    def positions(
        broker: Broker | None = typer.Option(None, help="One broker; all active ones without it."),
        open_only: bool = typer.Option(False, "--open", help="Leave out flat positions."),
        as_json: bool = typer.Option(False, "--json", help="A JSON list instead of tables."),
    ) -> None:
        """Show positions marked to market and the PnL of each broker."""
        held, report = show.reading(lambda reads: _read(reads, broker, open_only))
        if as_json:
            show.print_json(held.positions)
        else:
            _print_positions(held, report)

    @app.command(name="rebuild-portfolio")
    def rebuild_portfolio(
        broker: Broker | None = typer.Option(None, help="One broker; all active ones without it."),
        as_json: bool = typer.Option(False, "--json", help="JSON instead of tables."),
    ) -> None:
        """Fold the log from its beginning and compare with the live portfolio. Exit 0: no difference; 1: some; 2: nothing live."""
        outcomes = show.reading(lambda reads: _rebuild(reads, broker))
        if as_json:
            show.print_json({"brokers": [_as_json(row) for row in outcomes]})
        else:
            for row in outcomes:
                _print_rebuilt(row)
        if not all(row.live for row in outcomes):
            raise typer.Exit(NOTHING_LIVE)
        if any(row.differences for row in outcomes):
            raise typer.Exit(1)


async def _read(reads: Reads, broker: Broker | None, open_only: bool) -> tuple[PositionList, PnlReport]:
    return await reads.positions(broker=broker, open_only=open_only), await reads.pnl(broker=broker)


async def _rebuild(reads: Reads, broker: Broker | None) -> list[Rebuilt]:
    from streams.portfolio_rebuild import rebuild

    brokers = reads.settings.active_brokers if broker is None else (broker,)
    return [await rebuild(reads.settings, one) for one in brokers]


def _print_positions(held: PositionList, report: PnlReport) -> None:
    shown = show.table(
        ("broker", "left"), ("instance", "left"), ("instrument", "left"), ("product", "left"), ("quantity", "right"),
        ("average", "right"), ("last", "right"), ("realised", "right"), ("unrealised", "right"), ("charges", "right"),
        ("net", "right"),
    )  # fmt: skip
    for row in held.positions:
        shown.add_row(
            row.broker,
            show.text(row.instance),
            show.text(row.instrument),
            row.product,
            str(row.quantity),
            show.rupees(row.average_price) if row.quantity else "–",
            show.rupees(row.last_price),
            show.gain(row.realized_pnl),
            show.gain(row.unrealized_pnl) if row.unrealized_pnl is not None else "–",
            show.rupees(row.charges),
            show.gain(row.net_pnl) if row.net_pnl is not None else "–",
        )
    show.put(shown if held.positions else "No positions.")
    for part in report.brokers:
        total = part.total
        missing = f" · {total.unmarked} without a price" if total.unmarked else ""
        console.print(
            f"[bold]{part.broker}[/] day {total.trading_day}: gross {show.gain(total.day_gross_pnl)}, "
            f"charges {show.rupees(total.day_charges)}, net {show.gain(total.day_net_pnl)} · in all: "
            f"net {show.gain(total.net_pnl)}{missing}"
        )
    if held.simulated:
        console.print(show.SIMULATED)


def _as_json(row: Rebuilt) -> dict[str, object]:
    return {
        "broker": row.broker.value,
        "live": row.live,
        "positions": row.positions,
        "fills": row.fills,
        "differences": [
            {
                "instance": found.key[0],
                "instrument": found.key[1],
                "product": found.key[2].value,
                "field": found.field,
                "live": found.live,
                "rebuilt": found.rebuilt,
            }
            for found in row.differences
        ],
    }


def _print_rebuilt(row: Rebuilt) -> None:
    if not row.live:
        console.print(f"[bold]{row.broker}[/]: no live portfolio to compare with; is the service `portfolio` running?")
        return
    if not row.differences:
        console.print(
            f"[bold]{row.broker}[/]: [green]no difference[/] in {row.positions} positions folded from {row.fills} fills"
        )
        return
    console.print(
        f"[bold]{row.broker}[/]: [red]{len(row.differences)} difference{'s' if len(row.differences) > 1 else ''}[/] over {row.fills} fills"
    )
    shown = show.table(
        ("instance", "left"), ("instrument", "left"), ("product", "left"), ("field", "left"), ("live", "right"), ("log", "right")
    )  # fmt: skip
    for found in row.differences:
        instance, instrument, product = found.key
        shown.add_row(show.text(instance), show.text(instrument), product, found.field, found.live, found.rebuilt)
    show.put(shown)
