"""Who did what, before, after, from where and why. Read only, for traders and admins: nothing here can be changed by anybody."""

from __future__ import annotations

import json
from typing import Any

from api.auth import Needs
from api.pages import parts
from api.pages.desk import Desk
from api.pages.dialogs import Field
from api.pages.listing import SHOWN, Listed, Listing, text_of
from api.pages.page import Page
from api.pages.parts import Column, Row, cell
from api.routers import people
from core.people.roles import Role, Scope

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

    async def read(cursor: str | None) -> Listed:
        page = await people.read_audit(
            desk.room.links,
            actor=text_of(who),
            action=text_of(action),
            subject=text_of(subject),
            cursor=cursor,
            limit=SHOWN,
        )
        empty = "Nothing fits. Every login, command and change is written here."
        return Listed([_row(one) for one in page.entries], page.next, empty)

    await Listing("Audit", _COLUMNS, (who, action, subject), read).follow(desk, "audit")


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
