"""`alpha-panda cancel | modify | resolve ORDER`: acting on one order. Journalled with who and why before anything is sent.

Never says that something happened before the broker's book, or its certain refusal, does.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from cli import remote, show
from cli.acting import act, acting
from cli.progress import console, step
from core.errors import CommandRefused
from core.trading.commands import Changes, CommandKind, CommandOutcome, Resolution
from core.trading.types import Broker

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from control.connections import Connections
    from control.orders import Check
    from core.storage.command_journal import Dossier
    from core.storage.commands import CommandRecord

STILL_OPEN = 3
"""Exit code: journalled, and no outcome yet. 0 is APPLIED, 1 everything else."""

_ORDER = typer.Argument(metavar="ORDER", help="The order's id, or the end of it as `orders` shows.")
_REASON = typer.Option(..., help="Why; it is kept with the command.")
_BY = typer.Option("", help="Who asks; your user name without it.")
_REQUEST = typer.Option(None, "--request-id", help="A UUID. The same again is the same command: safe to repeat.")
_WAIT = typer.Option(30.0, min=0, help="Seconds to wait for the outcome; the command goes on after that all the same.")
_JSON = typer.Option(False, "--json", help="The command as JSON.")


def register(app: typer.Typer) -> None:
    @app.command()
    def cancel(
        order: str = _ORDER,
        reason: str = _REASON,
        by: str = _BY,
        request_id: UUID | None = _REQUEST,
        wait: float = _WAIT,
        as_json: bool = _JSON,
    ) -> None:
        """Cancel an order. Holds from now on: it stops an order not yet sent, and fires when a lost one is found.

        The broker's book alone says that it is cancelled; a fill that came first stands. Exit code 0: cancelled; 1: it ended another
        way or the broker refused; 3: no outcome yet.
        """
        _run(order, CommandKind.CANCEL, {}, by, reason, request_id, wait, as_json)

    @app.command()
    def modify(
        order: str = _ORDER,
        reason: str = _REASON,
        price: str | None = typer.Option(None, help="New limit price, rupees, on the instrument's tick size."),
        trigger_price: str | None = typer.Option(
            None, "--trigger-price", help="New trigger price of an SL or SL-M order."
        ),
        quantity: int | None = typer.Option(None, help="Less than now, where the broker says what it means (paper)."),
        by: str = _BY,
        request_id: UUID | None = _REQUEST,
        wait: float = _WAIT,
        as_json: bool = _JSON,
    ) -> None:
        """Change a working order: sent once, then read back from the broker's book. 25 times an order at most.

        Exit code 0: the book shows it; 1: it does not, or the order ended; 3: no outcome yet.
        """
        given = {"price": price, "trigger_price": trigger_price, "quantity": quantity}
        try:
            changes = Changes.of(given)
        except ValueError as error:
            raise CommandRefused(str(error)) from None

        from control.orders import modifiable

        _run(
            order, CommandKind.MODIFY, changes.parameters(), by, reason, request_id, wait, as_json, modifiable(changes)
        )

    @app.command()
    def resolve(
        order: str = _ORDER,
        resolution: Resolution = typer.Argument(
            help="adopt: it is --broker-order-id. never-placed: nothing (more) filled. book-fill: it filled as you say."
        ),
        reason: str = _REASON,
        broker_order_id: str | None = typer.Option(None, "--broker-order-id", help="As Kite shows it."),
        quantity: int | None = typer.Option(None, help="book-fill: units filled."),
        price: str | None = typer.Option(None, help="book-fill: rupees a unit."),
        trade_id: str | None = typer.Option(
            None, "--trade-id", help="book-fill: as the tradebook or contract note says."
        ),
        filled_at: str | None = typer.Option(None, "--filled-at", help="book-fill: when, IST, `2026-10-07 10:15:30`."),
        more: bool = typer.Option(
            False, "--more", help="book-fill: another fill follows; without it the rest never filled."
        ),
        by: str = _BY,
        request_id: UUID | None = _REQUEST,
        wait: float = _WAIT,
        yes: bool = typer.Option(False, "--yes", help="Do not ask for the order's id: for programs."),
        as_json: bool = _JSON,
    ) -> None:
        """Decide what became of an UNRESOLVED order, after the evidence is shown. The book, where it can be read, has the last word.

        never-placed: an entry ends EXPIRED, an exit is sent again. Exit codes as for modify.
        """
        parameters = _resolution(resolution, broker_order_id, quantity, price, trade_id, filled_at, more)

        def shown(broker: Broker, found: Dossier) -> None:
            if not as_json:
                _print_evidence(broker, found)

        async def check(engine: AsyncEngine, broker: Broker, order_id: UUID) -> None:
            from control.orders import undecided

            await undecided(shown)(engine, broker, order_id)
            if not yes:
                _typed_back(order_id, resolution)

        _run(order, CommandKind.RESOLVE, parameters, by, reason, request_id, wait, as_json, check)


def _run(
    order: str,
    kind: CommandKind,
    parameters: dict[str, Any],
    by: str,
    reason: str,
    request_id: UUID | None,
    wait: float,
    as_json: bool,
    check: Check | None = None,
) -> None:
    """Find the order, check, journal, tell its workflow, wait; print the command."""
    from control.orders import command, find

    asked = act(by, reason, request_id)

    async def work(links: Connections) -> tuple[CommandRecord, str | None]:
        broker, order_id = await find(links, order)
        done = await command(links, asked, broker, order_id, kind, parameters, check)
        return await _outcome(links.journal(broker), done.record, wait, as_json), done.note

    if remote.is_on():
        record, note = asyncio.run(remote.command(order, kind, parameters, asked, wait))
    else:
        record, note = acting(work)
    if as_json:
        print(json.dumps(asdict(record), default=str, indent=2))
    else:
        _print_record(record, note)
    raise typer.Exit(0 if record.outcome is CommandOutcome.APPLIED else 1 if record.is_finished else STILL_OPEN)


async def _outcome(engine: AsyncEngine, record: CommandRecord, wait: float, as_json: bool) -> CommandRecord:
    from core.order_commands import outcome

    if as_json:
        return await outcome(engine, record.request_id, within_s=wait) or record
    with step(f"{record.kind.lower()} {record.order_id} (request {record.request_id})") as now:
        found = await outcome(
            engine, record.request_id, within_s=wait, told=lambda one: now.say(one.evidence or one.state.lower())
        )
        found = found or record
        now.say(str(found.outcome) if found.outcome else f"no outcome yet, it is {found.state}")
        return found


def _print_record(record: CommandRecord, note: str | None) -> None:
    if record.is_finished:
        colour = "green" if record.outcome is CommandOutcome.APPLIED else "yellow"
        console.print(f"[{colour}]{record.outcome}[/]: {show.text(record.evidence or '')}", soft_wrap=True)
        return
    console.print(f"[yellow]No outcome yet[/]: {record.state}. {show.text(record.evidence or '')}", soft_wrap=True)
    if note:
        console.print(f"  {show.text(note)}", soft_wrap=True)
    console.print("  It is journalled and goes on by itself. Ask again with the same command and:", soft_wrap=True)
    console.print(f"  --request-id {record.request_id}", soft_wrap=True)


# resolve -----------------------------------------------------------------------------------------------------------


def _resolution(
    resolution: Resolution,
    broker_order_id: str | None,
    quantity: int | None,
    price: str | None,
    trade_id: str | None,
    filled_at: str | None,
    more: bool,
) -> dict[str, Any]:
    """The command's parameters. Raises CommandRefused naming what is missing or cannot be read."""
    found: dict[str, Any] = {"resolution": resolution.value}
    if broker_order_id:
        found["broker_order_id"] = broker_order_id
    if resolution is Resolution.ADOPT and not broker_order_id:
        raise CommandRefused("adopt needs --broker-order-id: as Kite shows it")
    if resolution is not Resolution.BOOK_FILL:
        return found
    given = {"--quantity": quantity, "--price": price, "--trade-id": trade_id, "--filled-at": filled_at}
    missing = [name for name, value in given.items() if value in (None, "")]
    if missing:
        raise CommandRefused(f"book-fill needs {', '.join(missing)}")
    try:
        numbers = Changes.of({"price": price, "quantity": quantity}).parameters()
        moment = _ist(str(filled_at))
    except ValueError as error:
        raise CommandRefused(str(error)) from None
    return found | numbers | {"trade_id": trade_id, "filled_at": moment.isoformat(), "more": more}


def _ist(text: str) -> datetime:
    from core.clock import IST

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--filled-at {text!r}: give date and time, IST, like `2026-10-07 10:15:30`") from None
    return found.replace(tzinfo=IST) if found.tzinfo is None else found


def _print_evidence(broker: Broker, found: Dossier) -> None:
    """The order, its sends with their answers, and the books seen with their age."""
    from core.clock import utc_now

    order = found.order
    console.print(
        f"[bold]{order['side']} {order['quantity']} {show.text(order['instrument'])} {order['product']}[/] "
        f"{order['intent']} · {broker} · {show.text(order['instance'])} · [bold red]{order['status']}[/]"
    )
    console.print(f"  {show.text(order['reason'] or '')}", soft_wrap=True)
    for send in found.sends:
        console.print(
            f"  send {send['send_no']} tag {send['tag']} {send['state']} {send['quantity']} units, claimed "
            f"{show.ist(send['claimed_at'])} IST on {send['trading_day']}, broker order {send['broker_order_id'] or '–'}: "
            f"{show.text(send['answer'] or 'no answer')}",
            soft_wrap=True,
        )
    now = utc_now()
    for book in found.books:
        age = (now - book["requested_at"]).total_seconds()
        worth = "healthy" if book["healthy"] else f"does not count: {show.text(book['reason'] or '')}"
        console.print(
            f"  book of {book['trading_day']} read {age:,.0f} s ago, {book['rows']} rows, none with tag of send "
            f"{book['send_no']}: {worth}",
            soft_wrap=True,
        )
    if not found.books:
        console.print("  no book was read while it was in doubt")


def _typed_back(order_id: UUID, resolution: Resolution) -> None:
    typed = typer.prompt(f"{resolution}: type the order's id ({order_id}) to decide so")
    if typed.strip().lower() != str(order_id):
        raise CommandRefused("That is not the order's id: nothing was done.")
