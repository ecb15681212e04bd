"""What every route shares: the parts of one sandbox, request helpers, and the one gate all requests pass.

The gate's hook sees each request before the sandbox does: that is where faults of answers are injected.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox import errors
from sandbox.board import Board
from sandbox.config import SandboxConfig
from sandbox.errors import KiteError
from sandbox.exchange import Exchange
from sandbox.fault_engine import FaultEngine
from sandbox.fault_orders import OrderFaults
from sandbox.fault_views import Views
from sandbox.limits import RateLimiter
from sandbox.sessions import Sessions
from sandbox.store import Store
from sandbox.ticker import TickerHub

log = logging.getLogger("sandbox")


class RequestHook(Protocol):
    """Sees every HTTP request and WebSocket handshake before the sandbox does.

    It may answer itself, call `go_on` at once, late, twice or never, wrap `send`, or drop the connection.
    """

    async def around(
        self, route: str, scope: Scope, receive: Receive, send: Send, go_on: Callable[[Receive, Send], Awaitable[None]]
    ) -> None: ...


class PassThrough:
    """The hook that does nothing."""

    async def around(
        self, route: str, scope: Scope, receive: Receive, send: Send, go_on: Callable[[Receive, Send], Awaitable[None]]
    ) -> None:
        await go_on(receive, send)


@dataclass
class Sandbox:
    """One running sandbox: its parts, wired in `server.build`."""

    config: SandboxConfig
    store: Store
    board: Board
    exchange: Exchange
    sessions: Sessions
    hub: TickerHub
    faults: FaultEngine
    order_faults: OrderFaults
    views: Views
    limiter: RateLimiter
    hook: RequestHook = field(default_factory=PassThrough)
    requests: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)


class Gate:
    """ASGI middleware: counts, limits (if strict), and hands every request to the hook."""

    def __init__(self, app: ASGIApp, sandbox: Sandbox) -> None:
        self._app = app
        self._sandbox = sandbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        route = route_name(scope)
        self._sandbox.requests[route] += 1
        refusal = self._refuse(route, scope)
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return

        async def go_on(receive: Receive, send: Send) -> None:
            await self._app(scope, receive, send)

        if route.startswith("admin."):
            await go_on(receive, send)
        else:
            await self._sandbox.hook.around(route, scope, receive, send, go_on)

    def _refuse(self, route: str, scope: Scope) -> KiteError | None:
        if scope["type"] != "http" or route.startswith(("admin.", "login")):
            return None
        kind = {"order.place": "order", "market.historical": "historical"}.get(route)
        kind = kind or ("quote" if route.startswith("market.quote") else "other")
        if not self._sandbox.limiter.allow(kind, time.time()):
            return errors.too_many_requests()
        limiter = self._sandbox.limiter
        if (
            kind == "order"
            and limiter.limits.strict
            and not limiter.allow_today(self._sandbox.exchange.count_request())
        ):
            return errors.too_many_orders()
        return None


def route_name(scope: Scope) -> str:
    """A stable name for a request, after the SDK's own route names: `order.place`, `market.quote.ltp`, `ticker`."""
    if scope["type"] == "websocket":
        return "ticker"
    parts = [part for part in scope["path"].removeprefix("/oms").split("/") if part]
    method = scope["method"]
    match parts:
        case ["admin", *rest]:
            return ".".join(["admin", *rest[:1]])
        case ["connect", "login"]:
            return "login"
        case ["session", "token"]:
            return "api.token.invalidate" if method == "DELETE" else "api.token"
        case ["orders"]:
            return "orders"
        case ["orders", _]:
            return "order.place" if method == "POST" else "order.info"
        case ["orders", _, "trades"]:
            return "order.trades"
        case ["orders", _, _]:
            return "order.cancel" if method == "DELETE" else "order.modify"
        case ["instruments", "historical", *_]:
            return "market.historical"
        case ["instruments", *_]:
            return "market.instruments"
        case ["quote", *rest]:
            return ".".join(["market.quote", *rest[:1]])
        case ["user", *rest]:
            return ".".join(["user", *rest[:1]])
        case ["portfolio", *rest]:
            return ".".join(["portfolio", *rest[:1]])
        case _:
            return ".".join(parts[:2]) or "root"


Handler = Callable[[Sandbox, Request], Awaitable[Response]]


def endpoint(handler: Handler, *, signed_in: bool = True) -> Callable[[Request], Awaitable[Response]]:
    """Wrap a handler: check the token, turn KiteError into Kite's envelope and a bug into its 500."""

    async def run(request: Request) -> Response:
        sandbox: Sandbox = request.app.state.sandbox
        try:
            if signed_in:
                require_token(sandbox, request)
            return await handler(sandbox, request)
        except KiteError as error:
            return error.response()
        except Exception:  # told whole here; whoever asked gets what Kite answers when it fails within itself
            log.exception("%s %s failed inside the sandbox", request.method, request.url.path)
            return KiteError(500, "GeneralException", "Internal error in the sandbox; see its log.").response()

    return run


def require_token(sandbox: Sandbox, request: Request) -> None:
    """`Authorization: token api_key:access_token`, or Kite's 403."""
    scheme, _, pair = request.headers.get("authorization", "").partition(" ")
    api_key, _, access_token = pair.partition(":")
    if scheme != "token" or not sandbox.sessions.check(api_key, access_token):
        raise errors.bad_token()


async def form(request: Request) -> dict[str, str]:
    """The urlencoded body; the last value of a repeated field wins."""
    body = (await request.body()).decode("utf-8", "replace")
    return {name: value.strip() for name, value in parse_qsl(body, keep_blank_values=True)}
