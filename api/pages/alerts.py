"""What a person should know: alerts as they come, each with what to do about it."""

from __future__ import annotations

import json
from typing import Any

from nicegui.element import Element

from api.hub import Event
from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.parts import Column, Row, Table, cell, chip

SHOWN = 200

_COLUMNS = (
    Column("When"),
    Column("Kind"),
    Column("About"),
    Column("What happened", "wide"),
    Column("What to do", "wide"),
)


async def build(desk: Desk) -> None:
    newest: list[list[Event]] = [[]]

    def put() -> None:
        wanted = str(kind.value).strip().lower()
        rows = [_row(event, json.loads(event.data)["data"]) for event in newest[0]]
        table.show([row for row in rows if wanted in str(row.cells[1]["text"]).lower()][:SHOWN])

    kind = Field("kind", "Kind", placeholder="any")
    with Element("section").classes("card").props('aria-label="Alerts"'):
        with Element("div").classes("filters"):
            kind.build(put)
        away = parts.text("", "p", "wrong")
        table = Table(
            "Alerts", _COLUMNS, empty="No alert. They come here, newest first, and to the channels set up for them."
        )

    def show(seen: Seen) -> None:
        parts.put(away, seen.away)
        newest[0] = seen.value or []
        put()

    await desk.follow("alerts", show)


def _row(event: Event, data: dict[str, Any]) -> Row:
    more = ", ".join(f"{name} {value}" for name, value in (data.get("details") or {}).items())
    return Row(
        event.event_id,
        (
            parts.when(event.at),
            chip(formats.words(data["kind"])),
            cell(data["subject"]),
            cell(data["message"], more=more),
            cell(data["action"]),
        ),
    )


PAGE = Page("/alerts", "Alerts", build)
