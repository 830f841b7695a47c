"""Where an expression comes from, and what a second person says about it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_GIVEN = "SELECT id FROM request WHERE kind = 'ahead'"


def upgrade() -> None:
    """Add the column, fill it in, and add the table."""
    column = sa.Column("provenance", sa.String(16), nullable=False, server_default="typed")
    op.add_column("record", column)
    op.execute(f"UPDATE record SET provenance = 'given' WHERE request_id IN ({_GIVEN})")  # noqa: S608
    op.create_table(
        "verification",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("record_id", _ID, sa.ForeignKey("record.id"), nullable=False, index=True),
        sa.Column("project_id", sa.Integer, nullable=False, index=True),
        sa.Column("annotation_id", sa.Integer, nullable=False),
        sa.Column("verifier", sa.String(200)),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("project_id", "annotation_id", name="uq_verification_annotation"),
    )


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")
