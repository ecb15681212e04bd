"""What an order rests on, from the journal: what people asked of it, and the broker's books read while nobody knew. Judges nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from api.pages import formats, parts
from api.pages.parts import Column, Row, Table, cell, chip
from api.routers import order_commands
from api.routers.order_commands import Evidence
from control.connections import Connections
from core.errors import AlphaPandaError
from core.storage.commands import CommandOutcome, CommandRecord, commands_of
from core.trading.types import Broker

_COMMANDS = (
    Column("Asked"),
    Column("What"),
    Column("By"),
    Column("Why", "wide"),
    Column("Outcome"),
    Column("What is known", "wide"),
)
_BOOKS = (
    Column("Asked for"),
    Column("Send", "num"),
    Column("Orders in it", "num"),
    Column("Counts as evidence"),
    Column("Why not", "wide"),
)
_TONES = {CommandOutcome.APPLIED: "good", CommandOutcome.NOT_APPLIED: "bad"}


@dataclass(frozen=True, slots=True)
class Known:
    """`away`: why the journal could not be read just now."""

    evidence: Evidence | None = None
    commands: list[CommandRecord] = field(default_factory=list)
    away: str = ""


async def read(links: Connections, broker: Broker, order_id: UUID) -> Known:
    try:
        found = await order_commands.evidence(order_id, links)
        return Known(found, await commands_of(links.journal(broker), order_id))
    except AlphaPandaError as error:
        return Known(away=str(error))


class EvidenceCards:
    """Two cards of an order's page."""

    def __init__(self) -> None:
        with parts.card("Asked by people and programs"):
            self._away = parts.text("", "p", "wrong")
            self._commands = Table("Commands", _COMMANDS, empty="Nobody asked to cancel, modify or resolve it.")
        with parts.card("Evidence: books read while its end was not known"):
            self._books = Table("Books", _BOOKS, empty="None was needed: the broker answered each send.")

    def show(self, known: Known) -> None:
        parts.put(self._away, f"The journal cannot be read: {known.away}" if known.away else "")
        if known.evidence is None:
            return
        self._commands.show([_command(one) for one in known.commands])
        self._books.show([_book(row) for row in known.evidence.books])


def _command(one: CommandRecord) -> Row:
    what = ", ".join(f"{formats.words(name)} {value}" for name, value in one.parameters.items())
    outcome = one.outcome.value if one.outcome else "goes on"
    return Row(
        str(one.request_id),
        (
            parts.when(one.created_at),
            cell(one.kind.lower(), more=what),
            cell(one.requested_by),
            cell(one.reason),
            chip(outcome.replace("_", " ").lower(), _TONES.get(one.outcome, "plain") if one.outcome else "warn"),
            cell(one.evidence or formats.NONE),
        ),
    )


def _book(row: dict[str, Any]) -> Row:
    return Row(
        f"{row['send_no']} {row['requested_at']}",
        (
            parts.when(row["requested_at"]),
            parts.count(row["send_no"]),
            parts.count(row["rows"]),
            chip("yes", "good") if row["healthy"] else chip("no", "warn"),
            cell(row["reason"] or formats.NONE),
        ),
    )


def in_words(found: Evidence) -> list[str]:
    """For whoever must decide the order."""
    lines = [f"The journal says {found.order['status']}: {found.order.get('reason') or 'no reason kept'}."]
    for send in found.sends:
        lines.append(f"Send {send['send_no']}: {send['state']}, answer: {send.get('answer') or 'none'}.")
    counting = sum(bool(row["healthy"]) for row in found.books)
    return [*lines, f"Books of the broker read since: {len(found.books)}, of which {counting} count as evidence."]
