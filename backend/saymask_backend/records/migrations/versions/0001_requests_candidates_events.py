"""Requests, candidates and raw events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the tables and columns of this revision."""
    op.create_table(
        "request",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("project_id", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("expression", sa.Text, nullable=False),
        sa.Column("k", sa.Integer, nullable=False),
        sa.Column("photo", sa.Text, nullable=False),
        sa.Column("photo_sha256", sa.String(64)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("answered_at", _TIME),
        sa.Column("latency_ms", sa.Float),
        sa.Column("model_version", sa.String(200)),
        sa.Column("head_noun_phrase", sa.Text),
        sa.Column("height_px", sa.Integer),
        sa.Column("width_px", sa.Integer),
        sa.Column("from_cache", sa.Boolean),
        sa.Column("timings", sa.JSON),
        sa.Column("notices", sa.JSON),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_text", sa.Text),
    )
    for column in ("created_at", "project_id", "task_id", "photo_sha256", "status"):
        op.create_index(f"ix_request_{column}", "request", [column])
    op.create_table(
        "candidate",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("request_id", _ID, sa.ForeignKey("request.id"), nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("region_id", sa.String(64), nullable=False, unique=True),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("coco_rle", sa.JSON, nullable=False),
        sa.Column("box_xywh", sa.JSON, nullable=False),
        sa.Column("predicted_iou", sa.Float, nullable=False),
        sa.Column("stability_score", sa.Float, nullable=False),
    )
    op.create_index("ix_candidate_request_id", "candidate", ["request_id"])
    op.create_table(
        "event",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("project_id", sa.Integer),
        sa.Column("task_id", sa.Integer),
        sa.Column("annotation_id", sa.Integer),
        sa.Column("body", sa.Text, nullable=False),
    )
    for column in ("received_at", "action", "project_id", "task_id", "annotation_id"):
        op.create_index(f"ix_event_{column}", "event", [column])


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")
