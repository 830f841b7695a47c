"""Versions of annotations, records of decisions, runs of sync; what became of each event."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the tables and columns of this revision."""
    op.add_column(
        "event", sa.Column("state", sa.String(16), nullable=False, server_default="waiting")
    )
    op.add_column("event", sa.Column("processed_at", _TIME))
    op.add_column("event", sa.Column("problem", sa.Text))
    op.create_index("ix_event_state", "event", ["state"])
    op.create_table(
        "annotation_version",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("annotation_id", sa.Integer, nullable=False),
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.UniqueConstraint("annotation_id", "updated_at", "content_hash"),
    )
    for column in ("annotation_id", "project_id", "task_id"):
        op.create_index(f"ix_annotation_version_{column}", "annotation_version", [column])
    op.create_table(
        "record",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("version_id", _ID, sa.ForeignKey("annotation_version.id"), nullable=False),
        sa.Column("annotation_id", sa.Integer, nullable=False),
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("decided_at", _TIME, nullable=False),
        sa.Column("photo", sa.Text, nullable=False),
        sa.Column("photo_sha256", sa.String(64)),
        sa.Column("height_px", sa.Integer),
        sa.Column("width_px", sa.Integer),
        sa.Column("expression", sa.Text, nullable=False),
        sa.Column("typed_expression", sa.Text),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("request_id", _ID, sa.ForeignKey("request.id")),
        sa.Column("candidate_id", _ID, sa.ForeignKey("candidate.id")),
        sa.Column("offered", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer),
        sa.Column("score", sa.Float),
        sa.Column("iou", sa.Float),
        sa.Column("first_iou", sa.Float),
        sa.Column("coco_rle", sa.JSON),
        sa.Column("area_px", sa.Integer),
        sa.Column("parts", sa.JSON, nullable=False),
        sa.Column("head_noun_phrase", sa.Text),
        sa.Column("region_ids", sa.JSON, nullable=False),
        sa.Column("dabs", sa.Integer, nullable=False),
        sa.Column("annotator", sa.String(200)),
        sa.Column("seconds", sa.Float),
        sa.Column("model_version", sa.String(200)),
        sa.Column("latency_ms", sa.Float),
        sa.Column("notes", sa.JSON, nullable=False),
    )
    indexed = (
        "version_id", "annotation_id", "project_id", "task_id", "decided_at", "photo_sha256",
        "outcome", "request_id", "annotator",
    )  # fmt: skip
    for column in indexed:
        op.create_index(f"ix_record_{column}", "record", [column])
    op.create_table(
        "sync_run",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("next_page", sa.Integer, nullable=False),
        sa.Column("seen", sa.JSON, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
    )
    op.create_index("ix_sync_run_project_id", "sync_run", ["project_id"])


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")
