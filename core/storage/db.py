"""Engines: one per (role, schema). A broker's engine sees that broker's schema alone; the role's grants hold it to that.

Database trouble that waiting can mend surfaces as errors.Transient through `transient()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from core.config import Settings
from core.errors import Transient
from core.routing import JOURNAL, postgres_credentials, schema
from core.trading.types import Broker


def admin_url(settings: Settings, database: str | None = None) -> URL:
    return _url(settings, "postgres", settings.postgres_admin_password.get_secret_value(), database)


def _url(settings: Settings, user: str, password: str, database: str | None = None) -> URL:
    return URL.create(
        "postgresql+asyncpg",
        username=user,
        password=password,
        host=settings.postgres_host,
        port=settings.postgres_port,
        database=database or settings.postgres_database,
    )


def broker_engine(settings: Settings, broker: Broker, *, pool_size: int = 5) -> AsyncEngine:
    """The journal of one broker under that broker's own role: risk manager, order workers, reconciliation."""
    user, password = postgres_credentials(settings, broker)
    return _engine(_url(settings, user, password), broker, pool_size, ping=False)


def view_engine(settings: Settings, broker: Broker, *, pool_size: int = 3, ping: bool = True) -> AsyncEngine:
    """One broker's view tables under the shared services' role: API, command line, order views."""
    user, password = postgres_credentials(settings, None)
    return _engine(_url(settings, user, password), broker, pool_size, ping=ping)


def config_engine(settings: Settings, *, pool_size: int = 3) -> AsyncEngine:
    """The config schema under the shared services' role."""
    user, password = postgres_credentials(settings, None)
    return _engine(_url(settings, user, password), None, pool_size)


def _engine(url: URL, broker: Broker | None, pool_size: int, *, ping: bool = True) -> AsyncEngine:
    """`ping` asks each connection whether it lives before it is used; those who try again anyway save the round trip."""
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=ping,
        pool_timeout=5,
        connect_args={"timeout": 5, "command_timeout": 15, "server_settings": {"application_name": "alpha-panda"}},
    )
    if broker is None:
        return engine
    return engine.execution_options(schema_translate_map={JOURNAL: schema(broker)})


_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
)


def is_transient(error: BaseException) -> bool:
    """True where the database is away or asks to try again; False for our own mistakes (constraints, types)."""
    if isinstance(error, DBAPIError):
        cause = error.orig.__cause__ if error.orig is not None else None
        return (
            error.connection_invalidated
            or isinstance(error, OperationalError | InterfaceError)
            or isinstance(cause, _PASSING)
        )
    return isinstance(error, (*_PASSING, PoolTimeout, ConnectionError, asyncio.TimeoutError, TimeoutError, OSError))


@asynccontextmanager
async def transient(what: str) -> AsyncIterator[None]:
    """Turn "the database is away" into Transient naming `what` we were doing; let everything else through."""
    try:
        yield
    except Exception as error:
        if is_transient(error):
            raise Transient(f"PostgreSQL is away while {what}: {type(error).__name__}") from error
        raise
