"""Which source offered a candidate, and which was accepted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Until now clicks were the only other source.
_CLICKED = "SELECT id FROM request WHERE kind = 'clicked'"


def upgrade() -> None:
    """Add the columns, and fill them in."""
    source = sa.Column("source", sa.String(64), nullable=False, server_default="proposals")
    op.add_column("candidate", source)
    op.execute(f"UPDATE candidate SET source = 'clicks' WHERE request_id IN ({_CLICKED})")  # noqa: S608
    op.add_column("record", sa.Column("source", sa.String(64)))
    op.execute(
        "UPDATE record SET source = (SELECT source FROM candidate"
        " WHERE candidate.id = record.candidate_id) WHERE candidate_id IS NOT NULL"
    )


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")
