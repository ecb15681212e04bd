"""Kill switches: their table, exits of what is not ours, and the flags of single strategies.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

from core.routing import JOURNAL, schema
from core.storage.models import Base
from core.storage.models_kill import KILL_TABLES
from core.trading.types import Broker

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    for broker in Broker:
        translated = connection.execution_options(schema_translate_map={JOURNAL: schema(broker)})
        Base.metadata.create_all(translated, tables=KILL_TABLES)
        # A fresh database has the column already: the first revision makes the tables as they are now.
        op.execute(
            f"ALTER TABLE \"{schema(broker)}\".accounts ADD COLUMN IF NOT EXISTS kill_strategies jsonb NOT NULL DEFAULT '{{}}'"
        )


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
