"""`alpha-panda flatten --direct`: the last resort, with Zerodha and its session file alone. Acts only after the user id was typed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from cli import show
from cli.progress import console
from core.errors import StopTheStart
from core.trading.types import Broker

if TYPE_CHECKING:
    from core.config import Settings
    from core.flatten import Seen

HELP = """Cancel every working order and close every position of the account: yours, ours, all.

The last resort, for when the stack is down: it needs only Zerodha and the session file, no Kafka, PostgreSQL or Temporal. With the stack
up use `alpha-panda kill on`, and stop our services first (`make down`), or a running strategy may enter again at once.

It is the one exception to the claim: these sends are not claimed in the journal. Instead each is written to var/flatten/*.jsonl, with a tag
of its own, and is on disk before it leaves. No line is ever sent again: run it again after a crash, and it first looks for those tags in
the order book. Reconciliation books them from that file when the stack is up again.

Lists first, and acts only after you typed the account's user id. Holdings are not touched.
"""


def register(app: typer.Typer) -> None:
    @app.command(help=HELP)
    def flatten(
        direct: bool = typer.Option(
            False, "--direct", help="Without the journal. There is no other way yet, so say it."
        ),
        broker: Broker = typer.Option(Broker.ZERODHA, help="zerodha; paper has no account to flatten this way."),
    ) -> None:
        if not direct:
            raise StopTheStart(
                "Say --direct: it acts without the journal. With the stack up, use `alpha-panda kill on`."
            )
        if broker is not Broker.ZERODHA:
            raise StopTheStart(
                f"{broker} has no flatten --direct: its exchange is our own, in PostgreSQL. Use `alpha-panda kill on --broker "
                f"{broker}`."
            )
        from core.config import load_settings

        seen = asyncio.run(_run(load_settings()))
        if not seen:
            raise typer.Exit(1)


async def _run(settings: Settings) -> bool:
    from core import failpoints
    from core.brokers.zerodha import ZerodhaTrader
    from core.flatten import Flatten
    from core.flatten_file import FlattenFile
    from core.trading.durations import OrderDurations

    failpoints.arm(settings, "flatten")
    trader = ZerodhaTrader(settings)
    try:
        account = await trader.account()
        if account != settings.kite_user_id:
            raise StopTheStart(
                f"The session is of {account}, KITE_USER_ID is {settings.kite_user_id}: log in as the latter."
            )
        with FlattenFile(settings.var, account, settings.kite_target.value) as file:
            durations = OrderDurations().scaled(settings.duration_factor)
            work = Flatten(trader, file, _say, durations)
            before = await work.see()
            open_ = [send for send in file.sends() if send.is_open]
            _print(before, settings)
            for send in open_:
                line = send.line
                console.print(
                    f"  an earlier run sent {line.side} {line.quantity} {line.tradingsymbol} ({line.tag}): no end known"
                )
            if before.is_flat and not open_:
                console.print("[green]Nothing to do[/green]: no working order, no position.")
                return not before.odd
            if typer.prompt(f"Cancel and close all of it: type the user id {account}") != account:
                raise StopTheStart("Something else was typed: nothing was done.")
            after = await work.run()
            console.print(f"Kept in {file.path}", soft_wrap=True)
            return _report(after, list(work.troubles))
    finally:
        await trader.close()


def _say(words: str) -> None:
    console.print(f"  {show.text(words)}", soft_wrap=True)


def _print(seen: Seen, settings: Settings) -> None:
    from core.flatten import told

    console.print(f"Account [bold]{seen.account}[/bold] at {settings.kite_target}")
    if settings.simulated:
        console.print(show.SIMULATED)
    for row in seen.working:
        tag = f", tag {', '.join(row.tags)}" if row.tags else ""
        console.print(f"  order {told(row)} {row.status} ({row.broker_order_id}{show.text(tag)})", soft_wrap=True)
    for position in seen.positions:
        console.print(
            f"  position {position.quantity:+d} {position.exchange}:{position.tradingsymbol} {position.product} at "
            f"{show.rupees(position.average_price)}"
        )
    for words in seen.odd:
        console.print(
            f"  [yellow]{show.text(words)}[/yellow]: not something we trade, close it in Kite", soft_wrap=True
        )


def _report(after: Seen, troubles: list[str]) -> bool:
    """What is left. True when the account is flat."""
    if after.is_flat and not after.odd:
        console.print(f"[green]✓ {after.account} is flat[/green]: no working order, no position.")
        return True
    console.print(f"[red]✗ {after.account} is not flat[/red]; run it again, nothing is repeated. What is left:")
    for words in troubles:
        console.print(f"  {show.text(words)}", soft_wrap=True)
    for row in after.working:
        console.print(f"  order {row.broker_order_id} {row.tradingsymbol} {row.status}")
    for position in after.positions:
        console.print(f"  position {position.quantity:+d} {position.tradingsymbol} {position.product}")
    for words in after.odd:
        console.print(f"  {show.text(words)}: close it in Kite", soft_wrap=True)
    return False
