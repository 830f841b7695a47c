"""What an annotator saw of an answer, and the region that shows one candidate after another."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("request", sa.Column("editor_entry_id", sa.String(200)))
    op.add_column("request", sa.Column("region_id", sa.String(64)))
    op.add_column("request", sa.Column("is_first_look", sa.Boolean))
    op.add_column("request", sa.Column("shown", sa.JSON))
    op.add_column("record", sa.Column("shown", sa.JSON))


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")
