"""Progress of comparisons with Label Studio, so that an interrupted one is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from saymask_backend.records.database import Database
from saymask_backend.records.project_key import ProjectKey
from saymask_backend.records.tables import SyncRun

_RESUME_WITHIN = timedelta(hours=1)


@dataclass(frozen=True)
class SyncRunState:
    """A run: the page to read next, the annotations seen so far and the counts."""

    run_id: int
    started_at: datetime
    finished_at: datetime | None
    next_page: int
    seen: frozenset[int]
    counts: dict[str, int]


class SyncRunStore:
    """Runs of sync. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin_run(self, project: ProjectKey) -> SyncRunState:
        """Return a new run, or the last one if it was interrupted within the last hour."""
        with self._database.session() as session, session.begin():
            row = session.scalar(
                select(SyncRun)
                .where(
                    SyncRun.project_id == project.id,
                    SyncRun.project_created == project.created,
                    SyncRun.finished_at.is_(None),
                    SyncRun.started_at > datetime.now(UTC) - _RESUME_WITHIN,
                )
                .order_by(SyncRun.id.desc())
                .limit(1)
            )
            if row is None:
                row = SyncRun(
                    project_id=project.id,
                    project_created=project.created,
                    started_at=datetime.now(UTC),
                    next_page=1,
                    seen=[],
                    counts={},
                )
                session.add(row)
                session.flush()
            return _to_state(row)

    def save_run(self, state: SyncRunState) -> None:
        """Store the progress of a run."""
        with self._database.session() as session, session.begin():
            row = session.get_one(SyncRun, state.run_id)
            row.next_page, row.counts = state.next_page, dict(state.counts)
            row.seen, row.finished_at = sorted(state.seen), state.finished_at


def _to_state(row: SyncRun) -> SyncRunState:
    return SyncRunState(
        run_id=row.id,
        started_at=row.started_at,
        finished_at=row.finished_at,
        next_page=row.next_page,
        seen=frozenset(row.seen),
        counts=dict(row.counts),
    )
