"""PostgreSQL's database, roles, schemas and grants: one role per broker's order workers and one for shared services.

Idempotent. Never gives a broker's role rights on another broker's schema, never drops anything.
"""

from __future__ import annotations

import asyncpg

from core import routing
from core.config import Settings
from core.errors import StopTheStart
from core.storage.models import VIEW_TABLES
from core.storage.models_access import AUDIT_TABLE
from core.trading.types import Broker

ADMIN = "postgres"
"""Owner of the database and of every table: makes schemas and runs migrations, nothing else."""

ALL = ("*",)

_IN_NO_LOG = "SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic"
"""For a connection that sets passwords: a statement that took long or failed would stand in PostgreSQL's log with them."""


async def connect_admin(settings: Settings, database: str | None = None) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=ADMIN,
        password=settings.postgres_admin_password.get_secret_value(),
        database=database or settings.postgres_database,
        timeout=10,
    )


def _schemas() -> list[str]:
    journals = (routing.schema(broker) for broker in Broker)
    return [routing.CONFIG_SCHEMA, routing.PEOPLE_SCHEMA, *journals, routing.PAPER_EXCHANGE_SCHEMA]


async def prepare(settings: Settings) -> None:
    """Before the migrations: database, roles with the passwords in .env, schemas.

    Raises:
        StopTheStart: PostgreSQL refuses our admin password.
    """
    try:
        connection = await connect_admin(settings, "postgres")
    except asyncpg.InvalidPasswordError as error:
        raise StopTheStart(
            "PostgreSQL refuses POSTGRES_ADMIN_PASSWORD: the data was made with another one. Put that back into .env."
        ) from error
    try:
        await connection.execute(_IN_NO_LOG)
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", settings.postgres_database):
            await connection.execute(f'CREATE DATABASE "{settings.postgres_database}"')
        await _roles(connection, settings)
    finally:
        await connection.close()
    connection = await connect_admin(settings)
    try:
        async with connection.transaction():
            await connection.execute(f'REVOKE ALL ON DATABASE "{settings.postgres_database}" FROM PUBLIC')
            await connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
            for schema in _schemas():
                await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    finally:
        await connection.close()


async def _roles(connection: asyncpg.Connection, settings: Settings) -> None:
    for broker in (None, *Broker):
        role, password = routing.postgres_credentials(settings, broker)
        verb = "ALTER" if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role) else "CREATE"
        quoted = await connection.fetchval(
            "SELECT format('ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)", role, password
        )
        await connection.execute(f"{verb} {quoted}")
        await connection.execute(f'GRANT CONNECT ON DATABASE "{settings.postgres_database}" TO "{role}"')


async def grant(settings: Settings) -> None:
    """After the migrations: what each role may read and write, over all tables there are now."""
    connection = await connect_admin(settings)
    try:
        async with connection.transaction():
            app, _ = routing.postgres_credentials(settings, None)
            await _allow(connection, routing.CONFIG_SCHEMA, app, write=ALL)
            await _allow(connection, routing.PEOPLE_SCHEMA, app, write=ALL)
            audit = f'"{routing.PEOPLE_SCHEMA}"."{AUDIT_TABLE}"'
            await connection.execute(f'REVOKE UPDATE, DELETE, TRUNCATE ON {audit} FROM "{app}"')  # rows are only added
            await _allow(connection, routing.PAPER_EXCHANGE_SCHEMA, app)
            for broker in Broker:
                role, _ = routing.postgres_credentials(settings, broker)
                await _allow(connection, routing.schema(broker), role, write=ALL)
                await _allow(connection, routing.schema(broker), app, write=tuple(sorted(VIEW_TABLES)))
                await _allow(connection, routing.CONFIG_SCHEMA, role)
            simulator, _ = routing.postgres_credentials(settings, Broker.PAPER)
            await _allow(connection, routing.PAPER_EXCHANGE_SCHEMA, simulator, write=ALL)
    finally:
        await connection.close()


async def _allow(connection: asyncpg.Connection, schema: str, role: str, write: tuple[str, ...] = ()) -> None:
    await connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}"')
    await connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"')
    for table in write:
        target = f'ALL TABLES IN SCHEMA "{schema}"' if table == "*" else f'"{schema}"."{table}"'
        await connection.execute(f'GRANT INSERT, UPDATE, DELETE ON {target} TO "{role}"')
    if write:
        await connection.execute(f'GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{role}"')
