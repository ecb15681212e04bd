"""`alpha-panda service NAME`: one process of ours, as the supervisor starts it. The table says which module it is."""

from __future__ import annotations

import importlib

import typer

from core.errors import StopTheStart

SHARED = {
    "sandbox": "cli.sandbox_service",
    "market-feed": "streams.market_feed",
    "strategy-runner": "streams.strategy_runner",
    "risk-manager": "streams.risk_manager",
    "order-gateway": "streams.order_gateway",
    "order-updates": "streams.order_updates",
    "paper-exchange": "streams.paper_exchange",
    "portfolio": "streams.portfolio",
    "order-views": "streams.order_views",
    "alert-sender": "streams.alert_sender",
    "api": "api.server",
}
"""Service → module with `async def main(context)`."""

PER_BROKER = {"orders": "activities.orders_worker", "broker": "activities.broker_worker"}
"""First word of the name → module; the context says which broker."""


def module_of(name: str) -> str:
    """The module that runs a service.

    Raises:
        StopTheStart: no such service.
    """
    module = SHARED.get(name) or PER_BROKER.get(name.split("-", 1)[0])
    if module is None:
        raise StopTheStart(
            f"No service {name!r}: there are {', '.join([*SHARED, *(f'{key}-BROKER' for key in PER_BROKER)])}."
        )
    return module


def register(app: typer.Typer) -> None:
    @app.command()
    def service(name: str = typer.Argument(help="A service's name, as `alpha-panda status` shows it.")) -> None:
        """Run one service in the foreground until SIGTERM (the supervisor calls this)."""
        from core import service as life

        module = module_of(name)
        life.prepare(name)
        life.run(name, importlib.import_module(module).main)
