"""People: users, sessions, API keys, failed logins, answered requests, and the audit.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op

from core.storage.models import Base
from core.storage.models_access import ACCESS_TABLES

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    Base.metadata.create_all(op.get_bind(), tables=ACCESS_TABLES)


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
