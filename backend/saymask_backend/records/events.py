"""Webhooks, annotations that sync read, and the progress of syncs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Delete, Update, delete, func, select, update
from sqlalchemy.orm import Session, load_only

from saymask_backend.records.database import Database
from saymask_backend.records.tables import Event, Request, SyncRun, of_project, read_row
from saymask_backend.records.types import ProjectKey

EventState = Literal["understood", "nothing", "problem"]
Source = Literal["webhook", "sync"]
MAX_ATTEMPTS = 3
"""How often processing may end the program before an event is set aside."""
_MAX_ACTION_CHARS = 64
# Of an event that needs no further processing.
_NO_BODY = ""
_RESUME_WITHIN = timedelta(hours=1)


@dataclass(frozen=True)
class NewEvent:
    """An event to be stored.

    Attributes:
        body: what recording reads of the JSON object, without secrets; None where it was not read.
        project, task_id, annotation_id: named by the event, or None.
        content_hash: of the annotation, where it has one: equal for a webhook and for sync.
        problem: why it can never be processed, or None.
    """

    action: str
    body: dict[str, Any] | None
    project: ProjectKey | None = None
    task_id: int | None = None
    annotation_id: int | None = None
    content_hash: str | None = None
    problem: str | None = None

    @property
    def project_id(self) -> int | None:
        """Label Studio's number of the project, where it is known."""
        return self.project.id if self.project else None


@dataclass(frozen=True)
class WaitingEvent:
    """An event that was not processed yet; its body is loaded alone.

    Attributes:
        received_at: when we received it, or read it from Label Studio.
        source: ``webhook`` or ``sync``.
        last_request_id: the newest request at that time; None in old events.
        attempts: how often processing it began and did not end.
        project_id, annotation_id, content_hash: as in ``NewEvent``.
    """

    id: int
    action: str
    received_at: datetime
    source: Source
    last_request_id: int | None
    attempts: int
    project_id: int | None
    annotation_id: int | None
    content_hash: str | None


@dataclass(frozen=True)
class EventProblem:
    """An event that could not be interpreted, and why."""

    id: int
    received_at: datetime
    source: str
    action: str
    project_id: int | None
    task_id: int | None
    annotation_id: int | None
    problem: str


@dataclass(frozen=True)
class SyncRunState:
    """A comparison with Label Studio: the next page, the annotations seen and the counts."""

    id: int
    started_at: datetime
    finished_at: datetime | None
    next_page: int
    seen: frozenset[int]
    counts: dict[str, int]


# Without the body, which may have many megabytes.
_HEADER = load_only(
    Event.action, Event.received_at, Event.source, Event.last_request_id, Event.attempts,
    Event.project_id, Event.task_id, Event.annotation_id, Event.content_hash, Event.problem,
    raiseload=True,
)  # fmt: skip


class EventStore:
    """Events, and runs of sync. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append_event(self, event: NewEvent) -> int:
        """Store a webhook; it is on disk when its id is returned."""
        row = _to_row(event, "webhook", datetime.now(UTC))
        with self._database.session() as session, session.begin():
            row.last_request_id = session.scalar(select(func.max(Request.id)))
            session.add(row)
            session.flush()
            return int(row.id)

    def save_read(self, event: NewEvent, read_at: datetime, saved_at: datetime) -> int:
        """Store an annotation that sync read, to be processed; returns the event's id.

        One that was read with the same content before, and could not be interpreted then, is
        tried again; one that is set aside stays so.

        Args:
            event: about an annotation.
            read_at: when Label Studio had this state.
            saved_at: when Label Studio saved it, by our clock.
        """
        with self._database.session() as session, session.begin():
            earlier = session.scalar(
                select(Event).where(*_of_content(event), Event.source == "sync").limit(1)
            )
            if earlier is not None:
                if earlier.state == "waiting" or earlier.attempts >= MAX_ATTEMPTS:
                    return int(earlier.id)
                session.delete(earlier)
            row = _to_row(event, "sync", read_at)
            row.last_request_id = _find_last_request(session, saved_at)
            session.add(row)
            session.flush()
            return int(row.id)

    def load_body(self, event: WaitingEvent) -> str | None:
        """Return the JSON text of an event; None for one that is to be set aside.

        That is the case when processing an annotation with this content ended the program too
        often, as this event, as another webhook or as read by sync.
        """
        if event.attempts >= MAX_ATTEMPTS:
            return None
        with self._database.session() as session:
            if event.annotation_id is not None and event.content_hash is not None:
                set_aside = select(Event.id).where(
                    *_of_content(event), Event.state == "problem", Event.attempts >= MAX_ATTEMPTS
                )
                if session.scalar(set_aside.limit(1)) is not None:
                    return None
            return session.execute(select(Event.body).where(Event.id == event.id)).scalar_one()

    def load_unrecorded(self, event_ids: Sequence[int]) -> dict[int, str | None]:
        """Return which of some events are not recorded, with the reason; None if waiting."""
        query = select(Event.id, Event.problem).where(
            Event.id.in_(event_ids), Event.state.in_(("problem", "waiting"))
        )
        return self._database.read_pairs(query)

    def list_waiting(self, limit: int) -> list[WaitingEvent]:
        """Return the oldest events that wait to be processed."""
        query = select(Event).where(Event.state == "waiting").order_by(Event.id).limit(limit)
        return [
            read_row(WaitingEvent, row) for row in self._database.scalars(query.options(_HEADER))
        ]

    def begin_attempt(self, event_ids: Sequence[int]) -> None:
        """Count an attempt before the work, so that one that kills the process is known."""
        self._add_attempts(event_ids, 1)

    def withdraw_attempt(self, event_ids: Sequence[int]) -> None:
        """Count an attempt as not made: the database failed, not the event."""
        self._add_attempts(event_ids, -1)

    def _add_attempts(self, event_ids: Sequence[int], count: int) -> None:
        with self._database.session() as session, session.begin():
            session.execute(
                update(Event).where(Event.id.in_(event_ids)).values(attempts=Event.attempts + count)
            )

    def list_problems(self, limit: int = 20) -> list[EventProblem]:
        """Return events that could not be interpreted, newest first."""
        query = select(Event).where(Event.state == "problem").order_by(Event.id.desc())
        rows = self._database.scalars(query.limit(limit).options(_HEADER))
        return [read_row(EventProblem, row) for row in rows]

    def mark_event(self, event_id: int, state: EventState, problem: str | None = None) -> None:
        """Record how an event was processed."""
        with self._database.session() as session, session.begin():
            session.execute(build_mark(event_id, state, problem))

    def retry_problems(self) -> int:
        """Let every event with a problem be processed again, if its body is kept.

        Returns:
            How many there are.
        """
        with self._database.session() as session, session.begin():
            ids = session.scalars(
                update(Event)
                .where(Event.state == "problem", Event.body != _NO_BODY)
                .values(state="waiting", problem=None, attempts=0)
                .returning(Event.id)
            )
            return len(ids.all())

    def count_events_by_action(self) -> dict[str, int]:
        """Return the number of webhooks per action."""
        return self._count_by(Event.action, Event.source == "webhook")

    def count_events_by_state(self) -> dict[str, int]:
        """Return the number of events per state."""
        return self._count_by(Event.state)

    def _count_by(self, column: Any, *conditions: ColumnElement[bool]) -> dict[str, int]:
        query = select(column, func.count()).where(*conditions).group_by(column)
        return self._database.read_pairs(query)

    def begin_sync(self, project: ProjectKey) -> SyncRunState:
        """Return a new run of sync, or the last one if it was interrupted within the last hour."""
        now = datetime.now(UTC)
        with self._database.session() as session, session.begin():
            row = session.scalar(
                select(SyncRun)
                .where(
                    *of_project(SyncRun, project),
                    SyncRun.finished_at.is_(None),
                    SyncRun.started_at > now - _RESUME_WITHIN,
                )
                .order_by(SyncRun.id.desc())
                .limit(1)
            )
            if row is None:
                row = SyncRun(
                    project_id=project.id,
                    project_created=project.created,
                    started_at=now,
                    next_page=1,
                    seen=[],
                    counts={},
                )
                session.add(row)
                session.flush()
            state = read_row(SyncRunState, row)
        return replace(state, seen=frozenset(state.seen), counts=dict(state.counts))

    def save_sync(self, state: SyncRunState) -> None:
        """Store the progress of a run of sync."""
        with self._database.session() as session, session.begin():
            row = session.get_one(SyncRun, state.id)
            row.next_page, row.counts = state.next_page, dict(state.counts)
            row.seen, row.finished_at = sorted(state.seen), state.finished_at


def build_mark(event_id: int, state: EventState, problem: str | None = None) -> Update:
    """Return the statement that records how an event was processed.

    Only one with a problem keeps its body: nothing else is ever processed again.
    """
    values: dict[str, Any] = {"state": state, "problem": problem, "processed_at": datetime.now(UTC)}
    if state != "problem":
        values["body"] = _NO_BODY
    return update(Event).where(Event.id == event_id, Event.state == "waiting").values(values)


def build_forget(event_id: int) -> Delete:
    """Return the statement that removes what sync read; Label Studio still has it."""
    return delete(Event).where(Event.id == event_id, Event.source == "sync")


def _to_row(event: NewEvent, source: Source, received_at: datetime) -> Event:
    return Event(
        received_at=received_at,
        action=event.action[:_MAX_ACTION_CHARS],
        project_id=event.project_id,
        project_created=event.project.created if event.project else 0,
        task_id=event.task_id,
        annotation_id=event.annotation_id,
        content_hash=event.content_hash,
        source=source,
        body=_NO_BODY if event.body is None else json.dumps(event.body),
        state="waiting" if event.problem is None else "problem",
        problem=event.problem,
    )


def _of_content(event: NewEvent | WaitingEvent) -> tuple[ColumnElement[bool], ...]:
    """Events about the same content of the same annotation."""
    return (
        Event.annotation_id == event.annotation_id,
        Event.content_hash == event.content_hash,
        Event.project_id == event.project_id,
    )


def _find_last_request(session: Session, moment: datetime) -> int:
    """The newest request that was made before a time; 0 where there is none."""
    query = select(Request.id).where(Request.created_at <= moment)
    return session.scalar(query.order_by(Request.created_at.desc()).limit(1)) or 0
