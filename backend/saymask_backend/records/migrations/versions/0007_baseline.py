"""All tables. Later revisions change them; this one stays as it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    _create_request()
    _create_candidate()
    _create_event()
    _create_annotation_version()
    _create_record()
    _create_verification()
    _create_sync_run()


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")


def _project_created() -> sa.Column[int]:
    return sa.Column("project_created", sa.BigInteger, nullable=False, server_default="0")


def _create_request() -> None:
    op.create_table(
        "request",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("created_at", _TIME, nullable=False, index=True),
        sa.Column("project_id", sa.Integer, nullable=False, index=True),
        _project_created(),
        sa.Column("task_id", sa.Integer, nullable=False, index=True),
        sa.Column("expression", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False, server_default="typed"),
        sa.Column("clicks", sa.Integer, nullable=False, server_default="0"),
        sa.Column("click_ids", sa.JSON),
        sa.Column("k", sa.Integer, nullable=False),
        sa.Column("photo", sa.Text, nullable=False),
        sa.Column("photo_sha256", sa.String(64), index=True),
        sa.Column("status", sa.String(16), nullable=False, index=True),
        sa.Column("answered_at", _TIME),
        sa.Column("latency_ms", sa.Float),
        sa.Column("model_version", sa.String(200)),
        sa.Column("head_noun_phrase", sa.Text),
        sa.Column("height_px", sa.Integer),
        sa.Column("width_px", sa.Integer),
        sa.Column("confidence", sa.Float),
        sa.Column("from_cache", sa.Boolean),
        sa.Column("timings", sa.JSON),
        sa.Column("notices", sa.JSON),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_text", sa.Text),
    )


def _create_candidate() -> None:
    op.create_table(
        "candidate",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("request_id", _ID, sa.ForeignKey("request.id"), nullable=False, index=True),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("region_id", sa.String(64), nullable=False, unique=True),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("coco_rle", sa.JSON, nullable=False),
        sa.Column("box_xywh", sa.JSON, nullable=False),
        sa.Column("predicted_iou", sa.Float, nullable=False),
        sa.Column("stability_score", sa.Float, nullable=False),
        sa.Column("source", sa.String(64), nullable=False, server_default="proposals"),
    )


def _create_event() -> None:
    op.create_table(
        "event",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("received_at", _TIME, nullable=False, index=True),
        sa.Column("action", sa.String(64), nullable=False, index=True),
        sa.Column("project_id", sa.Integer, index=True),
        _project_created(),
        sa.Column("task_id", sa.Integer, index=True),
        sa.Column("annotation_id", sa.Integer, index=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True, server_default="waiting"),
        sa.Column("processed_at", _TIME),
        sa.Column("problem", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_request_id", _ID),
        sa.Column("source", sa.String(16), nullable=False, server_default="webhook"),
        sa.Column("content_hash", sa.String(64)),
    )


def _create_annotation_version() -> None:
    op.create_table(
        "annotation_version",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("annotation_id", sa.Integer, nullable=False, index=True),
        sa.Column("project_id", sa.Integer, nullable=False, index=True),
        _project_created(),
        sa.Column("task_id", sa.Integer, nullable=False, index=True),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("ordered_at", _TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.UniqueConstraint(
            "project_id", "project_created", "annotation_id", "updated_at", "content_hash",
            "ordered_at", name="uq_annotation_version_content",
        ),
    )  # fmt: skip


def _create_record() -> None:
    version = sa.ForeignKey("annotation_version.id")
    op.create_table(
        "record",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("version_id", _ID, version, nullable=False, index=True),
        sa.Column("annotation_id", sa.Integer, nullable=False, index=True),
        sa.Column("project_id", sa.Integer, nullable=False, index=True),
        _project_created(),
        sa.Column("task_id", sa.Integer, nullable=False, index=True),
        sa.Column("decided_at", _TIME, nullable=False, index=True),
        sa.Column("photo", sa.Text, nullable=False),
        sa.Column("photo_sha256", sa.String(64), index=True),
        sa.Column("height_px", sa.Integer),
        sa.Column("width_px", sa.Integer),
        sa.Column("expression", sa.Text, nullable=False),
        sa.Column("typed_expression", sa.Text),
        sa.Column("outcome", sa.String(32), nullable=False, index=True),
        sa.Column("request_id", _ID, sa.ForeignKey("request.id"), index=True),
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
        sa.Column("clicks", sa.Integer, nullable=False, server_default="0"),
        sa.Column("annotator", sa.String(200), index=True),
        sa.Column("seconds", sa.Float),
        sa.Column("model_version", sa.String(200)),
        sa.Column("latency_ms", sa.Float),
        sa.Column("source", sa.String(64)),
        sa.Column("notes", sa.JSON, nullable=False),
        sa.Column("provenance", sa.String(16), nullable=False, server_default="typed"),
    )


def _create_verification() -> None:
    op.create_table(
        "verification",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("record_id", _ID, sa.ForeignKey("record.id"), nullable=False, index=True),
        sa.Column("project_id", sa.Integer, nullable=False, index=True),
        sa.Column("annotation_id", sa.Integer, nullable=False),
        sa.Column("verifier", sa.String(200)),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("decided_at", _TIME, nullable=False),
        sa.UniqueConstraint("project_id", "annotation_id", name="uq_verification_annotation"),
    )


def _create_sync_run() -> None:
    op.create_table(
        "sync_run",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", sa.Integer, nullable=False, index=True),
        _project_created(),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("next_page", sa.Integer, nullable=False),
        sa.Column("seen", sa.JSON, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
    )
