"""The paper exchange's tables over plain asyncpg: statements written once with SQLAlchemy, compiled once, run many times.

Building an order's INSERT anew for every order cost more than running it. Never retries anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from core.config import Settings
from core.errors import Transient
from core.routing import postgres_credentials
from core.storage.db import is_transient
from core.storage.statements import PART, Statement
from core.trading.types import Broker

CONNECT_S = 5.0
COMMAND_S = 15.0


def is_away(error: BaseException) -> bool:
    """The database is away, rather than that it refused what we asked.

    The driver's own confusion counts too: a connection cut in the middle of something refuses the next question that way.
    """
    return is_transient(error) or isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError)


def connect_options(settings: Settings) -> dict[str, Any]:
    """How the paper broker's own role connects."""
    user, password = postgres_credentials(settings, Broker.PAPER)
    return {
        "host": settings.postgres_host,
        "port": settings.postgres_port,
        "user": user,
        "password": password,
        "database": settings.postgres_database,
        "timeout": CONNECT_S,
        "command_timeout": COMMAND_S,
        "server_settings": {"application_name": "alpha-panda"},
    }


async def _as_it_is(_: Any) -> None:
    """Our statements leave nothing behind on a connection, so giving it back costs no round trip."""


class PaperDatabase:
    """A pool under the paper role. Connects only when asked for a connection."""

    def __init__(self, settings: Settings, *, connections: int) -> None:
        self._options = connect_options(settings)
        self._connections = connections
        self._pool: asyncpg.Pool | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection that was well when it was handed out. Raises what asyncpg raises."""
        if self._pool is None:
            self._pool = asyncpg.create_pool(min_size=0, max_size=self._connections, reset=_as_it_is, **self._options)
        await self._pool  # connects nothing, and does it once
        async with self._pool.acquire(timeout=CONNECT_S) as connection:
            yield connection

    async def fetch(self, what: str, statement: Statement, **values: Any) -> list[Any]:
        """Run one statement that commits by itself.

        Raises:
            Transient: the database is away.
        """
        async with transient(what), self.connection() as connection:
            rows: list[Any] = await connection.fetch(statement.text, *statement.arguments(values))
            return rows

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CONNECT_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()


@asynccontextmanager
async def transient(what: str) -> AsyncIterator[None]:
    """Turn "the database is away" into Transient naming `what` we were doing; let everything else through."""
    try:
        yield
    except Exception as error:
        if is_away(error):
            raise Transient(f"PostgreSQL is away while {what}: {type(error).__name__}", part=PART) from error
        raise
