"""The only SQL. Each method is one transaction; what it returned from is on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import func, select

from backend.contract import SegmentResult
from backend.errors import SaymaskError
from backend.records.database import Database
from backend.records.model import CandidateRow, Event, Request


@dataclass(frozen=True)
class NewRequest:
    """What is known before the worker is asked; ``kind`` as in ``Request``, ``click_ids`` the
    editor's names of the clicks and boxes that ask."""

    project_id: int
    task_id: int
    expression: str
    k: int
    photo: str
    kind: Literal["typed", "clicked", "ahead"] = "typed"
    click_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class LastAnswer:
    """What was offered last: masks as COCO RLE by rank. ``old_clicks`` were about an expression
    before that."""

    expression: str
    masks: tuple[dict[str, Any], ...]
    old_clicks: frozenset[str]


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


class Store:
    """Requests, what was answered to them, and what Label Studio reported.

    Args:
        url: see ``Database``.

    Raises:
        ConfigError: the URL is malformed, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def close(self) -> None:
        self.database.close()

    def migrate(self) -> None:
        """See ``Database.migrate``."""
        self.database.migrate()

    def add_request(self, new: NewRequest) -> int:
        """Store a request before anything is done about it; returns its id."""
        row = Request(
            created_at=_now(),
            project_id=new.project_id,
            task_id=new.task_id,
            expression=new.expression,
            kind=new.kind,
            clicks=len(new.click_ids),
            click_ids=list(new.click_ids),
            k=new.k,
            photo=new.photo,
            status="waiting",
        )
        return self._add(row)

    def store_answer(
        self, request_id: int, result: SegmentResult, region_ids: list[str], latency_ms: float
    ) -> None:
        """Store the candidates of a request, before they are shown to anyone."""
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
            )
            for candidate, region_id in zip(result.candidates, region_ids, strict=True)
        ]
        self._finish(
            request_id,
            candidates,
            status="answered",
            latency_ms=latency_ms,
            photo_sha256=result.photo_sha256,
            model_version=result.model_version,
            head_noun_phrase=result.head_noun_phrase,
            height_px=height,
            width_px=width,
            from_cache=result.from_cache,
            timings=result.timings.model_dump(),
            confidence=result.confidence,
            notices=list(result.notices),
        )

    def store_failure(self, request_id: int, error: SaymaskError, latency_ms: float) -> None:
        """Store why a request got no answer."""
        self._finish(
            request_id,
            [],
            status="failed",
            latency_ms=latency_ms,
            error_code=error.code,
            error_text=str(error),
        )

    def append_event(self, action: str, body: dict[str, Any]) -> int:
        """Append a webhook. The project's token, which Label Studio sends along, is left out."""
        task = body.get("task")
        annotation = body.get("annotation")
        project = body.get("project")
        row = Event(
            received_at=_now(),
            action=action.encode("utf-8", errors="replace").decode("utf-8")[:64],
            project_id=_id_of(project),
            task_id=_id_of(task),
            annotation_id=_id_of(annotation),
            body=json.dumps(_without_secrets(body)),
        )
        return self._add(row)

    def count_events(self) -> dict[str, int]:
        """Events per action."""
        with self.database.session() as session:
            rows = session.execute(select(Event.action, func.count()).group_by(Event.action))
            return {row[0]: row[1] for row in rows}

    def events(self, limit: int = 100) -> list[dict[str, Any]]:
        """Stored events, newest first, with their bodies."""
        with self.database.session() as session:
            rows = session.scalars(select(Event).order_by(Event.id.desc()).limit(limit))
            return [
                {"id": row.id, "action": row.action, "body": json.loads(row.body)} for row in rows
            ]

    def count_requests(self) -> dict[str, int]:
        """Requests per status."""
        with self.database.session() as session:
            rows = session.execute(select(Request.status, func.count()).group_by(Request.status))
            return {row[0]: row[1] for row in rows}

    def last_answer(self, project_id: int, task_id: int) -> LastAnswer | None:
        """What a task was last asked and offered, if anything."""
        with self.database.session() as session:
            row = session.scalar(
                select(Request)
                .where(
                    Request.project_id == project_id,
                    Request.task_id == task_id,
                    Request.status == "answered",
                )
                .order_by(Request.id.desc())
                .limit(1)
            )
            if row is None:
                return None
            newest_typed = select(func.max(Request.id)).where(
                Request.project_id == project_id,
                Request.task_id == task_id,
                Request.kind == "typed",
            )
            clicked = session.scalars(
                select(Request.click_ids).where(
                    Request.project_id == project_id,
                    Request.task_id == task_id,
                    Request.kind == "clicked",
                    Request.id < newest_typed.scalar_subquery(),
                )
            )
            old = frozenset(number for ids in clicked for number in ids or ())
            return LastAnswer(row.expression, tuple(c.coco_rle for c in row.candidates), old)

    def asked(self, project_id: int, task_id: int) -> frozenset[str]:
        """Every expression a task was asked for."""
        with self.database.session() as session:
            rows = session.scalars(
                select(Request.expression)
                .where(Request.project_id == project_id, Request.task_id == task_id)
                .distinct()
            )
            return frozenset(rows)

    def latencies_ms(
        self, project_id: int | None = None, since: datetime | None = None
    ) -> list[float]:
        """How long answered requests took for which someone waited."""
        chosen = select(Request.latency_ms).where(
            Request.status == "answered", Request.latency_ms.is_not(None), Request.kind != "ahead"
        )
        if project_id is not None:
            chosen = chosen.where(Request.project_id == project_id)
        if since is not None:
            chosen = chosen.where(Request.created_at >= since)
        with self.database.session() as session:
            return [value for value in session.scalars(chosen) if value is not None]

    def failures_since(
        self, since: datetime, project_id: int | None = None
    ) -> list[tuple[str, int]]:
        """Errors of requests by code, the most frequent first."""
        chosen = select(Request.error_code, func.count()).where(
            Request.status == "failed", Request.created_at >= since
        )
        if project_id is not None:
            chosen = chosen.where(Request.project_id == project_id)
        with self.database.session() as session:
            rows = session.execute(chosen.group_by(Request.error_code))
            return sorted(((row[0] or "", row[1]) for row in rows), key=lambda row: -row[1])

    def recent_requests(self, limit: int = 20) -> list[RequestView]:
        """Newest first."""
        with self.database.session() as session:
            rows = session.scalars(select(Request).order_by(Request.id.desc()).limit(limit))
            return [_to_view(row) for row in rows]

    def candidates(self, request_id: int) -> list[dict[str, Any]]:
        """What was offered for a request, by rank."""
        with self.database.session() as session:
            rows = session.scalars(
                select(CandidateRow)
                .where(CandidateRow.request_id == request_id)
                .order_by(CandidateRow.rank)
            )
            return [
                {"region_id": r.region_id, "rank": r.rank, "score": r.score, "mask": r.coco_rle}
                for r in rows
            ]

    def _add(self, row: Request | Event) -> int:
        with self.database.session() as session, session.begin():
            session.add(row)
            session.flush()
            return int(row.id)

    def _finish(self, request_id: int, candidates: list[CandidateRow], **values: Any) -> None:
        with self.database.session() as session, session.begin():
            row = session.get_one(Request, request_id)
            row.answered_at = _now()
            for name, value in values.items():
                setattr(row, name, value)
            for candidate in candidates:
                candidate.request_id = request_id
                session.add(candidate)


def _now() -> datetime:
    return datetime.now(UTC)


def _id_of(part: Any) -> int | None:
    value = part.get("id") if isinstance(part, dict) else None
    is_id = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if is_id else None


def _without_secrets(body: dict[str, Any]) -> dict[str, Any]:
    project = body.get("project")
    if isinstance(project, dict) and "token" in project:
        return {**body, "project": {k: v for k, v in project.items() if k != "token"}}
    return body


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
