"""The only SQL. Each method is one transaction; what it returned from is on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from backend.contract import SegmentResult
from backend.errors import ConfigError, SaymaskError
from backend.records.model import CandidateRow, Event, Request

_BUSY_TIMEOUT_MS = 10_000


class StoreError(SaymaskError):
    """The database cannot be opened, read or written."""

    http_status = 503


@dataclass(frozen=True)
class NewRequest:
    """What is known before the worker is asked."""

    project_id: int
    task_id: int
    expression: str
    k: int
    photo: str


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
    """The database.

    Args:
        url: SQLAlchemy URL. SQLite files are opened in WAL mode with full synchronisation.

    Raises:
        ConfigError: the URL is malformed, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() == "sqlite" and parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine: Engine = create_engine(parsed, pool_pre_ping=True, pool_size=20)
        except (ArgumentError, ModuleNotFoundError, OSError) as error:
            raise ConfigError(
                f"The database cannot be opened: {error}.",
                "Check SAYMASK_DATABASE_URL; PostgreSQL needs pip install 'saymask[postgresql]'.",
            ) from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _set_sqlite_pragmas)

    def close(self) -> None:
        self._engine.dispose()

    def migrate(self) -> None:
        """Bring the schema up to date. Two processes may do it at one time.

        Raises:
            StoreError: unreachable, locked, or full.
        """
        config = Config()
        config.set_main_option(
            "script_location", str(resources.files("backend.records") / "migrations")
        )
        try:
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(7368113)"))
                else:
                    # SQLite's driver would begin only at the first write, after the check of
                    # the revision; this takes the lock first and makes the whole atomic.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except SQLAlchemyError as error:
            raise self._failed("brought up to date", error) from error

    def revision(self) -> str | None:
        """The schema revision the database is at."""
        with self._engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def add_request(self, new: NewRequest) -> int:
        """Store a request before anything is done about it; returns its id."""
        row = Request(
            created_at=_now(),
            project_id=new.project_id,
            task_id=new.task_id,
            expression=new.expression,
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
        with self._session() as session:
            rows = session.execute(select(Event.action, func.count()).group_by(Event.action))
            return {row[0]: row[1] for row in rows}

    def events(self, limit: int = 100) -> list[dict[str, Any]]:
        """Stored events, newest first, with their bodies."""
        with self._session() as session:
            rows = session.scalars(select(Event).order_by(Event.id.desc()).limit(limit))
            return [
                {"id": row.id, "action": row.action, "body": json.loads(row.body)} for row in rows
            ]

    def count_requests(self) -> dict[str, int]:
        """Requests per status."""
        with self._session() as session:
            rows = session.execute(select(Request.status, func.count()).group_by(Request.status))
            return {row[0]: row[1] for row in rows}

    def recent_requests(self, limit: int = 20) -> list[RequestView]:
        """Newest first."""
        with self._session() as session:
            rows = session.scalars(select(Request).order_by(Request.id.desc()).limit(limit))
            return [_to_view(row) for row in rows]

    def candidates(self, request_id: int) -> list[dict[str, Any]]:
        """What was offered for a request, by rank."""
        with self._session() as session:
            rows = session.scalars(
                select(CandidateRow)
                .where(CandidateRow.request_id == request_id)
                .order_by(CandidateRow.rank)
            )
            return [
                {"region_id": r.region_id, "rank": r.rank, "score": r.score, "mask": r.coco_rle}
                for r in rows
            ]

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with Session(self._engine, expire_on_commit=False) as session:
                yield session
        except SQLAlchemyError as error:
            raise self._failed("used", error) from error

    def _add(self, row: Request | Event) -> int:
        with self._session() as session, session.begin():
            session.add(row)
            session.flush()
            return int(row.id)

    def _finish(self, request_id: int, candidates: list[CandidateRow], **values: Any) -> None:
        with self._session() as session, session.begin():
            row = session.get_one(Request, request_id)
            row.answered_at = _now()
            for name, value in values.items():
                setattr(row, name, value)
            for candidate in candidates:
                candidate.request_id = request_id
                session.add(candidate)

    def _failed(self, doing: str, error: SQLAlchemyError) -> StoreError:
        reason = str(getattr(error, "orig", None) or error)
        return StoreError(
            f"The database could not be {doing}: {reason}.",
            f"Check that {self._engine.url.render_as_string(hide_password=True)} is reachable,"
            " not locked by another program and not full.",
        )


def _set_sqlite_pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


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
