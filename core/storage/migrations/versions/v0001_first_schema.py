"""First schema: config, one journal a broker, the paper exchange's book.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

from core.routing import JOURNAL, schema
from core.storage.models import CONFIG_TABLES, EXCHANGE_TABLES, JOURNAL_TABLES, Base
from core.trading.types import Broker

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    Base.metadata.create_all(connection, tables=[*CONFIG_TABLES, *EXCHANGE_TABLES])
    for broker in Broker:
        translated = connection.execution_options(schema_translate_map={JOURNAL: schema(broker)})
        Base.metadata.create_all(translated, tables=JOURNAL_TABLES)


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
