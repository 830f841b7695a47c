"""Requests to the workers and what was offered in answer to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, delete, func, select, true
from sqlalchemy.orm import selectinload

from saymask.contract import Candidate, CocoRle, SegmentResult, Timings
from saymask.errors import SaymaskError
from saymask_backend.records.database import Database
from saymask_backend.records.tables import CandidateRow, Request, read_row
from saymask_backend.records.types import (
    Offer,
    OfferedCandidate,
    ProjectKey,
    build_region_id,
    to_key,
)

RequestKind = Literal["typed", "clicked", "ahead", "proposed"]
DOCTOR_ENTRY_ID = "saymask-doctor"
"""The editor's id of the expression that ``saymask doctor`` tries: nobody typed it."""
_IS_ASKED = func.coalesce(Request.editor_entry_id, "") != DOCTOR_ENTRY_ID
_RECENT = 20
_MAX_ENTRY_ID_CHARS = 200
_WITH_CANDIDATES = selectinload(Request.candidates)


@dataclass(frozen=True)
class NewRequest:
    """A request before it is sent to a worker.

    Attributes:
        kind: as in ``tables.Request``.
        click_ids: the editor's ids of the clicks and boxes.
        editor_entry_id: the editor's id of the typed field, or empty.
    """

    project: ProjectKey
    task_id: int
    expression: str
    k: int
    image: str
    kind: RequestKind = "typed"
    click_ids: tuple[str, ...] = ()
    editor_entry_id: str = ""


@dataclass(frozen=True)
class LastAnswer:
    """The last offer for a task.

    Attributes:
        masks: COCO RLE; those that are shown first, then by rank.
        region_id: of the region that shows one candidate after another.
        old_click_ids: clicks that belong to an earlier expression.
    """

    expression: str
    masks: tuple[dict[str, Any], ...]
    region_id: str
    old_click_ids: frozenset[str]


@dataclass(frozen=True)
class StoredAnswer:
    """The answer to an expression, to be shown again.

    Attributes:
        region_id: of the region that shows one candidate after another.
        shown: the ranks of each showing.
    """

    request_id: int
    result: SegmentResult
    region_id: str
    shown: tuple[tuple[int, ...], ...]


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
        """Store a request before it is sent to a worker; returns its id.

        A request of kind ``ahead`` replaces the failed ones for the same expression and task.
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
            editor_entry_id=new.editor_entry_id[:_MAX_ENTRY_ID_CHARS] or None,
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
        self,
        request_id: int,
        result: SegmentResult,
        latency_ms: float,
        shown: Sequence[int] = (),
        region_id: str | None = None,
    ) -> None:
        """Store the candidates of a request, before they are shown to anyone.

        Args:
            request_id: of ``add_request``.
            result: the worker's answer.
            latency_ms: from the request to the answer.
            shown: ranks of the candidates that are shown; empty for one region for each.
            region_id: of the earlier request whose answer this one replaces.
        """
        height, width = result.size_hw
        candidates = [
            CandidateRow(
                rank=candidate.rank,
                region_id=build_region_id(request_id, candidate.rank),
                score=candidate.score,
                coco_rle=candidate.mask.as_dict(),
                box_xywh=list(candidate.box_xywh),
                predicted_iou=candidate.predicted_iou,
                stability_score=candidate.stability_score,
                source=candidate.source,
            )
            for candidate in result.candidates
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
            is_first_look=result.is_first_look,
            region_id=region_id or build_region_id(request_id),
            shown=[list(shown)] if shown else [],
        )

    def add_shown(self, request_id: int, shown: Sequence[int]) -> None:
        """Store that candidates of these ranks are shown now."""
        with self._database.session() as session, session.begin():
            row = session.get_one(Request, request_id, with_for_update=True)
            if not row.shown or row.shown[-1] != list(shown):
                row.shown = [*(row.shown or ()), list(shown)]

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
        query = select(Request.status, func.count()).where(_IS_ASKED).group_by(Request.status)
        return self._database.read_pairs(query)

    def load_offers(self, project: ProjectKey, task_id: int) -> tuple[Offer, ...]:
        """Return the answered requests of a task, oldest first, with their candidates."""
        query = _answered(project, task_id).order_by(Request.id).options(_WITH_CANDIDATES)
        return tuple(_to_offer(row) for row in self._database.scalars(query))

    def load_answers(
        self, project: ProjectKey, task_id: int, image_sha256: str, model_version: str
    ) -> list[tuple[int, SegmentResult]]:
        """Return request ids and answers for the expressions in a task's data, oldest first."""
        query = _answered(project, task_id).where(
            Request.kind == "ahead",
            Request.image_sha256 == image_sha256,
            Request.model_version == model_version,
        )
        rows = self._database.scalars(query.order_by(Request.id).options(_WITH_CANDIDATES))
        return [(row.id, _to_result(row)) for row in rows]

    def load_offer(self, request_id: int) -> Offer | None:
        """Return one request with its candidates by rank, or None."""
        with self._database.session() as session:
            row = session.get(Request, request_id)
            return _to_offer(row) if row is not None else None

    def load_last_answer(self, project: ProjectKey, task_id: int) -> LastAnswer | None:
        """Return the last offer for a task, or None."""
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
            shown = row.shown[-1] if row.shown else []
            candidates = sorted(row.candidates, key=lambda c: c.rank not in shown)
            masks = tuple(c.coco_rle for c in candidates)
            return LastAnswer(row.expression, masks, _get_region_id(row), old_click_ids)

    def load_answer(
        self,
        project: ProjectKey,
        task_id: int,
        image: str,
        expression: str,
        editor_entry_id: str,
    ) -> StoredAnswer | None:
        """Return the newest answer to an annotator's expression about an image, or None.

        An annotator is known by the field in the editor.
        """
        key = to_key(expression)
        query = _answered(project, task_id).where(
            Request.editor_entry_id == editor_entry_id[:_MAX_ENTRY_ID_CHARS],
            Request.image == image,
        )
        with self._database.session() as session:
            rows = session.scalars(query.order_by(Request.id.desc()))
            row = next((row for row in rows if to_key(row.expression) == key), None)
            if row is None:
                return None
            shown = tuple(tuple(ranks) for ranks in row.shown or ())
            return StoredAnswer(row.id, _to_result(row), _get_region_id(row), shown)

    def load_newest_expression(
        self, project: ProjectKey, task_id: int, editor_entry_id: str
    ) -> str | None:
        """Return what was answered last in a field of the editor, or None."""
        query = (
            _answered(project, task_id)
            .where(Request.editor_entry_id == editor_entry_id[:_MAX_ENTRY_ID_CHARS])
            .with_only_columns(Request.expression)
            .order_by(Request.id.desc())
            .limit(1)
        )
        return next(iter(self._database.scalars(query)), None)

    def list_expressions(self, project: ProjectKey, task_id: int) -> frozenset[str]:
        """Return every expression that was asked for a task."""
        query = select(Request.expression).where(*_of_task(project, task_id)).distinct()
        return frozenset(self._database.scalars(query))

    def load_newest_expressions(self, project: ProjectKey, model_version: str) -> dict[int, str]:
        """Return the expression that was answered last without an annotator, by task."""
        query = (
            select(Request.task_id, Request.expression)
            .where(
                *_of_project(project), Request.kind == "ahead", Request.status == "answered",
                Request.model_version == model_version,
            )
            .order_by(Request.id)
        )  # fmt: skip
        return self._database.read_pairs(query)

    def load_proposed_versions(self, project: ProjectKey) -> dict[int, str]:
        """Return the model version of what was proposed last, by task."""
        query = (
            select(Request.task_id, Request.model_version)
            .where(*_of_project(project), Request.kind == "proposed", Request.status == "answered")
            .order_by(Request.id)
        )
        versions = self._database.read_pairs(query)
        return {task_id: version or "" for task_id, version in versions.items()}

    def list_latencies_ms(
        self, project_id: int | None = None, since: datetime | None = None
    ) -> list[float]:
        """Return the latencies of answered requests for which an annotator waited."""
        query = select(Request.latency_ms).where(
            Request.status == "answered",
            Request.kind.in_(("typed", "clicked")),
            *_of_report(project_id, since),
        )
        return [value for value in self._database.scalars(query) if value is not None]

    def count_failures(
        self, since: datetime, project_id: int | None = None
    ) -> list[tuple[str, int]]:
        """Return error codes of requests with their counts, the most frequent first."""
        query = (
            select(Request.error_code, func.count())
            .where(Request.status == "failed", *_of_report(project_id, since))
            .group_by(Request.error_code)
        )
        counts = self._database.read_pairs(query)
        return sorted(((code or "", n) for code, n in counts.items()), key=lambda item: -item[1])

    def count_offering(
        self, project_id: int | None = None, since: datetime | None = None
    ) -> dict[str, int]:
        """Return for each source the number of people's requests it offered a candidate for."""
        query = (
            select(CandidateRow.source, func.count(CandidateRow.request_id.distinct()))
            .join(Request, CandidateRow.request_id == Request.id)
            .where(Request.kind != "proposed", *_of_report(project_id, since))
            .group_by(CandidateRow.source)
            .order_by(CandidateRow.source)
        )
        return self._database.read_pairs(query)

    def list_recent(self) -> list[RequestView]:
        """Return the newest requests, newest first."""
        query = select(Request).where(_IS_ASKED).order_by(Request.id.desc()).limit(_RECENT)
        rows = self._database.scalars(query.options(_WITH_CANDIDATES))
        return [read_row(RequestView, row) for row in rows]

    def _finish(self, request_id: int, candidates: list[CandidateRow], **values: Any) -> None:
        with self._database.session() as session, session.begin():
            row = session.get_one(Request, request_id)
            row.answered_at = datetime.now(UTC)
            for name, value in values.items():
                setattr(row, name, value)
            for candidate in candidates:
                candidate.request_id = request_id
                session.add(candidate)


def _of_project(project: ProjectKey) -> tuple[ColumnElement[bool], ...]:
    """Requests of a project; an unknown time of creation, on either side, matches every other."""
    created = Request.project_created.in_((project.created, 0)) if project.created else true()
    return Request.project_id == project.id, created, _IS_ASKED


def _of_task(project: ProjectKey, task_id: int) -> tuple[ColumnElement[bool], ...]:
    return *_of_project(project), Request.task_id == task_id


def _of_report(project_id: int | None, since: datetime | None) -> list[ColumnElement[bool]]:
    """Requests of one project, or of all, since a time, or ever."""
    conditions = [_IS_ASKED]
    if project_id is not None:
        conditions.append(Request.project_id == project_id)
    if since is not None:
        conditions.append(Request.created_at >= since)
    return conditions


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
        region_id=_get_region_id(row),
        shown=tuple(dict.fromkeys(rank for ranks in row.shown or () for rank in ranks)),
    )


def _get_region_id(row: Request) -> str:
    return row.region_id or build_region_id(row.id)


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
        is_first_look=bool(row.is_first_look),
        timings=Timings.model_validate(row.timings or {}),
    )


def _to_box(values: list[int]) -> tuple[int, int, int, int]:
    x, y, width, height = values
    return x, y, width, height
