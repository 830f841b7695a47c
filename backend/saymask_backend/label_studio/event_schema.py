"""Label Studio's webhooks as pydantic models; what an annotation holds is in ``schema``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    SkipValidation,
    Tag,
    TypeAdapter,
    WithJsonSchema,
)

from saymask_backend.label_studio.schema import (
    MAX_ID,
    AnnotationBody,
    Body,
    Id,
    TaskBody,
    Text,
    UtcTime,
    to_utc,
)
from saymask_backend.records.types import ProjectKey, to_project_key


def read_project_key(project: object) -> ProjectKey:
    """Read number and time of creation from a webhook's ``project``; 0 for what is missing."""
    if not isinstance(project, dict):
        return ProjectKey(0)
    number: Any = project.get("id")
    if type(number) is not int or not 0 <= number <= MAX_ID:
        number = 0
    try:
        created = to_utc(datetime.fromisoformat(project["created_at"]))
    except (KeyError, TypeError, ValueError):
        created = None
    return to_project_key(number, created)


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


class _Numbered(Body):
    id: Id


Project = Annotated[
    ProjectKey, BeforeValidator(read_project_key), WithJsonSchema({"type": "object"})
]


class DeletionEvent(Body):
    """ANNOTATIONS_DELETED."""

    action: Literal["ANNOTATIONS_DELETED"]
    project: Project = ProjectKey(0)
    annotations: list[_Numbered]


class TasksDeletedEvent(Body):
    """TASKS_DELETED: their annotations are gone too, and have no event of their own."""

    action: Literal["TASKS_DELETED"]
    project: Project = ProjectKey(0)
    tasks: list[_Numbered]


class TasksCreatedEvent(Body):
    """TASKS_CREATED; its tasks are validated one by one."""

    action: Literal["TASKS_CREATED"]
    project: EventProject
    tasks: list[SkipValidation[TaskBody]]


class OtherEvent(Body):
    """A webhook that changes no record."""

    action: Text


_EVENT_TAGS = {
    "ANNOTATION_CREATED": "submission event",
    "ANNOTATION_UPDATED": "submission event",
    "ANNOTATION_READ": "submission event",
    "ANNOTATIONS_DELETED": "deletion event",
    "TASKS_CREATED": "tasks event",
    "TASKS_DELETED": "task deletion event",
}


def _find_event_tag(body: object) -> str:
    action = body.get("action") if isinstance(body, dict) else getattr(body, "action", None)
    return _EVENT_TAGS.get(str(action), "other kind")


Event = SubmissionEvent | DeletionEvent | TasksCreatedEvent | TasksDeletedEvent | OtherEvent
EventBody = Annotated[
    Annotated[SubmissionEvent, Tag("submission event")]
    | Annotated[DeletionEvent, Tag("deletion event")]
    | Annotated[TasksCreatedEvent, Tag("tasks event")]
    | Annotated[TasksDeletedEvent, Tag("task deletion event")]
    | Annotated[OtherEvent, Tag("other kind")],
    Discriminator(_find_event_tag),
]
EVENT: TypeAdapter[Event] = TypeAdapter(EventBody)
