"""What stands around every page: the banner that says what is real and whether all is well, the menu, who is logged in.

The banner is the same on every page, so that nobody acts somewhere without seeing it.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.element import Element

from api.models import Part
from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.guard import ROOM
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.target import banner
from core.errors import NotAllowed

STATIC = Path(__file__).parent / "static"
_VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(STATIC.iterdir()))).hexdigest()[:12]

_HEAD = f"""<link rel="stylesheet" href="{ROOM}/static/room.css?v={_VERSION}">
<script src="{ROOM}/static/room.js?v={_VERSION}" defer></script>"""


async def frame(desk: Desk, page: Page) -> AbstractContextManager[Any]:
    """Builds it and returns the page's main part to build into."""
    from api.pages.catalogue import PAGES  # the pages are listed there, and each stands in this frame

    ui.add_head_html(_HEAD)
    ui.add_body_html('<a class="skip" href="#main">To the page</a>')
    client = desk.client
    with Element("header").classes("banner") as head:
        await _banner(desk)
    head.move(client.layout, target_index=0)
    with Element("nav").props('aria-label="Pages"').classes("menu") as menu:
        for each in PAGES:
            if each.listed and _may(desk, each):
                made = parts.link(each.title, ROOM + each.path)
                if each is page:
                    made.props["aria-current"] = "page"
    menu.move(client.page_container, target_index=0)
    client.page_container.classes("room")
    body = Element("div").classes("page").props('id="main" tabindex="-1"')
    with body:
        parts.text(page.title, "h1")
        told = parts.text("", "p", "wrong")
        told.props["role"] = "status"

    def trouble(words: str) -> None:
        parts.put(told, words)
        parts.old(body, bool(words))

    desk.on_trouble = trouble
    return body


def _may(desk: Desk, page: Page) -> bool:
    try:
        page.needs.check(desk.actor)
    except NotAllowed:
        return False
    return True


async def _banner(desk: Desk) -> None:
    shown = banner(desk.room.settings)
    parts.link("Alpha Panda", f"{ROOM}/", "brand")
    target = parts.text(shown.word, "span", f"chip big target-{shown.kind}")
    target.props["title"] = shown.text
    ready = parts.link("…", f"{ROOM}/#parts", "chip big")
    kill = parts.link("", f"{ROOM}/#kill", "chip big bad hidden")
    with Element("span").classes("day"):
        parts.text("Net today", "span", "name")
        pnl = parts.text(formats.NONE, "strong")
    with Element("span").classes("person"):
        parts.text(f"{desk.actor.name} · {desk.actor.role}", "span", "name")
        parts.button("◐", lambda: desk.client.run_javascript("roomTurnColours()"), "small", aria="Dark or light")
        parts.button("Log out", lambda: desk.client.run_javascript("roomLogout()"), "small")

    def show_parts(seen: Seen) -> None:
        rows: tuple[Part, ...] = seen.value or ()
        bad = [part for part in rows if not part.ready]
        words = "READY" if not bad else f"NOT READY: {', '.join(part.name for part in bad[:3])}"
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        parts.hint(ready, "\n".join(f"{part.name}: {part.reason}" for part in bad) or "Every part answers")
        parts.put(ready, words + more, f"chip big {'bad' if bad else 'good'}")

    def show_kill(seen: Seen) -> None:
        if seen.value is None:
            return
        whole = [row.broker for row in seen.value.brokers if row.account_flag is not None]
        some = sorted({name for row in seen.value.brokers for name in row.strategy_flags})
        words = f"KILL SWITCH: {', '.join([*whole, *some])}" if whole or some else ""
        parts.put(kill, words, f"chip big bad {'' if words else 'hidden'}".strip())

    def show_pnl(seen: Seen) -> None:
        if seen.value is None:
            parts.put(pnl, "not known", "")
            return
        brokers = seen.value.brokers
        parts.put(pnl, "  ".join(f"{row.broker} {formats.gain(row.total.day_net_pnl)}" for row in brokers))

    await desk.follow("sessions", lambda _: None)
    await desk.follow("parts", show_parts)
    await desk.follow("kill", show_kill)
    await desk.follow("pnl", show_pnl)
