"""Label Studio's webhooks: what is stored of them, and how they are interpreted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from saymask.errors import InvalidAnnotation, InvalidRequest
from saymask_backend.label_studio.annotations import to_submission
from saymask_backend.label_studio.api_schema import ProjectBody
from saymask_backend.label_studio.event_schema import (
    EVENT,
    Event,
    SubmissionEvent,
    TasksCreatedEvent,
    read_project_key,
)
from saymask_backend.label_studio.label_config import LabelConfig, load_label_config
from saymask_backend.label_studio.predict_request import PredictTask, parse_tasks
from saymask_backend.label_studio.schema import (
    AnnotationBody,
    TaskBody,
    hash_content,
    to_storable,
    to_utc,
    validate,
)
from saymask_backend.records.events import NewEvent
from saymask_backend.records.types import Submission

_PROJECT_FIELDS = ("id", "created_at", "label_config")
_TASK_FIELDS = ("id", "data")
_ANNOTATION_FIELDS = tuple(AnnotationBody.model_fields)
_SUBMISSIONS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_READ")
_LISTS_OF_IDS = {"ANNOTATIONS_DELETED": ("annotations",), "TASKS_DELETED": ("tasks",)}


def to_new_event(body: Any) -> NewEvent:
    """Convert a webhook's JSON to what is stored of it: what recording reads, and no token.

    Raises:
        InvalidRequest: it is not a webhook.
    """
    if not isinstance(body, dict) or not isinstance(body.get("action"), str):
        raise InvalidRequest("Expected a webhook: a JSON object with 'action'.")
    annotation = body.get("annotation")
    return NewEvent(
        action=to_storable(body["action"]),
        body=_keep_what_is_read(body),
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


def to_oversized_event(max_mb: float) -> NewEvent:
    """Build the note that is stored instead of a webhook that is too large to be read."""
    problem = (
        f"A webhook was larger than {max_mb:g} MB and was not read. Sync reads from Label Studio"
        " what it reported: saymask sync."
    )
    return NewEvent(action="WEBHOOK_TOO_LARGE", body=None, problem=problem)


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
    if body["action"] != "TASKS_CREATED":
        return ()
    event = validate(EVENT.validate_python, body, InvalidRequest, "The webhook")
    if not isinstance(event, TasksCreatedEvent):
        return ()
    config = load_label_config(event.project.label_config)
    return parse_tasks(event.tasks, config)


def find_id(part: Any) -> int | None:
    """Return the number of a task or annotation, None where it has none."""
    value = part.get("id") if isinstance(part, dict) else None
    return value if type(value) is int and 0 <= value < 2**31 else None


def _keep_what_is_read(body: dict[str, Any]) -> dict[str, Any]:
    """The parts of a webhook that are read later; a project's settings and its token are not."""
    kept: dict[str, Any] = {"action": body["action"]}
    if "project" in body:
        kept["project"] = _pick(body["project"], _PROJECT_FIELDS)
    if body["action"] in _SUBMISSIONS:
        parts = {"task": _TASK_FIELDS, "annotation": _ANNOTATION_FIELDS}
        kept |= {name: _pick(body[name], parts[name]) for name in parts if name in body}
    for name in _LISTS_OF_IDS.get(body["action"], ()):
        if isinstance(body.get(name), list):
            kept[name] = [_pick(item, ("id",)) for item in body[name]]
    if body["action"] == "TASKS_CREATED":
        # Their images are prepared at once; no record comes from them.
        kept["tasks"] = []
    return kept


def _pick(value: Any, fields: Sequence[str]) -> Any:
    """Some fields of an object; anything else as it is, for validation to refuse."""
    if not isinstance(value, dict):
        return value
    return {name: value[name] for name in fields if name in value}
