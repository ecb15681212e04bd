"""Serves the API inside the service runner: one uvicorn server on loopback, stopped by the runner's own signal handling."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn

from api.app import create_app
from api.wire import BoundedHead
from core.config import Settings
from core.errors import StopTheStart
from core.service import ServiceContext

GRACE_S = 3
"""How long open requests may take to end after the stop."""


class NoQueries(logging.Filter):
    """Uvicorn's lines about a WebSocket or a request hold the whole address: what stands behind its `?` may be a secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_path(each) if isinstance(each, str) else each for each in record.args)
        return True


def _path(text: str) -> str:
    return text.partition("?")[0]


NO_QUERIES = NoQueries()


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers (the runner has them), saying when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def main(ctx: ServiceContext) -> None:
    """Serve until the stop.

    Raises:
        StopTheStart: the port is taken.
    """
    listener = _listen(ctx.settings)
    for name in ("uvicorn.error", "uvicorn.access"):  # the second is off, unless somebody turns it on
        logging.getLogger(name).addFilter(NO_QUERIES)
    config = uvicorn.Config(
        create_app(ctx.settings),
        http=BoundedHead,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="on",
    )
    server = _Server(config, ctx.health.started)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
    stopping = asyncio.create_task(ctx.stop.wait(), name="stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stopping.cancel()
        listener.close()


def _listen(settings: Settings) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.api_host, settings.api_port))
    except OSError as error:
        listener.close()
        raise StopTheStart(
            f"The API cannot listen on {settings.api_host}:{settings.api_port}: {error.strerror}. "
            "Free the port, or set another API_PORT in .env."
        ) from error
    return listener
