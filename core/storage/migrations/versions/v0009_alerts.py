"""Alerts as they were raised, what each channel made of them, and how the channels are.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

from alembic import op

from core.storage.models import Base
from core.storage.models_alerts import ALERT_TABLES

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    Base.metadata.create_all(op.get_bind(), tables=ALERT_TABLES)


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
