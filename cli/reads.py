"""`alpha-panda topics`: how the log stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli import show

if TYPE_CHECKING:
    from api.models import TopicStatus


def register(app: typer.Typer) -> None:
    @app.command()
    def topics(as_json: bool = typer.Option(False, "--json", help="A JSON list instead of a table.")) -> None:
        """List the log's topics: partitions, end, lag of each reader, dead letters."""
        found = show.reading(lambda reads: reads.topics())
        if as_json:
            show.print_json(found)
        else:
            _print_topics(found)


def _print_topics(found: list[TopicStatus]) -> None:
    shown = show.table(
        ("topic", "left"), ("partitions", "right"), ("end", "right"), ("lag", "fold"), ("dead letters", "right")
    )
    for row in found:
        behind = ", ".join(f"{group.removeprefix('alpha-panda.')} {count}" for group, count in sorted(row.lag.items()))
        dead = "–" if row.dlq is None else f"[red]{row.dlq}[/]" if row.dlq else "0"
        shown.add_row(show.text(row.topic), str(row.partitions), str(row.end_offset), behind or "–", dead)
    show.put(shown)
