"""What people did: changes of strategies with their events, and what became of dead letters.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

from core.storage.models import Base
from core.storage.models_people import PEOPLE_TABLES

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    Base.metadata.create_all(op.get_bind(), tables=PEOPLE_TABLES)


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
