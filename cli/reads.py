"""`alpha-panda strategies` and `alpha-panda topics`: what is configured and runs, and how the log stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli import show
from cli.progress import console

if TYPE_CHECKING:
    from api.models import StrategyList, TopicStatus


def register(app: typer.Typer) -> None:
    @app.command()
    def strategies(as_json: bool = typer.Option(False, "--json", help="A JSON list instead of a table.")) -> None:
        """List strategies with their instances: what trades, and why the rest does not."""
        found = show.reading(lambda reads: reads.strategies())
        if as_json:
            show.print_json(found.strategies)
        else:
            _print_strategies(found)

    @app.command()
    def topics(as_json: bool = typer.Option(False, "--json", help="A JSON list instead of a table.")) -> None:
        """List the log's topics: partitions, end, lag of each reader, dead letters."""
        found = show.reading(lambda reads: reads.topics())
        if as_json:
            show.print_json(found)
        else:
            _print_topics(found)


def _print_strategies(found: StrategyList) -> None:
    shown = show.table(
        ("instance", "left"), ("class", "left"), ("instruments", "fold"), ("target", "left"), ("trades", "left"),
        ("state", "left"), ("why", "fold"),
    )  # fmt: skip
    for row in found.strategies:
        for one in row.instances:
            why = one.reason or str(one.runtime.get("reason", ""))
            shown.add_row(
                show.text(one.instance),
                show.text(row.class_name),
                show.text(", ".join(row.instruments)),
                one.target,
                "[green]yes[/]" if one.active else "no",
                f"[red]{one.state}[/]" if one.state == "failed" else one.state,
                show.text(why),
            )
    show.put(shown if found.strategies else "No strategies are configured.")
    if found.runtime != "known":
        console.print(f"[yellow]The runtime states are not known[/]: {show.text(found.runtime)}")
    if found.simulated:
        console.print(show.SIMULATED)


def _print_topics(found: list[TopicStatus]) -> None:
    shown = show.table(
        ("topic", "left"), ("partitions", "right"), ("end", "right"), ("lag", "fold"), ("dead letters", "right")
    )
    for row in found:
        behind = ", ".join(f"{group.removeprefix('alpha-panda.')} {count}" for group, count in sorted(row.lag.items()))
        dead = "–" if row.dlq is None else f"[red]{row.dlq}[/]" if row.dlq else "0"
        shown.add_row(show.text(row.topic), str(row.partitions), str(row.end_offset), behind or "–", dead)
    show.put(shown)
