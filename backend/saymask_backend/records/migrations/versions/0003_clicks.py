"""How a request was made, with how many clicks, and how sure the answer is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and columns of this revision."""
    op.add_column(
        "request", sa.Column("kind", sa.String(16), nullable=False, server_default="typed")
    )
    op.add_column("request", sa.Column("clicks", sa.Integer, nullable=False, server_default="0"))
    op.add_column("request", sa.Column("click_ids", sa.JSON))
    op.add_column("request", sa.Column("confidence", sa.Float))
    op.add_column("record", sa.Column("clicks", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")
