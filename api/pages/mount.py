"""Puts the dashboard onto the API's app: NiceGUI under /room behind the guard, the pages, and what they share.

A process may make the app again (tests do): the pages then belong to the newest.
"""

from __future__ import annotations

from fastapi import FastAPI
from nicegui import Client, ui
from nicegui import app as nicegui_app
from starlette.requests import Request

from api.hub import EventHub
from api.pages import catalogue, login
from api.pages.chart_bars import ChartBars
from api.pages.desk import Desk, Room, end_what_is_over
from api.pages.facts import Facts
from api.pages.frame import STATIC, frame
from api.pages.guard import ROOM, Guard
from api.pages.live import Live, Source
from api.pages.page import Page
from api.probes import Prober
from api.reads import Reads
from control.connections import Connections
from core.config import Settings

SESSIONS_S = 10.0
"""How often open pages are asked whether their session still goes on; every act asks anyway."""
BUILT_WITHIN_S = 15.0
"""A page waits for its first figures; a part that is away says so within seconds."""


def mount(app: FastAPI, settings: Settings, reads: Reads, links: Connections, prober: Prober, hub: EventHub) -> Live:
    """After all routes of the API. Close what it returns before the connections."""
    facts = Facts(settings, reads, links, prober)

    async def still_in() -> None:
        await end_what_is_over(room)

    live = Live(hub, facts.sources() | {"sessions": Source(still_in, (), SESSIONS_S)}, facts.rest)
    room = Room(settings, reads, links, prober, hub, live, ChartBars(settings, links))
    app.include_router(login.router)
    _begin_anew()
    state = nicegui_app.state
    state.settings, state.reads, state.room = settings, reads, room  # what api.auth asks of an app, and the pages
    ui.run_with(
        app,
        mount_path=ROOM,
        title="Alpha Panda",
        favicon=STATIC / "icon.svg",
        dark=None,
        language="en-US",
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=10.0,
        show_welcome_message=False,
        gzip_middleware_factory=None,
    )
    nicegui_app.add_middleware(Guard)
    app.state.own_guards = frozenset({ROOM})
    return live


def _begin_anew() -> None:
    """Forget what an app made before in this process left in NiceGUI's own."""
    if nicegui_app.middleware_stack is not None:
        nicegui_app.middleware_stack = None
        nicegui_app.user_middleware.clear()
        for client in list(Client.instances.values()):
            client.delete()


def _register(page: Page) -> None:
    @ui.page(page.path, title=f"{page.title} · Alpha Panda", response_timeout=BUILT_WITHIN_S)
    async def shown(request: Request) -> None:
        room: Room = nicegui_app.state.room
        desk = Desk(room, request.state.actor, request, ui.context.client)
        with await frame(desk, page):
            await page.show(desk)


nicegui_app.config.socket_io_js_transports = ["websocket"]
nicegui_app.add_static_files("/static", STATIC)
for each in catalogue.PAGES:
    _register(each)
