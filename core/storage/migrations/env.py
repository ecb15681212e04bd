"""Alembic environment: runs on the connection that core.storage.migrate hands over, never on one of its own."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from core.routing import CONFIG_SCHEMA
from core.storage.models import Base

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, version_table_schema=CONFIG_SCHEMA)
with context.begin_transaction():
    context.run_migrations()
