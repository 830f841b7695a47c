"""Webhooks that wait to be processed, and how each was processed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Literal

from sqlalchemy import Update, func, select, update

from backend.records.database import Database
from backend.records.project_key import ProjectKey
from backend.records.tables import Event, Request

EventState = Literal["understood", "nothing", "problem"]
_MAX_ACTION_CHARS = 64
_MAX_LOADED_CHARS = 16_000_000
# Of an event that needs no further processing.
_NO_BODY = ""


@dataclass(frozen=True)
class NewEvent:
    """A webhook to be stored.

    Attributes:
        body: what recording reads of the JSON object, without secrets; None where it was not read.
        project, task_id, annotation_id: what it is about, where it says so.
        problem: why it can never be processed, or None.
    """

    action: str
    body: dict[str, Any] | None
    project: ProjectKey | None = None
    task_id: int | None = None
    annotation_id: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class WaitingEvent:
    """An event that was not processed yet.

    Attributes:
        body: the JSON text.
        received_at: when we received it.
        last_request_id: the newest request at that time; None in old events.
        attempts: how often processing it began and did not end.
    """

    id: int
    action: str
    body: str
    received_at: datetime
    last_request_id: int | None = None
    attempts: int = 0


@dataclass(frozen=True)
class EventProblem:
    """An event that could not be interpreted, and why."""

    id: int
    received_at: datetime
    action: str
    project_id: int | None
    problem: str


class EventStore:
    """Appends events and reads them back. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append_event(self, event: NewEvent) -> int:
        """Store an event; it is on disk when its id is returned."""
        row = Event(
            received_at=datetime.now(UTC),
            action=event.action[:_MAX_ACTION_CHARS],
            project_id=event.project.id if event.project else None,
            project_created=event.project.created if event.project else 0,
            task_id=event.task_id,
            annotation_id=event.annotation_id,
            body=_NO_BODY if event.body is None else json.dumps(event.body),
            state="waiting" if event.problem is None else "problem",
            problem=event.problem,
        )
        with self._database.session() as session, session.begin():
            row.last_request_id = session.scalar(select(func.max(Request.id)))
            session.add(row)
            session.flush()
            return int(row.id)

    def list_events(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return stored events, newest first, with their parsed bodies; None where none is kept."""
        with self._database.session() as session:
            rows = session.scalars(select(Event).order_by(Event.id.desc()).limit(limit))
            return [
                {
                    "id": row.id,
                    "action": row.action,
                    "body": json.loads(row.body) if row.body else None,
                }
                for row in rows
            ]

    def list_waiting(self, limit: int) -> list[WaitingEvent]:
        """Return the oldest events that wait to be processed.

        Long ones come in smaller groups: at most 16 million characters together, or one event.
        """
        with self._database.session() as session:
            lengths = session.execute(
                select(Event.id, func.length(Event.body))
                .where(Event.state == "waiting")
                .order_by(Event.id)
                .limit(limit)
            ).all()
            totals = accumulate(length for _, length in lengths)
            fitting = [
                id_
                for (id_, _), total in zip(lengths, totals, strict=True)
                if total <= _MAX_LOADED_CHARS
            ]
            ids = fitting or [id_ for id_, _ in lengths[:1]]
            rows = session.scalars(select(Event).where(Event.id.in_(ids)).order_by(Event.id))
            return [
                WaitingEvent(r.id, r.action, r.body, r.received_at, r.last_request_id, r.attempts)
                for r in rows
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
        with self._database.session() as session:
            rows = session.scalars(
                select(Event).where(Event.state == "problem").order_by(Event.id.desc()).limit(limit)
            )
            return [
                EventProblem(r.id, r.received_at, r.action, r.project_id, r.problem or "")
                for r in rows
            ]

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
        """Return the number of events per action."""
        return self._count_by(Event.action)

    def count_events_by_state(self) -> dict[str, int]:
        """Return the number of events per state."""
        return self._count_by(Event.state)

    def _count_by(self, column: Any) -> dict[str, int]:
        with self._database.session() as session:
            rows = session.execute(select(column, func.count()).group_by(column))
            return {row[0]: row[1] for row in rows}


def build_mark(event_id: int, state: EventState, problem: str | None = None) -> Update:
    """Return the statement that records how an event was processed.

    Only one with a problem keeps its body: nothing else is ever processed again.
    """
    values: dict[str, Any] = {"state": state, "problem": problem, "processed_at": datetime.now(UTC)}
    if state != "problem":
        values["body"] = _NO_BODY
    return update(Event).where(Event.id == event_id, Event.state == "waiting").values(values)
