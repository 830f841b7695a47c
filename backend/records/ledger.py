"""Versions of annotations and the records they decide: written once, read as the current view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.exc import IntegrityError

from backend.masks import compute_area, decode_coco_rle, encode_coco_rle
from backend.records.database import Database, StoreError
from backend.records.model import (
    DELETED_AT,
    AnnotationVersion,
    CandidateRow,
    Event,
    RecordRow,
    Request,
)
from backend.records.outcomes import Decision, Offer, OfferedCandidate
from backend.submission import Submission

Source = Literal["webhook", "sync"]
EventState = Literal["understood", "nothing", "problem"]

_BATCH = 500
_TOMBSTONE = "deleted"


@dataclass(frozen=True)
class WaitingEvent:
    """An event nobody has looked at. ``body`` is the JSON text."""

    id: int
    action: str
    body: str


@dataclass(frozen=True)
class EventProblem:
    """An event that could not be understood, and why."""

    id: int
    received_at: datetime
    action: str
    project_id: int | None
    problem: str


@dataclass(frozen=True)
class RecordFilter:
    """Which records; None does not restrict. ``since`` and ``until`` are of the decision."""

    project_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcomes: tuple[str, ...] = ()
    annotator: str | None = None
    min_iou: float | None = None


@dataclass(frozen=True)
class RecordView:
    """A record with a mask, as exports and people want it; columns as in ``RecordRow``."""

    id: int
    annotation_id: int
    project_id: int
    task_id: int
    decided_at: datetime
    photo: str
    photo_sha256: str | None
    height_px: int | None
    width_px: int | None
    expression: str
    typed_expression: str | None
    outcome: str
    request_id: int | None
    candidate_id: int | None
    offered: int
    rank: int | None
    score: float | None
    iou: float | None
    first_iou: float | None
    coco_rle: dict[str, Any] | None
    area_px: int | None
    parts: list[dict[str, Any]]
    head_noun_phrase: str | None
    region_ids: list[str]
    dabs: int
    clicks: int
    annotator: str | None
    seconds: float | None
    model_version: str | None
    latency_ms: float | None
    notes: list[str]


_COLUMNS = tuple(RecordView.__dataclass_fields__)


class Ledger:
    """Reads and writes records. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def waiting_events(self, limit: int) -> list[WaitingEvent]:
        """The oldest events that wait to be understood."""
        with self.database.session() as session:
            rows = session.scalars(
                select(Event).where(Event.state == "waiting").order_by(Event.id).limit(limit)
            )
            return [WaitingEvent(row.id, row.action, row.body) for row in rows]

    def offers(self, project_id: int, task_id: int) -> tuple[Offer, ...]:
        """Answered requests of a task, oldest first, with their candidates' masks."""
        with self.database.session() as session:
            rows = session.scalars(
                select(Request)
                .where(
                    Request.project_id == project_id,
                    Request.task_id == task_id,
                    Request.status == "answered",
                )
                .order_by(Request.id)
            )
            return tuple(_to_offer(row) for row in rows)

    def write(
        self,
        submission: Submission,
        decisions: Sequence[Decision],
        source: Source,
        event_id: int | None = None,
    ) -> bool:
        """Write a version and its records, and mark its event, all or nothing.

        Returns:
            Whether the version was new; a known one changes nothing but the event's mark.
        """
        version = AnnotationVersion(
            annotation_id=submission.annotation_id,
            project_id=submission.project_id,
            task_id=submission.task_id,
            updated_at=submission.updated_at,
            seen_at=datetime.now(UTC),
            source=source,
            deleted=False,
            content_hash=submission.content_hash,
        )
        return self._write(version, [_to_row(submission, d) for d in decisions], event_id)

    def write_deletion(
        self, annotation_id: int, project_id: int, source: Source, event_id: int | None = None
    ) -> bool:
        """Write that an annotation was deleted, known or not; what it said stays as history."""
        version = AnnotationVersion(
            annotation_id=annotation_id,
            project_id=project_id,
            task_id=0,
            updated_at=DELETED_AT,
            seen_at=datetime.now(UTC),
            source=source,
            deleted=True,
            content_hash=_TOMBSTONE,
        )
        return self._write(version, [], event_id)

    def _write(
        self, version: AnnotationVersion, rows: list[RecordRow], event_id: int | None
    ) -> bool:
        with self.database.session() as session:
            known = session.scalar(
                select(AnnotationVersion.id).where(
                    AnnotationVersion.annotation_id == version.annotation_id,
                    AnnotationVersion.updated_at == version.updated_at,
                    AnnotationVersion.content_hash == version.content_hash,
                )
            )
        if known is not None:
            if event_id is not None:
                self.mark_event(event_id, "understood")
            return False
        with self.database.session() as session:
            try:
                session.add(version)
                session.flush()
                for row in rows:
                    row.version_id = version.id
                    session.add(row)
                if event_id is not None:
                    session.execute(_mark(event_id, "understood", None))
                session.commit()
            except IntegrityError as error:
                session.rollback()
                if "annotation_version" not in str(error.orig):
                    raise
                # Another process wrote the same version a moment ago; its event is still ours.
                if event_id is not None:
                    session.execute(_mark(event_id, "understood", None))
                    session.commit()
                return False
        return True

    def mark_event(self, event_id: int, state: EventState, problem: str | None = None) -> None:
        """Say what became of an event."""
        with self.database.session() as session, session.begin():
            session.execute(_mark(event_id, state, problem))

    def retry_problems(self) -> int:
        """Have every event that was not understood looked at again; returns how many."""
        with self.database.session() as session, session.begin():
            result = session.execute(
                update(Event).where(Event.state == "problem").values(state="waiting", problem=None)
            )
            return int(result.rowcount)  # type: ignore[attr-defined]

    def count_events(self) -> dict[str, int]:
        """Events per state."""
        with self.database.session() as session:
            rows = session.execute(select(Event.state, func.count()).group_by(Event.state))
            return {row[0]: row[1] for row in rows}

    def problems(self, limit: int = 20) -> list[EventProblem]:
        """Events that were not understood, newest first."""
        with self.database.session() as session:
            rows = session.scalars(
                select(Event).where(Event.state == "problem").order_by(Event.id.desc()).limit(limit)
            )
            return [
                EventProblem(r.id, r.received_at, r.action, r.project_id, r.problem or "")
                for r in rows
            ]

    def current_versions(self, project_id: int) -> dict[int, str]:
        """Content hash of the current version of every annotation that is not deleted."""
        newest = _newest_versions()
        with self.database.session() as session:
            rows = session.execute(
                select(newest.c.annotation_id, newest.c.content_hash).where(
                    newest.c.position == 1,
                    newest.c.deleted.is_(False),
                    newest.c.project_id == project_id,
                )
            )
            return {row[0]: row[1] for row in rows}

    def projects(self) -> list[int]:
        """Every project that was ever seen."""
        with self.database.session() as session:
            found = set(session.scalars(select(Request.project_id).distinct()))
            found |= set(session.scalars(select(AnnotationVersion.project_id).distinct()))
            found |= set(session.scalars(select(Event.project_id).distinct()))
            return sorted(project for project in found if project)

    def count(self, chosen: RecordFilter) -> int:
        """How many records the current view has."""
        with self.database.session() as session:
            found = _current(chosen).with_only_columns(func.count(), maintain_column_froms=True)
            return int(session.scalar(found) or 0)

    def records(
        self, chosen: RecordFilter, *, newest_first: bool = False, limit: int | None = None
    ) -> Iterator[RecordView]:
        """The current view: records of the newest version of each annotation that is not
        deleted, by id. Read in pieces; memory does not grow with their number."""
        last: int | None = None
        remaining = limit
        while remaining is None or remaining > 0:
            size = _BATCH if remaining is None else min(_BATCH, remaining)
            page = _current(chosen)
            if last is not None:
                page = page.where(RecordRow.id < last if newest_first else RecordRow.id > last)
            order = RecordRow.id.desc() if newest_first else RecordRow.id
            with self.database.session() as session:
                rows = [_to_view(row) for row in session.scalars(page.order_by(order).limit(size))]
            yield from rows
            if len(rows) < size:
                return
            last = rows[-1].id
            remaining = None if remaining is None else remaining - len(rows)

    def by_photo(
        self, chosen: RecordFilter, *, known_only: bool = False
    ) -> Iterator[list[RecordView]]:
        """The current view photo by photo, photos in the order of their hash. One long reading:
        what is written meanwhile is not in it, and memory holds one photo's records.

        Args:
            known_only: leave out records whose photo nobody could read.

        Raises:
            StoreError: the database cannot be used, or a record has no photo hash yet.
        """
        page = _current(chosen).order_by(RecordRow.photo_sha256, RecordRow.id)
        if known_only:
            page = page.where(RecordRow.photo_sha256.is_not(None))
        # Columns, not objects: a session would remember every object it gave out.
        columns = page.with_only_columns(
            *(getattr(RecordRow, name) for name in _COLUMNS), maintain_column_froms=True
        )
        with self.database.session() as session:
            rows = session.execute(columns.execution_options(yield_per=_BATCH))
            views = (RecordView(**dict(zip(_COLUMNS, row, strict=True))) for row in rows)
            for sha256, group in groupby(views, key=lambda view: view.photo_sha256):
                if sha256 is None:
                    raise StoreError("A record's photo has not been read yet.", "Export again.")
                yield list(group)

    def unread_photos(self, chosen: RecordFilter) -> list[tuple[str, int]]:
        """References of photos whose content is not known, each with a task that holds it."""
        wanted = (
            _current(chosen)
            .where(RecordRow.photo_sha256.is_(None))
            .with_only_columns(
                RecordRow.photo, func.min(RecordRow.task_id), maintain_column_froms=True
            )
            .group_by(RecordRow.photo)
            .order_by(RecordRow.photo)
        )
        with self.database.session() as session:
            return [(row[0], row[1]) for row in session.execute(wanted)]

    def learn_photo(self, photo: str, sha256: str) -> None:
        """Fill in what a reference that no worker ever saw leads to."""
        with self.database.session() as session, session.begin():
            session.execute(
                update(RecordRow)
                .where(RecordRow.photo == photo, RecordRow.photo_sha256.is_(None))
                .values(photo_sha256=sha256)
            )

    def figures(self, chosen: RecordFilter) -> list[RecordView]:
        """The current view without masks, regions and notes: what statistics need, in one go."""
        left_out: dict[str, Any] = {
            "coco_rle": None,
            "parts": [],
            "region_ids": [],
            "notes": [],
            "photo": "",
        }
        names = [name for name in _COLUMNS if name not in left_out]
        columns = [getattr(RecordRow, name) for name in names]
        with self.database.session() as session:
            rows = session.execute(
                _current(chosen).with_only_columns(*columns, maintain_column_froms=True)
            )
            return [RecordView(**dict(zip(names, row, strict=True)), **left_out) for row in rows]

    def record(self, record_id: int) -> RecordView | None:
        """Any record, current or history."""
        with self.database.session() as session:
            row = session.get(RecordRow, record_id)
            return _to_view(row) if row is not None else None

    def history(self, annotation_id: int) -> list[tuple[datetime, str, RecordView | None]]:
        """Everything known of an annotation, oldest first: when, from where, and a record or, for
        a deletion, None."""
        with self.database.session() as session:
            versions = session.scalars(
                select(AnnotationVersion)
                .where(AnnotationVersion.annotation_id == annotation_id)
                .order_by(AnnotationVersion.updated_at, AnnotationVersion.id)
            )
            found: list[tuple[datetime, str, RecordView | None]] = []
            for version in versions:
                rows = session.scalars(
                    select(RecordRow)
                    .where(RecordRow.version_id == version.id)
                    .order_by(RecordRow.id)
                )
                if version.deleted:
                    found.append((version.seen_at, version.source, None))
                found += [(version.updated_at, version.source, _to_view(row)) for row in rows]
            return found

    def offer(self, request_id: int) -> Offer | None:
        """One answered request with its candidates."""
        with self.database.session() as session:
            row = session.get(Request, request_id)
            return _to_offer(row) if row is not None else None


def _mark(event_id: int, state: str, problem: str | None) -> Any:
    return (
        update(Event)
        .where(Event.id == event_id)
        .values(state=state, problem=problem, processed_at=datetime.now(UTC))
    )


def _newest_versions() -> Any:
    position = func.row_number().over(
        partition_by=AnnotationVersion.annotation_id,
        order_by=(AnnotationVersion.updated_at.desc(), AnnotationVersion.id.desc()),
    )
    return select(
        AnnotationVersion.id,
        AnnotationVersion.annotation_id,
        AnnotationVersion.project_id,
        AnnotationVersion.content_hash,
        AnnotationVersion.deleted,
        position.label("position"),
    ).subquery()


def _current(chosen: RecordFilter) -> Select[RecordRow]:
    newest = _newest_versions()
    conditions: list[ColumnElement[bool]] = [newest.c.position == 1, newest.c.deleted.is_(False)]
    if chosen.project_id is not None:
        conditions.append(RecordRow.project_id == chosen.project_id)
    if chosen.since is not None:
        conditions.append(RecordRow.decided_at >= chosen.since)
    if chosen.until is not None:
        conditions.append(RecordRow.decided_at < chosen.until)
    if chosen.outcomes:
        conditions.append(RecordRow.outcome.in_(chosen.outcomes))
    if chosen.annotator is not None:
        conditions.append(RecordRow.annotator == chosen.annotator)
    if chosen.min_iou is not None:
        conditions.append(RecordRow.iou >= chosen.min_iou)
    return select(RecordRow).join(newest, RecordRow.version_id == newest.c.id).where(*conditions)


def _to_offer(row: Request) -> Offer:
    return Offer(
        request_id=row.id,
        created_at=row.created_at,
        expression=row.expression,
        photo_sha256=row.photo_sha256,
        size_hw=(row.height_px, row.width_px) if row.height_px and row.width_px else None,
        head_noun_phrase=row.head_noun_phrase,
        model_version=row.model_version,
        latency_ms=row.latency_ms,
        clicks=row.clicks,
        candidates=tuple(_to_candidate(candidate) for candidate in row.candidates),
    )


def _to_candidate(row: CandidateRow) -> OfferedCandidate:
    mask = decode_coco_rle(row.coco_rle)
    return OfferedCandidate(row.id, row.region_id, row.rank, row.score, mask)


def _to_row(submission: Submission, decision: Decision) -> RecordRow:
    offer, candidate, mask = decision.offer, decision.candidate, decision.mask
    size_hw = mask.shape if mask is not None else offer.size_hw if offer else None
    return RecordRow(
        annotation_id=submission.annotation_id,
        project_id=submission.project_id,
        task_id=submission.task_id,
        decided_at=submission.updated_at,
        photo=submission.photo,
        photo_sha256=decision.photo_sha256,
        height_px=size_hw[0] if size_hw else None,
        width_px=size_hw[1] if size_hw else None,
        expression=decision.expression,
        typed_expression=decision.typed_expression,
        outcome=decision.outcome,
        request_id=offer.request_id if offer else None,
        candidate_id=candidate.candidate_id if candidate else None,
        offered=len(offer.candidates) if offer else 0,
        rank=candidate.rank if candidate else None,
        score=candidate.score if candidate else None,
        iou=decision.iou,
        first_iou=decision.first_iou,
        coco_rle=encode_coco_rle(mask) if mask is not None else None,
        area_px=compute_area(mask) if mask is not None else None,
        parts=[encode_coco_rle(part) for part in decision.parts],
        head_noun_phrase=offer.head_noun_phrase if offer else None,
        region_ids=list(decision.region_ids),
        dabs=decision.dabs,
        clicks=offer.clicks if offer and candidate else 0,
        annotator=submission.annotator,
        seconds=decision.seconds,
        model_version=offer.model_version if offer else None,
        latency_ms=offer.latency_ms if offer else None,
        notes=list(decision.notes),
    )


def _to_view(row: RecordRow) -> RecordView:
    return RecordView(**{name: getattr(row, name) for name in _COLUMNS})
