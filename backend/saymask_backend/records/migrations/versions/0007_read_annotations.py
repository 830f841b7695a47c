"""Annotations that sync read are processed as webhooks are, and their attempts counted together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    source = sa.Column("source", sa.String(16), nullable=False, server_default="webhook")
    op.add_column("event", source)
    op.add_column("event", sa.Column("content_hash", sa.String(64)))


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")
