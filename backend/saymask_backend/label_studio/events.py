"""Label Studio's webhooks: their schema, the part that is stored, and how it is interpreted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    SkipValidation,
    Tag,
    TypeAdapter,
    WithJsonSchema,
)

from saymask.errors import InvalidAnnotation, InvalidRequest
from saymask.left_out import LeftOut
from saymask_backend.label_studio.annotations import to_submission
from saymask_backend.label_studio.api_schema import ProjectBody
from saymask_backend.label_studio.label_config import LabelConfig, load_label_config
from saymask_backend.label_studio.predict_request import PredictTask, parse_tasks
from saymask_backend.label_studio.schema import (
    MAX_ID,
    AnnotationBody,
    Body,
    Id,
    Numbered,
    TaskBody,
    Text,
    UtcTime,
    discriminate_by,
    hash_content,
    to_storable,
    to_utc,
    validate,
)
from saymask_backend.records.events import NewEvent
from saymask_backend.records.types import ProjectKey, Submission, to_project_key


def read_project_key(project: object) -> ProjectKey:
    """Read number and time of creation from a webhook's ``project``; 0 for what is missing."""
    created = _read_time(project, "created_at")
    return to_project_key(find_id(project) or 0, created)


class EventProject(Body):
    """The project as a webhook carries it."""

    id: Id
    label_config: Text
    created_at: UtcTime | None = None

    @property
    def key(self) -> ProjectKey:
        """The project with its installation."""
        return to_project_key(self.id, self.created_at)


class SubmissionEvent(Body):
    """ANNOTATION_CREATED, ANNOTATION_UPDATED, or what sync read, which no webhook is called."""

    action: Literal["ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_READ"]
    project: EventProject
    task: TaskBody
    annotation: AnnotationBody


class _AnyDeletion(Body):
    project: Annotated[
        ProjectKey, BeforeValidator(read_project_key), WithJsonSchema({"type": "object"})
    ] = ProjectKey(0)


class DeletionEvent(_AnyDeletion):
    """ANNOTATIONS_DELETED; its annotations are validated one by one."""

    action: Literal["ANNOTATIONS_DELETED"]
    annotations: list[SkipValidation[Numbered]]


class TasksDeletedEvent(_AnyDeletion):
    """TASKS_DELETED: their annotations are gone too, and have no event of their own."""

    action: Literal["TASKS_DELETED"]
    tasks: list[SkipValidation[Numbered]]


class TasksCreatedEvent(Body):
    """TASKS_CREATED; its tasks are validated one by one."""

    action: Literal["TASKS_CREATED"]
    project: EventProject
    tasks: list[SkipValidation[TaskBody]]


class OtherEvent(Body):
    """A webhook that changes no record."""

    action: Text


_TAGS = {
    "ANNOTATION_CREATED": "submission event",
    "ANNOTATION_UPDATED": "submission event",
    "ANNOTATION_READ": "submission event",
    "ANNOTATIONS_DELETED": "deletion event",
    "TASKS_CREATED": "tasks event",
    "TASKS_DELETED": "task deletion event",
}


Event = SubmissionEvent | DeletionEvent | TasksCreatedEvent | TasksDeletedEvent | OtherEvent
EVENT: TypeAdapter[Event] = TypeAdapter(
    Annotated[
        Annotated[SubmissionEvent, Tag("submission event")]
        | Annotated[DeletionEvent, Tag("deletion event")]
        | Annotated[TasksCreatedEvent, Tag("tasks event")]
        | Annotated[TasksDeletedEvent, Tag("task deletion event")]
        | Annotated[OtherEvent, Tag("other kind")],
        discriminate_by("action", _TAGS),
    ]
)

# By action: the parts of a webhook that are read later, and the fields of each. A project's
# settings and its token are not kept. The images of created tasks are prepared at once.
_PROJECT = {"project": ("id", "created_at", "label_config")}
_SUBMISSION = {"task": ("id", "data"), "annotation": tuple(AnnotationBody.model_fields)}
_KEPT: dict[str, Mapping[str, Sequence[str]]] = {
    **{action: _SUBMISSION for action, tag in _TAGS.items() if tag == "submission event"},
    "ANNOTATIONS_DELETED": {"annotations": ("id",)},
    "TASKS_DELETED": {"tasks": ("id",)},
}


def to_new_event(body: Any) -> NewEvent:
    """Convert a webhook's JSON to the event to store: only fields that recording reads, no token.

    Raises:
        InvalidRequest: it is not a webhook.
    """
    if not isinstance(body, dict) or not isinstance(body.get("action"), str):
        raise InvalidRequest("Expected a webhook: a JSON object with 'action'.")
    annotation = body.get("annotation")
    action = body["action"]
    fields = {**_PROJECT, **_KEPT.get(action, {})}
    kept = {name: _pick(body[name], fields[name]) for name in fields if name in body}
    if action == "TASKS_CREATED":
        kept["tasks"] = []
    return NewEvent(
        action=to_storable(action),
        body={"action": action, **kept},
        project=read_project_key(body.get("project")),
        task_id=find_id(body.get("task")),
        annotation_id=find_id(annotation),
        content_hash=hash_content(annotation) if isinstance(annotation, dict) else None,
    )


def to_read_event(annotation: dict[str, Any], task: TaskBody, project: ProjectBody) -> NewEvent:
    """Convert an annotation that sync read to the event to store, as from a webhook."""
    return to_new_event(
        {
            "action": "ANNOTATION_READ",
            "project": project.model_dump(mode="json", include=set(_PROJECT["project"])),
            "task": {"id": task.id, "data": task.data},
            "annotation": annotation,
        }
    )


def read_saved_at(annotation: dict[str, Any]) -> datetime | None:
    """Return when Label Studio saved an annotation, by its own clock; None if it does not say."""
    return _read_time(annotation, "updated_at")


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


def read_ids(items: Sequence[object], left_out: LeftOut) -> list[int]:
    """Return the ids of deleted annotations or tasks; ``left_out`` gets the odd ones."""
    bodies = left_out.convert(
        enumerate(items),
        lambda item: validate(Numbered.model_validate, item[1], InvalidAnnotation, "Its id"),
        lambda item: f"item {item[0]}",
    )
    return [body.id for body in bodies]


def read_submission(
    event: SubmissionEvent, known_sizes_hw: frozenset[tuple[int, int]] = frozenset()
) -> tuple[Submission, LabelConfig]:
    """Return what was submitted, and the labelling config it was made with; see ``to_submission``.

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
    event = validate(TasksCreatedEvent.model_validate, body, InvalidRequest, "The webhook")
    return parse_tasks(event.tasks, load_label_config(event.project.label_config))


def find_id(part: Any) -> int | None:
    """Return the number of a project, task or annotation, None where it has none."""
    value = part.get("id") if isinstance(part, dict) else None
    return value if type(value) is int and 0 <= value <= MAX_ID else None


def _read_time(part: Any, name: str) -> datetime | None:
    try:
        return to_utc(datetime.fromisoformat(part[name]))
    except (KeyError, TypeError, ValueError):
        return None


def _pick(value: Any, fields: Sequence[str]) -> Any:
    """Some fields of an object, or of each in a list; anything else as it is, to be refused."""
    if isinstance(value, list):
        return [_pick(item, fields) if isinstance(item, dict) else item for item in value]
    if not isinstance(value, dict):
        return value
    return {name: value[name] for name in fields if name in value}
