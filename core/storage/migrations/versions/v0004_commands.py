"""Commands on orders: when one may have reached the broker, and what its outcome rests on.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

from core.routing import schema
from core.trading.types import Broker

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A database made by the first revision after this one was written has the columns already."""
    for broker in Broker:
        op.execute(f'ALTER TABLE "{schema(broker)}".commands ADD COLUMN IF NOT EXISTS sent_at timestamptz')
        op.execute(f'ALTER TABLE "{schema(broker)}".commands ADD COLUMN IF NOT EXISTS evidence text')


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
