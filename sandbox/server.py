"""One sandbox process: builds the parts, serves REST and WebSocket on one port, keeps time, stops cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandbox import admin, admin_faults, auth, errors, rest_market, rest_orders, rest_portfolio
from sandbox.app import Gate, Sandbox
from sandbox.board import Board
from sandbox.config import SandboxConfig
from sandbox.errors import SandboxStartError
from sandbox.exchange import Exchange, Listener
from sandbox.fault_answers import AnswerFaults
from sandbox.fault_engine import FaultEngine
from sandbox.fault_orders import OrderFaults
from sandbox.fault_sockets import SocketFaults
from sandbox.fault_updates import UpdateFaults
from sandbox.fault_views import Views
from sandbox.faults import Channel, load
from sandbox.limits import Limits, RateLimiter
from sandbox.orders import API, Order
from sandbox.portfolio import Portfolio
from sandbox.postback import Postbacks
from sandbox.sessions import Sessions
from sandbox.store import Store
from sandbox.ticker import TickerHub
from sandbox.wire import now, trading_day

log = logging.getLogger("sandbox")
_HOUSEKEEPING = 1.0
_GRACE = 2


async def serve(config: SandboxConfig) -> None:
    """Run until SIGTERM or SIGINT (or cancellation), then flush and return within five seconds.

    Raises:
        SandboxStartError: the port is taken, another sandbox holds the data folder, or the scenario cannot be used.
    """
    listener = _bind(config)
    store = Store(config.data_dir)
    try:
        sandbox, postbacks = build(config, store)
        server = _Server(
            uvicorn.Config(
                create_app(sandbox), log_config=None, access_log=False, lifespan="off", ws_ping_interval=None,
                ws_per_message_deflate=False, http=_Connection, timeout_graceful_shutdown=_GRACE, timeout_keep_alive=60, backlog=512,
            )
        )  # fmt: skip
        sandbox.order_faults.resume()
        sandbox.exchange.resume()
        jobs = [sandbox.hub.run(), postbacks.run(), _keep_house(sandbox)]
        tasks = [asyncio.create_task(_guard(job, server)) for job in jobs]
        log.info("Kite sandbox (simulated prices) on http://%s:%d", *listener.getsockname()[:2])
        try:
            with _stops_on_signal(server):
                await server.serve(sockets=[listener])
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            sandbox.exchange.halt()
            sandbox.board.flush()
            sandbox.faults.flush()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    finally:
        listener.close()
        store.close()


def build(config: SandboxConfig, store: Store) -> tuple[Sandbox, Postbacks]:
    """Wire the parts from what the store remembers; a day that ended meanwhile is rolled first."""
    today = trading_day(now())
    stored = store.get("day")
    day = date.fromisoformat(stored) if stored else today
    store.put("day", day.isoformat())
    board = Board(config, store, day, now())
    portfolio = Portfolio(board.market, config.opening_cash)
    exchange = Exchange(config, store, board, portfolio, day)
    if today > day:
        exchange.roll_day(today)
    sessions = Sessions(config, store)
    engine = FaultEngine(store, config.seed)
    if config.scenario is not None:
        engine.add(load(config.scenario), keep=True)
    exchange.faults = order_faults = OrderFaults(engine, exchange, board, store)
    hub = TickerHub(config, board, exchange, sessions, SocketFaults(engine))
    postbacks = Postbacks(config)
    exchange.listen(_teller(engine, hub, postbacks))
    sessions.on_end(hub.end_session)
    limits = Limits(config.strict_limits, config.orders_per_second, config.orders_per_minute, config.orders_per_day)
    sandbox = Sandbox(
        config, store, board, exchange, sessions, hub, engine, order_faults,
        Views(engine, order_faults, exchange, store), RateLimiter(limits), AnswerFaults(engine, exchange, sessions),
    )  # fmt: skip
    return sandbox, postbacks


def _teller(engine: FaultEngine, hub: TickerHub, postbacks: Postbacks) -> Listener:
    """Sends an order's update on both channels, each through its faults. Its content is that of this moment."""
    frames, posts = UpdateFaults(engine, Channel.FRAME), UpdateFaults(engine, Channel.POSTBACK)

    def tell(order: Order, status: str) -> None:
        if hub.connections:
            frames.send(order, partial(hub.send_text, hub.order_frame(order, status)))
        if postbacks.wanted and order.source == API:  # postbacks are for orders of the app's own key
            posts.send(order, partial(postbacks.send, postbacks.body(order, status)))

    return tell


def create_app(sandbox: Sandbox) -> Starlette:
    """The ASGI app; Kite's routes also answer under /oms, as Zerodha's own sandbox has them."""
    kite = [*auth.api_routes, *rest_orders.routes, *rest_portfolio.routes, *rest_market.routes]

    async def ticker(websocket: WebSocket) -> None:
        await sandbox.hub.serve(websocket)

    async def http_error(request: Request, error: Exception) -> Response:
        wrong_method = isinstance(error, HTTPException) and error.status_code == 405
        return (errors.method_not_allowed() if wrong_method else errors.no_route()).response()

    app = Starlette(
        routes=[
            *kite,
            *auth.routes,
            *admin.routes,
            *admin_faults.routes,
            Mount("/oms", routes=kite),
            WebSocketRoute("/", ticker),
        ],
        middleware=[Middleware(Gate, sandbox=sandbox)],
        exception_handlers={HTTPException: http_error},
    )
    app.state.sandbox = sandbox
    return app


class _Connection(HttpToolsProtocol):
    """Puts its transport into each request's state, for faults that reset the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class _Server(uvicorn.Server):
    """uvicorn re-raises the signal that stopped it; we stop by our own handlers and return instead."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _stops_on_signal(server: uvicorn.Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _guard(job: Coroutine[Any, Any, None], server: uvicorn.Server) -> None:
    """A background job that fails takes the server down: a sandbox that only half works would lie."""
    try:
        await job
    except Exception:
        log.exception("a background job of the sandbox failed; stopping")
        server.should_exit = True
        raise


async def _keep_house(sandbox: Sandbox) -> None:
    """Once a second: prices to disk, 06:00 IST for the token and the day."""
    while True:
        await asyncio.sleep(_HOUSEKEEPING)
        sandbox.board.flush()
        sandbox.faults.flush()
        sandbox.sessions.expire_if_due()
        today = trading_day(now())
        if today > sandbox.exchange.day:
            sandbox.exchange.roll_day(today)


def _bind(config: SandboxConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio switches Nagle's delay off only where the protocol is named; without it every answer takes 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise SandboxStartError(
            f"{config.host}:{config.port} is taken ({error.strerror}): stop what listens there, or set SANDBOX_PORT."
        ) from error
    return listener
