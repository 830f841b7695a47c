"""From Label Studio's predict request to what was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backend.contract import MAX_EXPRESSION_CHARS, MAX_K
from backend.errors import InvalidExpression, InvalidRequest
from backend.label_studio.label_config import LabelConfig, load_label_config

_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class PredictTask:
    """One task of a predict request.

    Attributes:
        photo: the reference in the task data.
        expressions: what the task's data already asks for.
    """

    task_id: int
    photo: str
    expressions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gesture:
    """What an annotator showed, in pixels of the photo.

    Attributes:
        clicks: x, y, positive.
        ids: the editor's, of the clicks and then of the box.
    """

    clicks: tuple[tuple[float, float, bool], ...]
    box_xyxy: tuple[float, float, float, float] | None
    ids: tuple[str, ...]

    @property
    def count(self) -> int:
        """Clicks it took; a box is one."""
        return len(self.clicks) + (self.box_xyxy is not None)

    def without(self, ids: frozenset[str]) -> Gesture | None:
        """What is left when some clicks are about something else; None when nothing is."""
        kept = [(c, i) for c, i in zip(self.clicks, self.ids, strict=False) if i not in ids]
        box_kept = self.box_xyxy is not None and self.ids[-1] not in ids
        if not kept and not box_kept:
            return None
        return Gesture(
            tuple(click for click, _ in kept),
            self.box_xyxy if box_kept else None,
            (*(i for _, i in kept), *(self.ids[-1:] if box_kept else ())),
        )


@dataclass(frozen=True)
class PredictCall:
    """A predict request, understood.

    Attributes:
        project_id: 0 when Label Studio did not say.
        typed: every expression that stands in the editor, the newest last; empty when nothing was
            typed (a task was opened, or the empty call Label Studio makes after every submit).
        gesture: clicks and box, or None.
        interactive: typed in the editor, as opposed to a batch of tasks.
        k: candidates asked for, or None.
    """

    project_id: int
    label_config: LabelConfig
    tasks: tuple[PredictTask, ...]
    typed: tuple[str, ...]
    gesture: Gesture | None
    interactive: bool
    k: int | None


def load_predict_call(body: Any, expression_fields: Sequence[str] = ()) -> PredictCall:
    """Check and convert the JSON body of ``POST /predict``.

    Args:
        expression_fields: fields of the task data that hold expressions.

    Raises:
        InvalidRequest, InvalidLabelConfig: says which field is wrong.
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
        tasks=tuple(load_task(task, config, expression_fields) for task in tasks),
        typed=_typed_expressions(context, config) if interactive else (),
        gesture=_load_gesture(context, config) if interactive else None,
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
    return tuple(load_task(task, config) for task in tasks)


def _project_id(raw: Any) -> int:
    """``"<id>.<unix time>"`` to the id."""
    return read_id(str(raw).split(".")[0], "project id") if raw is not None else 0


def load_task(task: Any, config: LabelConfig, expression_fields: Sequence[str] = ()) -> PredictTask:
    """Check and convert one task.

    Raises:
        InvalidRequest: it has no photo where the labelling config says.
    """
    if not isinstance(task, dict):
        raise InvalidRequest("Every task needs 'data', an object.")
    return PredictTask(
        task_id=read_id(task.get("id") or 0, "task id"),
        photo=read_photo(task, config),
        expressions=_read_expressions(task["data"], expression_fields),
    )


def _read_expressions(data: dict[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    """Texts and lists of texts under the given fields, blanks and repetitions left out."""
    found: list[str] = []
    for field in fields:
        value = data.get(field)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (plain := to_storable(text).strip()):
                found.append(plain)
    return tuple(dict.fromkeys(found))


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


def _typed_expressions(context: Any, config: LabelConfig) -> tuple[str, ...]:
    typed: list[str] = []
    for entry in _entries(context):
        if entry.get("from_name") != config.expression:
            continue
        value = entry.get("value")
        texts = value.get("text") if isinstance(value, dict) else None
        for text in texts if isinstance(texts, list) else [texts]:
            if isinstance(text, str) and (storable := to_storable(text)).strip():
                typed.append(storable)
    return tuple(typed)


def _entries(context: Any) -> list[dict[str, Any]]:
    result = context.get("result") if isinstance(context, dict) else None
    if not isinstance(result, list):
        raise InvalidRequest("Expected 'params.context.result', a list.")
    return [entry for entry in result if isinstance(entry, dict)]


def _load_gesture(context: Any, config: LabelConfig) -> Gesture | None:
    """Places come in per cent of the photo's sides, with the photo's size."""
    clicks: list[tuple[float, float, bool]] = []
    ids: list[str] = []
    box, box_id = None, ""
    for entry in _entries(context):
        if entry.get("from_name") not in (config.click, config.box) or not entry.get("from_name"):
            continue
        try:
            value = entry["value"]
            width, height = int(entry["original_width"]), int(entry["original_height"])
            x, y = width * float(value["x"]) / 100, height * float(value["y"]) / 100
            if entry["from_name"] == config.click:
                place = (_within(x, width), _within(y, height))
                clicks.append((*place, entry.get("is_positive", True) is not False))
                ids.append(str(entry.get("id", "")))
            else:
                box_id = str(entry.get("id", ""))
                right = x + width * float(value["width"]) / 100
                lower = y + height * float(value["height"]) / 100
                box = (
                    _within(x, width), _within(y, height), _within(right, width),
                    _within(lower, height),
                )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidRequest(
                f"A click or box has an unknown shape: {type(error).__name__} {error}."
            ) from error
    if not clicks and box is None:
        return None
    return Gesture(tuple(clicks), box, (*ids, *([box_id] if box else [])))


def _within(value: float, side: int) -> float:
    """A drag may end outside the photo."""
    if not math.isfinite(value) or side <= 0:
        raise ValueError(f"{value} of {side} pixels")
    return min(max(value, 0.0), float(side))


def check_expression(text: str) -> str:
    """What a worker may be asked.

    Raises:
        InvalidExpression: it is too long.
    """
    if len(text) > MAX_EXPRESSION_CHARS:
        raise InvalidExpression(
            f"The expression has {len(text)} characters; the longest allowed is"
            f" {MAX_EXPRESSION_CHARS}.",
            "A sentence that names one object is enough.",
        )
    return text


def to_storable(raw: str) -> str:
    """Without null characters and lone surrogates: legal JSON, but no database text."""
    return raw.replace("\0", " ").encode("utf-8", errors="replace").decode("utf-8")


def _load_k(raw: Any) -> int | None:
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= MAX_K:
        raise InvalidRequest(f"k must be a whole number from 1 to {MAX_K}, got {raw!r}.")
    return raw
