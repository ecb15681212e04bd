"""What stands before every route: foreign Host headers and oversized bodies are refused, answers carry the headers a browser needs.

Reads a body into memory only up to its bound, and never longer than its time.
"""

from __future__ import annotations

import asyncio
import hashlib
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem
from api.requests import unstorable_text

MOST_BYTES = 256 * 1024
BODY_S = 10.0

_PAGES = ("/docs", "/redoc")
_STRICT = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_OWN_SCRIPTS = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


class KnownHosts:
    """Refuses requests whose Host header names another machine: a page elsewhere cannot reach us through DNS rebinding."""

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and _name(hosts[0]) in self._allowed:
            await self._app(scope, receive, send)
            return
        shown = ", ".join(hosts) or "none"
        answer = problem(400, f"Host {shown!r} is not one of ours: add it to API_ALLOWED_HOSTS if it should be.")
        await answer(scope, receive, send)


def _name(host: str) -> str:
    """The host without its port: `localhost:28000` → `localhost`, `[::1]:28000` → `::1`."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class Bounded:
    """Refuses bodies over MOST_BYTES (413), those that come too slowly (408), and addresses no database could keep (422)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        query = unquote(scope["query_string"].decode("latin-1").replace("+", " "), errors="replace")
        if unstorable_text(scope["path"]) or unstorable_text(query):
            await problem(422, "The address holds a NUL character: leave it out.")(scope, receive, send)
            return
        if scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_S):
                body = await _read(scope, receive)
        except TimeoutError:
            await problem(408, f"The body did not come within {BODY_S:.0f} s.")(scope, receive, send)
            return
        if body is None:
            await problem(413, f"The body is over {MOST_BYTES // 1024} KiB.")(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None where it is too large. What it says of its own length is believed only where that is too much."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if lengths and lengths[0].isdigit() and int(lengths[0]) > MOST_BYTES:
        return None
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""  # the client is gone: nobody hears the answer
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class Tagged:
    """Gives JSON answers of ours a tag (ETag), and says "not modified" to who has it already: polling costs a line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        known = [value for name, value in scope["headers"] if name == b"if-none-match"]
        started: Message | None = None
        parts: list[bytes] = []

        async def tag(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                kind = MutableHeaders(scope=message).get("content-type", "")
                if message["status"] != 200 or not kind.startswith("application/json"):
                    await send(message)
                else:
                    started = message
                return
            if started is None:
                await send(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._send(started, b"".join(parts), known, send)

        await self._app(scope, receive, tag)

    async def _send(self, started: Message, body: bytes, known: list[bytes], send: Send) -> None:
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = MutableHeaders(scope=started)
        headers["ETag"] = etag
        headers["Cache-Control"] = "private, no-cache"
        if any(etag.encode() in value for value in known):
            del headers["content-length"]
            started, body = {**started, "status": 304}, b""
        await send(started)
        await send({"type": "http.response.body", "body": body})


class SafeHeaders:
    """Headers that keep a browser from helping anybody else. A page that needs another policy sets its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _headers(path, scope.get("scheme", "http")):
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


def _headers(path: str, scheme: str) -> list[tuple[str, str]]:
    policy = _OWN_SCRIPTS if path.startswith(_PAGES) else _STRICT
    rows = [
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()"),
    ]
    if path.startswith("/api/"):
        rows.append(("Cache-Control", "no-store"))
    if scheme == "https":
        rows.append(("Strict-Transport-Security", "max-age=31536000"))
    return rows
