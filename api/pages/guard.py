"""Who may see the pages: the API's own session check before every page and every WebSocket of the dashboard, in this one place.

Never lets a socket in that another site's page opened, and tells nobody without a session anything but where to log in.
"""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import actor_of
from core.errors import NotLoggedIn, Transient

ROOM = "/room"
LOGIN = "/login"

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""NiceGUI writes scripts into its pages and compiles templates in the browser: both exceptions are for it. No other host is reached."""

_OPEN = ("/_nicegui/", "/static/", "/favicon.ico")
"""Libraries, styles and icons: the same for everybody, with nothing of this deployment in them."""

_AWAY = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<meta name="viewport" content="width=device-width"><title>Not ready · Alpha Panda</title>
<link rel="stylesheet" href="/room/static/room.css"><body class="plain"><main><h1>Not ready</h1>
<p>The control room cannot ask who you are: {why}</p><p>This page tries again every 3 seconds. Trading does not need it.</p></main>"""


class Guard:
    """Around the dashboard's app. What it lets in finds who asks in `scope["state"]["actor"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] == "websocket" and not _ours(connection):
            await send({"type": "websocket.close", "code": 4403})
            return
        if not path.startswith(_OPEN):
            try:
                actor = await actor_of(connection)
            except NotLoggedIn:
                await _refuse(scope, receive, send, _to_login(connection))
                return
            except Transient as error:
                await _refuse(scope, receive, send, HTMLResponse(_AWAY.format(why=escape(str(error))), 503))
                return
            scope.setdefault("state", {})["actor"] = actor
        await self._app(scope, receive, _with_policy(send))


def _ours(connection: HTTPConnection) -> bool:
    origin, host = connection.headers.get("origin"), connection.headers.get("host", "")
    return origin in {f"http://{host}", f"https://{host}"}


def _to_login(connection: HTTPConnection) -> Response:
    wanted = connection.url.path + (f"?{connection.url.query}" if connection.url.query else "")
    return RedirectResponse(f"{LOGIN}?next={quote(wanted)}", 303, headers={"Cache-Control": "no-store"})


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4401})
        return
    answer.headers["Content-Security-Policy"] = POLICY
    await answer(scope, receive, send)


def _with_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
        await send(message)

    return sending
