"""Bring the schema to this code's version. Runs as the admin role; grants are core/storage/roles.py's business."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from core.config import Settings
from core.routing import CONFIG_SCHEMA, PAPER_EXCHANGE_SCHEMA, PEOPLE_SCHEMA, schema
from core.storage.db import admin_url
from core.trading.types import Broker


async def migrate(settings: Settings) -> str:
    """Create the schemas and run every missing migration, in one transaction. Safe to run again. Returns the revision it is at."""
    engine = create_async_engine(admin_url(settings))
    try:
        async with engine.begin() as connection:
            for name in (CONFIG_SCHEMA, PEOPLE_SCHEMA, PAPER_EXCHANGE_SCHEMA, *(schema(broker) for broker in Broker)):
                await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{name}"'))
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> str:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    version = text(f'SELECT version_num FROM "{CONFIG_SCHEMA}".alembic_version')  # noqa: S608
    return str(connection.execute(version).scalar_one())
