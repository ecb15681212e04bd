"""Changes of limits beside those of strategies, from where a refresh token was used, and the day's PnL minute by minute.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

from core.routing import CONFIG_SCHEMA, JOURNAL, PEOPLE_SCHEMA, schema
from core.storage.models import Base
from core.storage.models_pnl import PNL_TABLES
from core.trading.types import Broker

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A fresh database has the columns already: earlier revisions make their tables as they are now."""
    op.execute(
        f"ALTER TABLE \"{CONFIG_SCHEMA}\".strategy_changes ADD COLUMN IF NOT EXISTS what text NOT NULL DEFAULT 'strategy'"
    )
    op.execute(f'ALTER TABLE "{PEOPLE_SCHEMA}".refresh_tokens ADD COLUMN IF NOT EXISTS used_from text')
    for broker in Broker:
        translated = op.get_bind().execution_options(schema_translate_map={JOURNAL: schema(broker)})
        Base.metadata.create_all(translated, tables=PNL_TABLES)


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
