"""Versions of annotations and the records they decide: written once, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Executable, Subquery, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saymask_backend.records.database import Database
from saymask_backend.records.decisions import Decision
from saymask_backend.records.events import Source, build_forget, build_mark
from saymask_backend.records.project_key import ProjectKey
from saymask_backend.records.submission import Submission
from saymask_backend.records.tables import AnnotationVersion, RecordRow
from saymask_backend.records.views import RECORD_FIELDS, RecordView

_DELETED_HASH = "deleted"
# How far Label Studio's clock may be ahead of ours before its times are not believed.
_CLOCK_TOLERANCE = timedelta(days=1)


@dataclass(frozen=True)
class HistoryEntry:
    """One step in the history of an annotation; ``record`` is None for a deletion."""

    at: datetime
    source: str
    record: RecordView | None


class AnnotationStore:
    """Writes versions of annotations. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_submission(
        self,
        submission: Submission,
        decisions: Sequence[Decision],
        source: Source,
        seen_at: datetime,
        event_id: int,
    ) -> bool:
        """Write a version and its records, and mark its event, all or nothing.

        Args:
            submission: the state of the annotation.
            decisions: about its expressions.
            source: who reported it. What ``sync`` reads is the state at ``seen_at`` and replaces
                whatever is current; a webhook reports a state of its own time.
            seen_at: when it was received, or read from Label Studio.
            event_id: to be marked as understood; removed, if sync read it.

        Returns:
            Whether the version was new; a known one changes nothing but the event's mark.
        """
        version = AnnotationVersion(
            annotation_id=submission.annotation_id,
            project_id=submission.project.id,
            project_created=submission.project.created,
            task_id=submission.task_id,
            updated_at=submission.updated_at,
            ordered_at=seen_at,
            seen_at=seen_at,
            source=source,
            deleted=False,
            content_hash=submission.content_hash,
        )
        return self._save(version, [_to_row(submission, d) for d in decisions], event_id)

    def save_deletion(
        self, annotation_id: int, project: ProjectKey, source: Source, deleted_at: datetime
    ) -> bool:
        """Write that an annotation was deleted, known or not; its records stay as history.

        A state that Label Studio saved later, or that is seen in Label Studio later, ends it.
        """
        version = AnnotationVersion(
            annotation_id=annotation_id,
            project_id=project.id,
            project_created=project.created,
            task_id=0,
            updated_at=deleted_at,
            ordered_at=deleted_at,
            seen_at=deleted_at,
            source=source,
            deleted=True,
            content_hash=_DELETED_HASH,
        )
        return self._save(version, [], None)

    def save_task_deletion(
        self, task_id: int, project: ProjectKey, source: Source, deleted_at: datetime
    ) -> int:
        """Write that all annotations of a task were deleted with it; returns how many.

        Each deletion is a transaction of its own; repeating them changes nothing.
        """
        newest = build_newest_versions()
        with self._database.session() as session:
            ids = session.scalars(
                select(newest.c.annotation_id).where(
                    newest.c.position == 1,
                    newest.c.deleted.is_(False),
                    newest.c.task_id == task_id,
                    *_of_project(newest.c, project),
                )
            ).all()
        return sum(self.save_deletion(i, project, source, deleted_at) for i in ids)

    def load_current_hashes(self, project: ProjectKey) -> dict[int, str]:
        """Return annotation id to content hash of every annotation that is not deleted."""
        newest = build_newest_versions()
        with self._database.session() as session, session.begin():
            _adopt(session, project)
            rows = session.execute(
                select(newest.c.annotation_id, newest.c.content_hash).where(
                    newest.c.position == 1,
                    newest.c.deleted.is_(False),
                    *_of_project(newest.c, project),
                )
            )
            return {row[0]: row[1] for row in rows}

    def load_history(self, annotation_id: int, project: ProjectKey) -> list[HistoryEntry]:
        """Return every version of an annotation with its records, oldest first."""
        with self._database.session() as session:
            versions = session.scalars(
                select(AnnotationVersion)
                .where(
                    AnnotationVersion.annotation_id == annotation_id,
                    *_of_project(AnnotationVersion, project),
                )
                .order_by(AnnotationVersion.ordered_at, AnnotationVersion.id)
            )
            history: list[HistoryEntry] = []
            for version in versions:
                rows = session.scalars(
                    select(RecordRow)
                    .where(RecordRow.version_id == version.id)
                    .order_by(RecordRow.id)
                )
                if version.deleted:
                    history.append(HistoryEntry(version.seen_at, version.source, None))
                history += [
                    HistoryEntry(version.updated_at, version.source, to_record_view(row))
                    for row in rows
                ]
            return history

    def _save(
        self, version: AnnotationVersion, rows: list[RecordRow], event_id: int | None
    ) -> bool:
        marks: list[Executable] = []
        if event_id is not None:
            forget = [build_forget(event_id)] if version.source == "sync" else []
            marks = [build_mark(event_id, "understood"), *forget]
        with self._database.session() as session:
            try:
                project = ProjectKey(version.project_id, version.project_created)
                same = AnnotationVersion.annotation_id == version.annotation_id
                _adopt(session, project, same)
                is_new = not _is_known(session, version)
                if is_new:
                    _place(session, version)
                    session.add(version)
                    session.flush()
                    for row in rows:
                        row.version_id = version.id
                        session.add(row)
                for mark in marks:
                    session.execute(mark)
                session.commit()
            except IntegrityError as error:
                session.rollback()
                if not _is_repetition(error):
                    raise
                # Another process wrote the same version a moment ago; the event is still ours.
                is_new = False
                for mark in marks:
                    session.execute(mark)
                session.commit()
        return is_new


def _adopt(session: Session, project: ProjectKey, *conditions: ColumnElement[bool]) -> None:
    """Give rows from when only the project's number was kept its time of creation.

    What was seen before the project existed belongs to another one of that number.
    """
    if not project.created:
        return
    created = datetime.fromtimestamp(project.created, UTC)
    versions = select(AnnotationVersion.id).where(
        AnnotationVersion.project_id == project.id,
        AnnotationVersion.project_created == 0,
        AnnotationVersion.seen_at >= created,
        *conditions,
    )
    ids = session.scalars(versions).all()
    if ids:
        values = {"project_created": project.created}
        session.execute(update(RecordRow).where(RecordRow.version_id.in_(ids)).values(values))
        session.execute(
            update(AnnotationVersion).where(AnnotationVersion.id.in_(ids)).values(values)
        )


def _place(session: Session, version: AnnotationVersion) -> None:
    """Place what a webhook reported among the other states: by Label Studio's own clock.

    A state that Label Studio saved after the newest one counts from its receipt, so that it ends
    deletions and replaces what sync read; an older one, which came late, counts from before that.
    Times that were in the future when they were received are not compared with.
    """
    if version.deleted or version.source == "sync":
        return
    newest = session.scalars(
        select(AnnotationVersion)
        .where(*_of_annotation(version), AnnotationVersion.deleted.is_(False))
        .order_by(AnnotationVersion.updated_at.desc())
    )
    states = [state for state in newest if state.updated_at <= state.seen_at + _CLOCK_TOLERANCE]
    if not states:
        version.ordered_at = min(version.updated_at, version.seen_at)
    elif version.updated_at <= states[0].updated_at:
        before = states[0].ordered_at - timedelta(microseconds=1)
        version.ordered_at = min(version.updated_at, version.seen_at, before)


def _is_repetition(error: IntegrityError) -> bool:
    """Whether a version exists already, in the words of either database."""
    text = str(error.orig).lower()
    return "unique" in text and "annotation_version" in text


def _of_annotation(version: AnnotationVersion) -> tuple[ColumnElement[bool], ...]:
    return (
        AnnotationVersion.annotation_id == version.annotation_id,
        AnnotationVersion.project_id == version.project_id,
        AnnotationVersion.project_created == version.project_created,
    )


def _is_known(session: Session, version: AnnotationVersion) -> bool:
    """Whether a version says nothing new.

    A state that a webhook reports is known if it ever was; one that was read from Label Studio,
    and a deletion, only if it still is the current state.
    """
    states = (
        select(AnnotationVersion)
        .where(*_of_annotation(version))
        .order_by(AnnotationVersion.ordered_at.desc(), AnnotationVersion.id.desc())
    )
    content = (version.updated_at, version.content_hash)
    if version.deleted or version.source == "sync":
        current = session.scalar(states.limit(1))
        if current is None or current.deleted != version.deleted:
            return False
        return version.deleted or (current.updated_at, current.content_hash) == content
    return any((s.updated_at, s.content_hash) == content for s in session.scalars(states))


def _of_project(columns: Any, project: ProjectKey) -> tuple[ColumnElement[bool], ...]:
    return columns.project_id == project.id, columns.project_created == project.created


def build_newest_versions() -> Subquery:
    """Return all versions as a subquery whose ``position`` is 1 for an annotation's newest."""
    position = func.row_number().over(
        partition_by=(
            AnnotationVersion.project_id,
            AnnotationVersion.project_created,
            AnnotationVersion.annotation_id,
        ),
        order_by=(AnnotationVersion.ordered_at.desc(), AnnotationVersion.id.desc()),
    )
    return select(
        AnnotationVersion.id,
        AnnotationVersion.annotation_id,
        AnnotationVersion.project_id,
        AnnotationVersion.project_created,
        AnnotationVersion.task_id,
        AnnotationVersion.content_hash,
        AnnotationVersion.deleted,
        position.label("position"),
    ).subquery()


def to_record_view(row: RecordRow) -> RecordView:
    """Convert a row to what is read outside the database."""
    return RecordView(**{name: getattr(row, name) for name in RECORD_FIELDS})


def _to_row(submission: Submission, decision: Decision) -> RecordRow:
    size_hw = _find_size_hw(decision)
    return RecordRow(
        annotation_id=submission.annotation_id,
        project_id=submission.project.id,
        project_created=submission.project.created,
        task_id=submission.task_id,
        decided_at=submission.updated_at,
        image=submission.image,
        image_sha256=decision.image_sha256,
        height_px=size_hw[0] if size_hw else None,
        width_px=size_hw[1] if size_hw else None,
        expression=decision.expression,
        typed_expression=decision.typed_expression,
        outcome=decision.outcome,
        iou=decision.iou,
        first_iou=decision.first_iou,
        coco_rle=decision.mask.to_coco_rle() if decision.mask is not None else None,
        area_px=decision.mask.area if decision.mask is not None else None,
        parts=[part.to_coco_rle() for part in decision.parts],
        region_ids=list(decision.region_ids),
        dabs=decision.dabs,
        annotator=submission.annotator,
        seconds=decision.seconds,
        notes=list(decision.notes),
        provenance=decision.provenance,
        **_describe_offer(decision),
    )


def _find_size_hw(decision: Decision) -> tuple[int, int] | None:
    if decision.mask is not None:
        return decision.mask.size_hw
    return decision.offer.size_hw if decision.offer else None


def _describe_offer(decision: Decision) -> dict[str, Any]:
    """The columns about what was offered and which candidate was accepted."""
    offer, candidate = decision.offer, decision.candidate
    columns: dict[str, Any] = {"offered": 0, "clicks": 0}
    if offer is not None:
        columns |= {
            "request_id": offer.request_id,
            "offered": len(offer.candidates),
            "head_noun_phrase": offer.head_noun_phrase,
            "model_version": offer.model_version,
            "latency_ms": offer.latency_ms,
        }
    if candidate is not None:
        columns |= {
            "candidate_id": candidate.candidate_id,
            "rank": candidate.rank,
            "score": candidate.score,
            "source": candidate.source,
            "clicks": offer.clicks if offer else 0,
        }
    return columns
