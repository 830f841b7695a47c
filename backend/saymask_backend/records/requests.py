"""Requests to the workers and what was offered in answer to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, delete, func, select, true
from sqlalchemy.orm import selectinload

from saymask.contract import Candidate, CocoRle, SegmentResult, Timings
from saymask.errors import SaymaskError
from saymask_backend.records.database import Database
from saymask_backend.records.offers import Offer, OfferedCandidate
from saymask_backend.records.project_key import ProjectKey
from saymask_backend.records.tables import CandidateRow, Request

RequestKind = Literal["typed", "clicked", "ahead", "proposed"]


@dataclass(frozen=True)
class NewRequest:
    """What is known before a worker is asked.

    Attributes:
        kind: as in ``tables.Request``.
        click_ids: the editor's ids of the clicks and boxes.
    """

    project: ProjectKey
    task_id: int
    expression: str
    k: int
    image: str
    kind: RequestKind = "typed"
    click_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class LastAnswer:
    """What was offered last for a task.

    Attributes:
        masks: COCO RLE, by rank.
        old_click_ids: clicks that belong to an earlier expression.
    """

    expression: str
    masks: tuple[dict[str, Any], ...]
    old_click_ids: frozenset[str]


@dataclass(frozen=True)
class RequestView:
    """A request as the status page shows it."""

    id: int
    created_at: datetime
    project_id: int
    task_id: int
    expression: str
    status: str
    latency_ms: float | None
    error_code: str | None
    error_text: str | None
    best_score: float | None


class RequestStore:
    """Requests and their candidates. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_request(self, new: NewRequest) -> int:
        """Store a request before a worker is asked; returns its id.

        An expression of a task's data has one request until that is answered, however often the
        task is opened.
        """
        row = Request(
            created_at=datetime.now(UTC),
            project_id=new.project.id,
            project_created=new.project.created,
            task_id=new.task_id,
            expression=new.expression,
            kind=new.kind,
            clicks=len(new.click_ids),
            click_ids=list(new.click_ids),
            k=new.k,
            image=new.image,
            status="waiting",
        )
        with self._database.session() as session, session.begin():
            if new.kind == "ahead":
                session.execute(
                    delete(Request).where(
                        *_of_task(new.project, new.task_id),
                        Request.kind == "ahead",
                        Request.expression == new.expression,
                        Request.status == "failed",
                    )
                )
            session.add(row)
            session.flush()
            return int(row.id)

    def save_answer(
        self, request_id: int, result: SegmentResult, region_ids: list[str], latency_ms: float
    ) -> None:
        """Store the candidates of a request, before they are shown to anyone.

        Args:
            request_id: of ``add_request``.
            result: the worker's answer.
            region_ids: one per candidate, as sent to Label Studio.
            latency_ms: from the request to the answer.
        """
        height, width = result.size_hw
        candidates = [
            CandidateRow(
                rank=candidate.rank,
                region_id=region_id,
                score=candidate.score,
                coco_rle=candidate.mask.as_dict(),
                box_xywh=list(candidate.box_xywh),
                predicted_iou=candidate.predicted_iou,
                stability_score=candidate.stability_score,
                source=candidate.source,
            )
            for candidate, region_id in zip(result.candidates, region_ids, strict=True)
        ]
        self._finish(
            request_id,
            candidates,
            status="answered",
            latency_ms=latency_ms,
            image_sha256=result.image_sha256,
            model_version=result.model_version,
            head_noun_phrase=result.head_noun_phrase,
            height_px=height,
            width_px=width,
            from_cache=result.from_cache,
            timings=result.timings.model_dump(),
            confidence=result.confidence,
            notices=list(result.notices),
        )

    def save_failure(self, request_id: int, error: SaymaskError, latency_ms: float) -> None:
        """Store why a request got no answer."""
        self._finish(
            request_id,
            [],
            status="failed",
            latency_ms=latency_ms,
            error_code=error.code,
            error_text=str(error),
        )

    def count_requests(self) -> dict[str, int]:
        """Return the number of requests per status."""
        with self._database.session() as session:
            rows = session.execute(select(Request.status, func.count()).group_by(Request.status))
            return {row[0]: row[1] for row in rows}

    def load_offers(self, project: ProjectKey, task_id: int) -> tuple[Offer, ...]:
        """Return the answered requests of a task, oldest first, with their candidates."""
        with self._database.session() as session:
            rows = session.scalars(
                _answered(project, task_id)
                .order_by(Request.id)
                .options(selectinload(Request.candidates))
            )
            return tuple(_to_offer(row) for row in rows)

    def load_answers(
        self, project: ProjectKey, task_id: int, image_sha256: str, model_version: str
    ) -> list[tuple[int, SegmentResult]]:
        """Return request ids and answers for the expressions in a task's data, oldest first."""
        query = _answered(project, task_id).where(
            Request.kind == "ahead",
            Request.image_sha256 == image_sha256,
            Request.model_version == model_version,
        )
        with self._database.session() as session:
            rows = session.scalars(
                query.order_by(Request.id).options(selectinload(Request.candidates))
            )
            return [(row.id, _to_result(row)) for row in rows]

    def load_offer(self, request_id: int) -> Offer | None:
        """Return one request with its candidates, or None."""
        with self._database.session() as session:
            row = session.get(Request, request_id)
            return _to_offer(row) if row is not None else None

    def load_last_answer(self, project: ProjectKey, task_id: int) -> LastAnswer | None:
        """Return what was offered last for a task, or None."""
        with self._database.session() as session:
            row = session.scalar(_answered(project, task_id).order_by(Request.id.desc()).limit(1))
            if row is None:
                return None
            newest_typed = select(func.max(Request.id)).where(
                *_of_task(project, task_id),
                Request.kind == "typed",
            )
            clicked = session.scalars(
                select(Request.click_ids).where(
                    *_of_task(project, task_id),
                    Request.kind == "clicked",
                    Request.id < newest_typed.scalar_subquery(),
                )
            )
            old_click_ids = frozenset(click_id for ids in clicked for click_id in ids or ())
            masks = tuple(c.coco_rle for c in row.candidates)
            return LastAnswer(row.expression, masks, old_click_ids)

    def list_expressions(self, project: ProjectKey, task_id: int) -> frozenset[str]:
        """Return every expression that was asked for a task."""
        with self._database.session() as session:
            rows = session.scalars(
                select(Request.expression).where(*_of_task(project, task_id)).distinct()
            )
            return frozenset(rows)

    def load_proposed_versions(self, project: ProjectKey) -> dict[int, str]:
        """Return the model version of what was proposed last, by task."""
        query = (
            select(Request.task_id, Request.model_version)
            .where(
                Request.project_id == project.id,
                Request.project_created.in_((project.created, 0)),
                Request.kind == "proposed",
                Request.status == "answered",
            )
            .order_by(Request.id)
        )
        with self._database.session() as session:
            return {task_id: version or "" for task_id, version in session.execute(query)}

    def list_latencies_ms(
        self, project_id: int | None = None, since: datetime | None = None
    ) -> list[float]:
        """Return the latencies of answered requests for which an annotator waited."""
        query = select(Request.latency_ms).where(
            Request.status == "answered",
            Request.latency_ms.is_not(None),
            Request.kind.in_(("typed", "clicked")),
        )
        if project_id is not None:
            query = query.where(Request.project_id == project_id)
        if since is not None:
            query = query.where(Request.created_at >= since)
        with self._database.session() as session:
            return [value for value in session.scalars(query) if value is not None]

    def count_failures(
        self, since: datetime, project_id: int | None = None
    ) -> list[tuple[str, int]]:
        """Return error codes of requests with their counts, the most frequent first."""
        query = select(Request.error_code, func.count()).where(
            Request.status == "failed", Request.created_at >= since
        )
        if project_id is not None:
            query = query.where(Request.project_id == project_id)
        with self._database.session() as session:
            rows = session.execute(query.group_by(Request.error_code))
            return sorted(((row[0] or "", row[1]) for row in rows), key=lambda row: -row[1])

    def count_offering(
        self, project_id: int | None = None, since: datetime | None = None
    ) -> dict[str, int]:
        """Return by source to how many answered requests of people it offered a candidate."""
        query = (
            select(CandidateRow.source, func.count(CandidateRow.request_id.distinct()))
            .join(Request, CandidateRow.request_id == Request.id)
            .where(Request.kind != "proposed")
            .group_by(CandidateRow.source)
        )
        if project_id is not None:
            query = query.where(Request.project_id == project_id)
        if since is not None:
            query = query.where(Request.created_at >= since)
        with self._database.session() as session:
            return {row[0]: row[1] for row in session.execute(query.order_by(CandidateRow.source))}

    def list_recent(self, limit: int = 20) -> list[RequestView]:
        """Return the newest requests, newest first."""
        with self._database.session() as session:
            rows = session.scalars(select(Request).order_by(Request.id.desc()).limit(limit))
            return [_to_view(row) for row in rows]

    def list_candidates(self, request_id: int) -> list[dict[str, Any]]:
        """Return the candidates of a request, by rank."""
        with self._database.session() as session:
            rows = session.scalars(
                select(CandidateRow)
                .where(CandidateRow.request_id == request_id)
                .order_by(CandidateRow.rank)
            )
            return [
                {
                    "region_id": r.region_id,
                    "rank": r.rank,
                    "score": r.score,
                    "source": r.source,
                    "mask": r.coco_rle,
                }
                for r in rows
            ]

    def _finish(self, request_id: int, candidates: list[CandidateRow], **values: Any) -> None:
        with self._database.session() as session, session.begin():
            row = session.get_one(Request, request_id)
            row.answered_at = datetime.now(UTC)
            for name, value in values.items():
                setattr(row, name, value)
            for candidate in candidates:
                candidate.request_id = request_id
                session.add(candidate)


def _of_task(project: ProjectKey, task_id: int) -> tuple[ColumnElement[bool], ...]:
    """Requests of a task; an unknown time of creation, on either side, matches every other."""
    created = Request.project_created.in_((project.created, 0)) if project.created else true()
    return Request.project_id == project.id, created, Request.task_id == task_id


def _answered(project: ProjectKey, task_id: int) -> Select[Request]:
    return select(Request).where(*_of_task(project, task_id), Request.status == "answered")


def _to_offer(row: Request) -> Offer:
    return Offer(
        request_id=row.id,
        created_at=row.created_at,
        expression=row.expression,
        image_sha256=row.image_sha256,
        size_hw=(row.height_px, row.width_px) if row.height_px and row.width_px else None,
        head_noun_phrase=row.head_noun_phrase,
        model_version=row.model_version,
        latency_ms=row.latency_ms,
        clicks=row.clicks,
        candidates=tuple(
            OfferedCandidate(
                c.id, c.region_id, c.rank, c.score, c.coco_rle, _to_box(c.box_xywh), c.source
            )
            for c in row.candidates
        ),
        kind=row.kind,
    )


def _to_result(row: Request) -> SegmentResult:
    """The worker's answer, as far as it is stored."""
    return SegmentResult(
        image_sha256=row.image_sha256 or "",
        expression=row.expression,
        size_hw=(row.height_px or 0, row.width_px or 0),
        candidates=tuple(
            Candidate(
                rank=c.rank,
                score=c.score,
                mask=CocoRle.model_validate(c.coco_rle),
                box_xywh=_to_box(c.box_xywh),
                predicted_iou=c.predicted_iou,
                stability_score=c.stability_score,
                source=c.source,
            )
            for c in row.candidates
        ),
        confidence=row.confidence,
        head_noun_phrase=row.head_noun_phrase,
        notices=tuple(row.notices or ()),
        proposals_count=len(row.candidates),
        model_version=row.model_version or "",
        from_cache=True,
        timings=Timings.model_validate(row.timings or {}),
    )


def _to_box(values: list[int]) -> tuple[int, int, int, int]:
    x, y, width, height = values
    return x, y, width, height


def _to_view(row: Request) -> RequestView:
    return RequestView(
        id=row.id,
        created_at=row.created_at,
        project_id=row.project_id,
        task_id=row.task_id,
        expression=row.expression,
        status=row.status,
        latency_ms=row.latency_ms,
        error_code=row.error_code,
        error_text=row.error_text,
        best_score=row.candidates[0].score if row.candidates else None,
    )
