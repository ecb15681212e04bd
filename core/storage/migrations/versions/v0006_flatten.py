"""What flatten --direct sent and the journal booked.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

from core.routing import JOURNAL, schema
from core.storage.models import Base
from core.storage.models_flatten import FLATTEN_TABLES
from core.trading.types import Broker

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    for broker in Broker:
        translated = connection.execution_options(schema_translate_map={JOURNAL: schema(broker)})
        Base.metadata.create_all(translated, tables=FLATTEN_TABLES)


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup instead")
