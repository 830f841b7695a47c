"""Label Studio's webhooks: what is stored of them, and what they mean."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from backend.label_studio.annotations import to_submission
from backend.label_studio.api_schema import ProjectBody
from backend.label_studio.event_schema import (
    EVENT,
    Event,
    SubmissionEvent,
    TasksCreatedEvent,
    read_project_key,
)
from backend.label_studio.label_config import LabelConfig, load_label_config
from backend.label_studio.predict_request import PredictTask, parse_task
from backend.label_studio.schema import TaskBody, hash_content, to_storable, to_utc, validate
from backend.records.events import NewEvent
from backend.records.submission import Submission
from saymask.errors import InvalidAnnotation, InvalidRequest


def to_new_event(body: Any) -> NewEvent:
    """Convert a webhook's JSON to what is stored of it: all but the project's token.

    Raises:
        InvalidRequest: it is not a webhook.
    """
    if not isinstance(body, dict) or not isinstance(body.get("action"), str):
        raise InvalidRequest("Expected a webhook: a JSON object with 'action'.")
    annotation = body.get("annotation")
    return NewEvent(
        action=to_storable(body["action"]),
        body=_without_token(body),
        project=read_project_key(body.get("project")),
        task_id=find_id(body.get("task")),
        annotation_id=find_id(annotation),
        content_hash=hash_content(annotation) if isinstance(annotation, dict) else None,
    )


def to_read_event(annotation: dict[str, Any], task: TaskBody, project: ProjectBody) -> NewEvent:
    """Convert what sync read to what is stored of it: the same as of a webhook."""
    return to_new_event(
        {
            "action": "ANNOTATION_READ",
            "project": {
                "id": project.id,
                "label_config": project.label_config,
                "created_at": project.created_at.isoformat() if project.created_at else None,
            },
            "task": {"id": task.id, "data": task.data},
            "annotation": annotation,
        }
    )


def read_saved_at(annotation: dict[str, Any]) -> datetime | None:
    """Return when Label Studio saved an annotation, by its own clock; None if it does not say."""
    try:
        return to_utc(datetime.fromisoformat(annotation["updated_at"]))
    except (KeyError, TypeError, ValueError):
        return None


def parse_event(text: str) -> Event:
    """Validate a stored event.

    Raises:
        InvalidAnnotation: names the wrong fields.
    """
    return validate(EVENT.validate_python, json.loads(text), InvalidAnnotation, "The webhook")


def read_submission(
    event: SubmissionEvent, known_sizes_hw: frozenset[tuple[int, int]] = frozenset()
) -> tuple[Submission, LabelConfig]:
    """Return what was submitted, and the labelling config it was made with.

    Args:
        event: of an annotation.
        known_sizes_hw: as for ``to_submission``.

    Raises:
        InvalidAnnotation, InvalidLabelConfig: it cannot be interpreted.
    """
    config = load_label_config(event.project.label_config)
    submission = to_submission(
        event.annotation, event.task, event.project.key, config, known_sizes_hw
    )
    return submission, config


def read_created_tasks(body: Any) -> tuple[PredictTask, ...]:
    """Return the tasks of a TASKS_CREATED webhook; none of any other.

    Raises:
        InvalidRequest, InvalidLabelConfig: the project is not set up for saymask.
    """
    event = validate(EVENT.validate_python, body, InvalidRequest, "The webhook")
    if not isinstance(event, TasksCreatedEvent):
        return ()
    config = load_label_config(event.project.label_config)
    return tuple(parse_task(task, config) for task in event.tasks)


def read_project(body: Any) -> int:
    """Return the id of the project that a webhook is about.

    Raises:
        InvalidRequest: it names none.
    """
    project_id = read_project_key(body.get("project")).id
    if not project_id:
        raise InvalidRequest("The webhook names no project.")
    return project_id


def find_id(part: Any) -> int | None:
    """Return the number of a task or annotation, None where it has none."""
    value = part.get("id") if isinstance(part, dict) else None
    return value if type(value) is int and 0 <= value < 2**31 else None


def _without_token(body: dict[str, Any]) -> dict[str, Any]:
    project = body.get("project")
    if isinstance(project, dict) and "token" in project:
        return {**body, "project": {k: v for k, v in project.items() if k != "token"}}
    return body
