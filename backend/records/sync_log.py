"""Where a comparison with Label Studio stands, so that a broken one goes on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from backend.records.database import Database
from backend.records.model import SyncRun

_TAKE_UP_WITHIN = timedelta(hours=1)


@dataclass(frozen=True)
class SyncState:
    """A run: the page to read next, the annotations seen so far and what was found."""

    run_id: int
    started_at: datetime
    finished_at: datetime | None
    next_page: int
    seen: frozenset[int]
    counts: dict[str, int]


class SyncLog:
    """Runs of sync. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, project_id: int) -> SyncState:
        """A new run, or the last one if it broke off within the last hour."""
        with self._database.session() as session, session.begin():
            row = session.scalar(
                select(SyncRun)
                .where(
                    SyncRun.project_id == project_id,
                    SyncRun.finished_at.is_(None),
                    SyncRun.started_at > datetime.now(UTC) - _TAKE_UP_WITHIN,
                )
                .order_by(SyncRun.id.desc())
                .limit(1)
            )
            if row is None:
                row = SyncRun(
                    project_id=project_id,
                    started_at=datetime.now(UTC),
                    next_page=1,
                    seen=[],
                    counts={},
                )
                session.add(row)
                session.flush()
            return _to_state(row)

    def save(self, state: SyncState) -> None:
        """Remember how far a run came."""
        with self._database.session() as session, session.begin():
            row = session.get_one(SyncRun, state.run_id)
            row.next_page, row.counts = state.next_page, dict(state.counts)
            row.seen, row.finished_at = sorted(state.seen), state.finished_at


def _to_state(row: SyncRun) -> SyncState:
    return SyncState(
        run_id=row.id,
        started_at=row.started_at,
        finished_at=row.finished_at,
        next_page=row.next_page,
        seen=frozenset(row.seen),
        counts=dict(row.counts),
    )
