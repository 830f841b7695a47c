"""From Label Studio's predict request to what was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.contract import MAX_EXPRESSION_CHARS, MAX_K
from backend.errors import InvalidExpression, InvalidRequest
from backend.label_studio.label_config import LabelConfig, load_label_config

_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class PredictTask:
    """One task of a predict request. ``photo`` is the reference in the task data."""

    task_id: int
    photo: str


@dataclass(frozen=True)
class PredictCall:
    """A predict request, understood.

    Attributes:
        project_id: 0 when Label Studio did not say.
        expression: what was typed; None when nothing was (a task was opened, or the empty call
            Label Studio makes after every submit).
        interactive: typed in the editor, as opposed to a batch of tasks.
        k: candidates asked for, or None.
    """

    project_id: int
    label_config: LabelConfig
    tasks: tuple[PredictTask, ...]
    expression: str | None
    interactive: bool
    k: int | None


def load_predict_call(body: Any) -> PredictCall:
    """Check and convert the JSON body of ``POST /predict``.

    Raises:
        InvalidRequest, InvalidLabelConfig, InvalidExpression: says which field is wrong.
    """
    if not isinstance(body, dict):
        raise InvalidRequest(f"Expected a JSON object, got {type(body).__name__}.")
    tasks = body.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise InvalidRequest("Expected 'tasks', a list with at least one task.")
    xml = body.get("label_config")
    if not isinstance(xml, str) or not xml.strip():
        raise InvalidRequest("Expected 'label_config', the project's labelling config.")
    config = load_label_config(to_storable(xml))
    params = body.get("params") or {}
    if not isinstance(params, dict):
        raise InvalidRequest("Expected 'params' to be an object.")
    context = params.get("context")
    interactive = context is not None
    if interactive and len(tasks) != 1:
        raise InvalidRequest(f"A typed expression belongs to one task, got {len(tasks)}.")
    return PredictCall(
        project_id=_project_id(body.get("project")),
        label_config=config,
        tasks=tuple(_load_task(task, config) for task in tasks),
        expression=_typed_expression(context, config) if interactive else None,
        interactive=interactive,
        k=_load_k(params.get("k")),
    )


def load_created_tasks(body: dict[str, Any]) -> tuple[PredictTask, ...]:
    """The tasks of a TASKS_CREATED webhook.

    Raises:
        InvalidRequest, InvalidLabelConfig: the project is not made for saymask.
    """
    project = body.get("project")
    xml = project.get("label_config") if isinstance(project, dict) else None
    tasks = body.get("tasks")
    if not isinstance(xml, str) or not isinstance(tasks, list):
        raise InvalidRequest("Expected 'project' with 'label_config', and 'tasks'.")
    config = load_label_config(xml)
    return tuple(_load_task(task, config) for task in tasks)


def _project_id(raw: Any) -> int:
    """``"<id>.<unix time>"`` to the id."""
    return read_id(str(raw).split(".")[0], "project id") if raw is not None else 0


def _load_task(task: Any, config: LabelConfig) -> PredictTask:
    if not isinstance(task, dict):
        raise InvalidRequest("Every task needs 'data', an object.")
    return PredictTask(
        task_id=read_id(task.get("id") or 0, "task id"), photo=read_photo(task, config)
    )


def read_photo(task: dict[str, Any], config: LabelConfig) -> str:
    """The reference to a task's photo.

    Raises:
        InvalidRequest: the task has none where the labelling config says.
    """
    data = task.get("data")
    if not isinstance(data, dict):
        raise InvalidRequest("Every task needs 'data', an object.")
    photo = data.get(config.image_key)
    if not isinstance(photo, str) or not photo.strip():
        raise InvalidRequest(
            f"Task {task.get('id')} has no photo in data[{config.image_key!r}].",
            f"Fields there: {', '.join(sorted(map(str, data))) or 'none'}.",
        )
    return to_storable(photo).strip()


def read_id(raw: Any, what: str) -> int:
    """A whole number that fits a database's integer.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        value = int(raw)
    except (TypeError, ValueError, OverflowError):
        value = -1
    if not 0 <= value <= _LARGEST_ID:
        raise InvalidRequest(f"A {what} must be a whole number, got {raw!r}.")
    return value


def _typed_expression(context: Any, config: LabelConfig) -> str | None:
    result = context.get("result") if isinstance(context, dict) else None
    if not isinstance(result, list):
        raise InvalidRequest("Expected 'params.context.result', a list.")
    for entry in reversed(result):
        if not isinstance(entry, dict) or entry.get("from_name") != config.expression:
            continue
        value = entry.get("value")
        texts = value.get("text") if isinstance(value, dict) else None
        if isinstance(texts, str):
            texts = [texts]
        if isinstance(texts, list) and texts and isinstance(texts[-1], str):
            return _load_expression(texts[-1])
    return None


def _load_expression(raw: str) -> str | None:
    """What was typed, storable; None when it is blank."""
    text = to_storable(raw)
    if len(text) > MAX_EXPRESSION_CHARS:
        raise InvalidExpression(
            f"The expression has {len(text)} characters; the longest allowed is"
            f" {MAX_EXPRESSION_CHARS}.",
            "A sentence that names one object is enough.",
        )
    return text if text.strip() else None


def to_storable(raw: str) -> str:
    """Without null characters and lone surrogates: legal JSON, but no database text."""
    return raw.replace("\0", " ").encode("utf-8", errors="replace").decode("utf-8")


def _load_k(raw: Any) -> int | None:
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= MAX_K:
        raise InvalidRequest(f"k must be a whole number from 1 to {MAX_K}, got {raw!r}.")
    return raw
