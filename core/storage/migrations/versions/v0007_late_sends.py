"""Late sends, few among all, found at each exit's claim.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

from core.routing import schema
from core.trading.types import Broker

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A fresh database has the index already: the first revision makes the tables as they are now."""
    for broker in Broker:
        op.execute(
            f"CREATE INDEX IF NOT EXISTS sends_late ON \"{schema(broker)}\".sends (order_id) WHERE state = 'LATE'"
        )


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
