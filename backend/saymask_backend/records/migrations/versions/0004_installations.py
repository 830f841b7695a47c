"""Projects are told apart by when they were created; versions are ordered by receipt; attempts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)
_WITH_PROJECT = ("request", "event", "annotation_version", "record", "sync_run")
_NAMING = {"uq": "uq_%(table_name)s_%(column_0_N_name)s"}
_OLD_UNIQUE = ["annotation_id", "updated_at", "content_hash"]
_NEW_UNIQUE = ["project_id", "project_created", *_OLD_UNIQUE, "ordered_at"]


def upgrade() -> None:
    """Add the columns of this revision and fill them from the stored events."""
    for table in _WITH_PROJECT:
        op.add_column(
            table, sa.Column("project_created", sa.BigInteger, nullable=False, server_default="0")
        )
    op.add_column("event", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.add_column("event", sa.Column("last_request_id", _ID))
    op.add_column("annotation_version", sa.Column("ordered_at", _TIME))
    _fill_ordered_at()
    for project_id, created in _read_created():
        for table in _WITH_PROJECT:
            op.execute(
                sa.text(
                    f"UPDATE {table} SET project_created = :created"  # noqa: S608
                    " WHERE project_id = :project_id"
                ).bindparams(created=created, project_id=project_id)
            )
    with op.batch_alter_table("annotation_version", naming_convention=_NAMING) as batch:
        batch.drop_constraint(_find_unique(), type_="unique")
        batch.create_unique_constraint("uq_annotation_version_content", _NEW_UNIQUE)
        # With a default, so that a backend of the version before may go on writing.
        batch.alter_column(
            "ordered_at", existing_type=_TIME, nullable=False, server_default=sa.func.now()
        )


def downgrade() -> None:
    """Refuse: records are never removed."""
    raise NotImplementedError("records are append-only; migrations go forward")


def _fill_ordered_at() -> None:
    """A state counts from when Label Studio saved it, but not from later than it was seen."""
    op.execute(
        "UPDATE annotation_version SET ordered_at ="
        " CASE WHEN updated_at < seen_at THEN updated_at ELSE seen_at END"
    )
    op.execute("UPDATE annotation_version SET updated_at = seen_at WHERE deleted")


def _read_created() -> Iterator[tuple[int, int]]:
    """When each project was created, according to its newest event."""
    bind = op.get_bind()
    newest = sa.text(
        "SELECT body FROM event WHERE id IN"
        " (SELECT max(id) FROM event WHERE project_id IS NOT NULL GROUP BY project_id)"
    )
    for (body,) in bind.execute(newest).all():
        project = json.loads(body).get("project") or {}
        try:
            created = datetime.fromisoformat(project["created_at"])
        except (KeyError, TypeError, ValueError):
            continue
        moment = created if created.tzinfo else created.replace(tzinfo=UTC)
        yield int(project["id"]), int(moment.timestamp())


def _find_unique() -> str:
    """The name of the old constraint; SQLite gave it none, so the naming convention does."""
    bind = op.get_bind()
    if bind.dialect.name == "sqlite":
        return "uq_annotation_version_" + "_".join(_OLD_UNIQUE)
    for constraint in sa.inspect(bind).get_unique_constraints("annotation_version"):
        if constraint["column_names"] == _OLD_UNIQUE and constraint["name"]:
            return constraint["name"]
    raise RuntimeError("annotation_version lacks the unique constraint of revision 0002")
