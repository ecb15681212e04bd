"""Who did what, before, after, from where and why. Read only, for traders and admins: nothing here can be changed by anybody."""

from __future__ import annotations

import json
from typing import Any

from nicegui.element import Element

from api.auth import Needs
from api.pages import parts
from api.pages.desk import Desk
from api.pages.dialogs import Field
from api.pages.page import Page
from api.pages.parts import Column, Row, Table, cell
from api.routers import people
from core.people.roles import Role, Scope

SHOWN = 50

_COLUMNS = (
    Column("When"),
    Column("Who"),
    Column("Did"),
    Column("To what"),
    Column("Change", "wide"),
    Column("Why", "wide"),
)


async def build(desk: Desk) -> None:
    who = Field("who", "Who", placeholder="anybody")
    action = Field("action", "Did", placeholder="kill.  or  strategy.pause")
    subject = Field("subject", "To what", placeholder="anything")
    cursors: list[str | None] = [None]
    following: list[str | None] = [None]

    async def load() -> None:
        page = await people.read_audit(
            desk.room.links,
            actor=str(who.value).strip() or None,
            action=str(action.value).strip() or None,
            subject=str(subject.value).strip() or None,
            cursor=cursors[-1],
            limit=SHOWN,
        )
        following[0] = page.next
        table.show([_row(one) for one in page.entries])
        parts.offer(newer, len(cursors) > 1)
        parts.offer(older, page.next is not None)

    def again() -> None:
        cursors[:] = [None]
        ask[0]()

    def go_newer() -> None:
        if len(cursors) > 1:
            cursors.pop()
            ask[0]()

    def go_older() -> None:
        if following[0]:
            cursors.append(following[0])
            ask[0]()

    with Element("section").classes("card").props('aria-label="Audit"'):
        with Element("div").classes("filters"):
            for each in (who, action, subject):
                each.build(again)
        table = Table("Audit", _COLUMNS, empty="Nothing fits. Every login, command and change is written here.")
        with Element("div").classes("choices"):
            newer = parts.button("Newer", go_newer, "small hidden")
            older = parts.button("Older", go_older, "small hidden")
    ask = [await desk.refresh("audit", load)]


def _row(one: people.AuditEntry) -> Row:
    return Row(
        str(one.audit_id),
        (
            parts.when(one.at),
            cell(one.actor, more=f"{one.via} from {one.origin}"),
            cell(one.action, more="asked" if one.outcome == "asked" else ""),
            cell(one.subject),
            cell(_change(one.before, one.after)),
            cell(one.reason),
        ),
    )


def _change(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    names = sorted(set(before or {}) | set(after or {}))
    return "; ".join(f"{name}: {_side(before, name)} → {_side(after, name)}" for name in names)


def _side(side: dict[str, Any] | None, name: str) -> str:
    if side is None or name not in side:
        return "none"
    value = side[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


PAGE = Page("/audit", "Audit", build, needs=Needs(Role.TRADER, Scope.PEOPLE, person=False))
