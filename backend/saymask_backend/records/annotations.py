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
from saymask_backend.records.tables import AnnotationVersion, RecordRow, of_project, read_row
from saymask_backend.records.types import ProjectKey, RecordView, Submission

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
            source: ``sync`` reads the state at ``seen_at``, which replaces the current one; a
                webhook reports a state of an earlier time.
            seen_at: when it was received, or read from Label Studio.
            event_id: to be marked as understood; removed, if sync read it.

        Returns:
            Whether the version was new; a known one changes nothing but the event's mark.
        """
        version = _build_version(
            submission.annotation_id, submission.project, submission.task_id, source, seen_at,
            updated_at=submission.updated_at, content_hash=submission.content_hash,
        )  # fmt: skip
        return self._save(version, [_to_row(submission, d) for d in decisions], event_id)

    def save_deletion(
        self, annotation_id: int, project: ProjectKey, source: Source, deleted_at: datetime
    ) -> bool:
        """Write that an annotation was deleted, known or not; its records stay as history.

        A state that Label Studio saved later, or that is seen in Label Studio later, ends it.
        """
        version = _build_version(
            annotation_id, project, 0, source, deleted_at,
            updated_at=deleted_at, content_hash=_DELETED_HASH,
        )  # fmt: skip
        return self._save(version, [], None)

    def save_task_deletion(
        self, task_id: int, project: ProjectKey, source: Source, deleted_at: datetime
    ) -> int:
        """Write that all annotations of a task were deleted with it; returns how many.

        Each deletion is a separate transaction; repeating them changes nothing.
        """
        current = build_current_versions()
        ids = self._database.scalars(
            select(current.c.annotation_id).where(
                current.c.task_id == task_id, *of_project(current.c, project)
            )
        )
        return sum(self.save_deletion(i, project, source, deleted_at) for i in ids)

    def load_current_hashes(self, project: ProjectKey) -> dict[int, str]:
        """Return annotation id to content hash of every annotation that is not deleted."""
        current = build_current_versions()
        with self._database.session() as session, session.begin():
            _adopt(session, project)
        return self._database.read_pairs(
            select(current.c.annotation_id, current.c.content_hash).where(
                *of_project(current.c, project)
            )
        )

    def load_history(self, annotation_id: int, project: ProjectKey) -> list[HistoryEntry]:
        """Return every version of an annotation with its records, oldest first."""
        query = (
            select(AnnotationVersion, RecordRow)
            .outerjoin(RecordRow, RecordRow.version_id == AnnotationVersion.id)
            .where(
                AnnotationVersion.annotation_id == annotation_id,
                *of_project(AnnotationVersion, project),
            )
            .order_by(AnnotationVersion.ordered_at, AnnotationVersion.id, RecordRow.id)
        )
        with self._database.session() as session:
            return [
                HistoryEntry(
                    version.seen_at if version.deleted else version.updated_at,
                    version.source,
                    read_row(RecordView, row) if row is not None else None,
                )
                for version, row in session.execute(query)
            ]

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
    """Add the project's time of creation to rows that only have its number.

    Rows that were seen before the project existed belong to another one with that number.
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
    """Order a state that a webhook reported among the others by Label Studio's clock.

    A state that Label Studio saved after the newest one counts from its receipt, so that it ends
    deletions and replaces what sync read; an older one, which came late, counts from before that.
    Times that were in the future when they were received are ignored.
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
    project = ProjectKey(version.project_id, version.project_created)
    same = AnnotationVersion.annotation_id == version.annotation_id
    return same, *of_project(AnnotationVersion, project)


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


def build_current_versions() -> Subquery:
    """Return the newest version of each annotation that is not deleted, as a subquery."""
    position = func.row_number().over(
        partition_by=(
            AnnotationVersion.project_id,
            AnnotationVersion.project_created,
            AnnotationVersion.annotation_id,
        ),
        order_by=(AnnotationVersion.ordered_at.desc(), AnnotationVersion.id.desc()),
    )
    # Only these columns: the database sorts them all.
    versions = select(
        AnnotationVersion.id,
        AnnotationVersion.annotation_id,
        AnnotationVersion.project_id,
        AnnotationVersion.project_created,
        AnnotationVersion.task_id,
        AnnotationVersion.content_hash,
        AnnotationVersion.deleted,
        position.label("position"),
    ).subquery()
    current = versions.c.position == 1, versions.c.deleted.is_(False)
    return select(versions).where(*current).subquery()


def _build_version(
    annotation_id: int,
    project: ProjectKey,
    task_id: int,
    source: Source,
    seen_at: datetime,
    *,
    updated_at: datetime,
    content_hash: str,
) -> AnnotationVersion:
    return AnnotationVersion(
        annotation_id=annotation_id,
        project_id=project.id,
        project_created=project.created,
        task_id=task_id,
        updated_at=updated_at,
        ordered_at=seen_at,
        seen_at=seen_at,
        source=source,
        deleted=content_hash == _DELETED_HASH,
        content_hash=content_hash,
    )


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
            "shown": list(offer.shown) or None,
            "head_noun_phrase": offer.head_noun_phrase,
            "model_version": offer.model_version,
            "latency_ms": offer.latency_ms,
        }
    if candidate is not None:
        columns |= {
            "candidate_id": candidate.id,
            "rank": candidate.rank,
            "score": candidate.score,
            "source": candidate.source,
            "clicks": offer.clicks if offer else 0,
        }
    return columns
