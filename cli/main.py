"""The `alpha-panda` command: one module a group of commands, each with `register(app)`, listed here by hand.

Imports nothing heavy: commands import what they need when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys

import typer

from cli import (
    act,
    alerts,
    backup,
    dlq,
    flatten,
    kill,
    login,
    orders,
    portfolio,
    provision,
    reads,
    rebuild_log,
    reconcile,
    remote,
    sandbox,
    service,
    setup,
    stack,
    status,
    strategies,
    users,
)
from core.errors import AlphaPandaError

app = typer.Typer(
    name="alpha-panda",
    help="Algorithmic trading for your own Zerodha account: paper first, every order durable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MODULES = (
    stack,
    status,
    login,
    setup,
    provision,
    service,
    orders,
    act,
    portfolio,
    strategies,
    reads,
    reconcile,
    rebuild_log,
    dlq,
    alerts,
    kill,
    flatten,
    users,
    backup,
    sandbox,
)

REMOTE = frozenset(
    {"orders", "order", "positions", "pnl", "strategies", "topics", "reconcile", "cancel", "modify", "resolve"}
    | {"kill", "dlq", "alerts"}
)
"""Commands that may ask a control room elsewhere."""


@app.callback()
def everywhere(
    context: typer.Context,
    url: str = typer.Option(
        "", envvar="ALPHA_PANDA_URL", help="Ask the control room at this address, not this machine."
    ),
    token: str = typer.Option("", envvar="ALPHA_PANDA_TOKEN", help="An API key for it; better in the environment."),
) -> None:
    """Algorithmic trading for your own Zerodha account: paper first, every order durable."""
    remote.use(url, token)
    if context.invoked_subcommand not in REMOTE:
        remote.refuse(f"`{context.invoked_subcommand}`")


for module in MODULES:
    module.register(app)


def main() -> None:
    """Run a command. What we know to go wrong is one clear message and exit code 1, never a traceback."""
    try:
        app()
    except AlphaPandaError as error:
        print(error, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the Temporal SDK may crash an interpreter that ends the usual way after an error


if __name__ == "__main__":
    main()
