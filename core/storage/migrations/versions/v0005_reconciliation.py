"""Reconciliation: the rounds, the day's openings, and the view of them.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

from core.routing import JOURNAL, schema
from core.storage.models import Base
from core.storage.models_reconcile import RECONCILE_TABLES
from core.trading.types import Broker

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for broker in Broker:
        translated = op.get_bind().execution_options(schema_translate_map={JOURNAL: schema(broker)})
        Base.metadata.create_all(translated, tables=RECONCILE_TABLES)


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
