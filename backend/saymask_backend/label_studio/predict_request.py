"""Label Studio's predict request as saymask's own data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from saymask.contract import normalise_expression
from saymask.errors import InvalidRequest
from saymask_backend.label_studio.label_config import LabelConfig, load_label_config
from saymask_backend.label_studio.schema import (
    BoxEntry,
    ClickEntry,
    PredictBody,
    TaskBody,
    TextEntry,
    to_storable,
    validate,
)
from saymask_backend.records.types import ProjectKey

# More than any rank has.
_MAX_RANK_DIGITS = 9
MAX_TASK_EXPRESSIONS = 100
"""Most expressions of one task's data that are answered; the others are counted."""

Entry = TypeVar("Entry", ClickEntry, BoxEntry, TextEntry)


@dataclass(frozen=True)
class PredictTask:
    """One task of a predict request or of a project.

    Attributes:
        image: the reference in the task's data; empty where there is a ``fault``.
        expressions: referring expressions in the task's data, at most ``MAX_TASK_EXPRESSIONS``.
        left_out: number of further expressions in the task's data.
        fault: why nothing can be done about this task, or None.
        versions: model versions of the task's predictions, where they were asked for.
        edited: ids of the regions whose masks an annotator has changed, as far as Label Studio has
            saved them.
    """

    task_id: int
    image: str
    expressions: tuple[str, ...] = ()
    left_out: int = 0
    fault: InvalidRequest | None = None
    versions: frozenset[str] = frozenset()
    edited: frozenset[str] = frozenset()


@dataclass(frozen=True)
class VisualPrompt:
    """The clicks and the box of an annotator, in pixels of the image.

    Attributes:
        clicks: x, y, positive.
        box_xyxy: left, top, right, bottom, or None.
        ids: the editor's ids, of the clicks and then of the box.
    """

    clicks: tuple[tuple[float, float, bool], ...]
    box_xyxy: tuple[float, float, float, float] | None
    ids: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of clicks; a box counts as one."""
        return len(self.clicks) + (self.box_xyxy is not None)

    def without(self, ids: frozenset[str]) -> VisualPrompt | None:
        """Return the prompt without some clicks; None when nothing is left."""
        pairs = [(c, i) for c, i in zip(self.clicks, self.ids, strict=False) if i not in ids]
        keeps_box = self.box_xyxy is not None and self.ids[-1] not in ids
        if not pairs and not keeps_box:
            return None
        return VisualPrompt(
            tuple(click for click, _ in pairs),
            self.box_xyxy if keeps_box else None,
            (*(i for _, i in pairs), *(self.ids[-1:] if keeps_box else ())),
        )


@dataclass(frozen=True)
class PredictRequest:
    """A call of ``POST /predict``.

    Attributes:
        project: with number 0 when Label Studio did not say.
        editor_entry_id: the editor's id of the content of the typed field: the same while an
            annotator changes it, different for every annotator.
        typed: every expression in the editor's field, the newest last; empty when a task was
            opened, and in the call that Label Studio makes after every submit.
        picked: the rank that was typed last, after these expressions, or None.
        prompt: clicks and box, or None.
        is_interactive: sent by the editor, as opposed to a batch of tasks.
        k: number of candidates asked for, or None.
    """

    project: ProjectKey
    label_config: LabelConfig
    tasks: tuple[PredictTask, ...]
    typed: tuple[str, ...]
    picked: int | None
    editor_entry_id: str
    prompt: VisualPrompt | None
    is_interactive: bool
    k: int | None


def parse_predict_request(body: Any, expression_fields: Sequence[str] = ()) -> PredictRequest:
    """Validate and convert the JSON body of ``POST /predict``.

    Raises:
        InvalidRequest: names the wrong fields; or the editor asks about a task that has a fault.
        InvalidLabelConfig: names the missing tag.
    """
    predict = validate(PredictBody.model_validate, body, InvalidRequest, "The predict request")
    config = load_label_config(predict.label_config)
    context = predict.params.context
    entries = context.result if context is not None else []
    texts = _select(entries, TextEntry, config.expression)
    lines = [text for entry in texts for text in entry.value.text if text.strip()]
    tasks = parse_tasks(predict.tasks, config, expression_fields)
    if context is not None and tasks[0].fault is not None:
        raise tasks[0].fault
    return PredictRequest(
        project=predict.project,
        label_config=config,
        tasks=tasks,
        typed=tuple(text for text in lines if read_rank(text) is None),
        picked=read_rank(lines[-1]) if lines else None,
        editor_entry_id=texts[-1].id if texts else "",
        prompt=_read_prompt(entries, config),
        is_interactive=context is not None,
        k=predict.params.k,
    )


def parse_tasks(
    bodies: Sequence[object], config: LabelConfig, expression_fields: Sequence[str] = ()
) -> tuple[PredictTask, ...]:
    """Convert tasks that were not validated, each on its own; an odd one has a ``fault``."""
    return tuple(
        _parse_unchecked(body, number, config, expression_fields)
        for number, body in enumerate(bodies)
    )


def _parse_unchecked(
    body: object, number: int, config: LabelConfig, expression_fields: Sequence[str]
) -> PredictTask:
    try:
        task = validate(TaskBody.model_validate, body, InvalidRequest, f"tasks.{number}")
    except InvalidRequest as error:
        return PredictTask(0, "", fault=error)
    return parse_task(task, config, expression_fields)


def parse_task(
    task: TaskBody, config: LabelConfig, expression_fields: Sequence[str] = ()
) -> PredictTask:
    """Convert one task; one without an image has a ``fault``."""
    expressions = _read_expressions(task.data, expression_fields)
    kept, left_out = expressions[:MAX_TASK_EXPRESSIONS], len(expressions[MAX_TASK_EXPRESSIONS:])
    image, fault = "", None
    try:
        image = read_image(task, config)
    except InvalidRequest as error:
        fault = error
    return PredictTask(
        task.id, image, kept, left_out, fault, task.predictions_model_versions,
        edited=frozenset(_list_edited(task)),
    )  # fmt: skip


def read_rank(text: str) -> int | None:
    """Return the rank that a number picks, None for an expression: a number is never one."""
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits[:_MAX_RANK_DIGITS])


def _list_edited(task: TaskBody) -> Iterator[str]:
    """Regions in drafts and annotations that were changed; unsaved strokes are ``touches``."""
    for saved in (*task.drafts, *task.annotations):
        entries = saved.get("result") if isinstance(saved, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            if not (isinstance(entry, dict) and isinstance(entry.get("id"), str)):
                continue
            value = entry.get("value")
            has_touches = isinstance(value, dict) and bool(value.get("touches"))
            if has_touches or entry.get("origin") == "prediction-changed":
                yield entry["id"]


def read_image(task: TaskBody, config: LabelConfig) -> str:
    """Return the reference to a task's image.

    Raises:
        InvalidRequest: the task has none in the field that the labelling config names.
    """
    image = task.data.get(config.image_key)
    if not isinstance(image, str) or not image.strip():
        raise InvalidRequest(
            f"The task has no photo in data[{config.image_key!r}].",
            f"Its fields: {', '.join(sorted(map(str, task.data))) or 'none'}.",
        )
    return to_storable(image).strip()


def _read_expressions(data: dict[Any, Any], fields: Sequence[str]) -> tuple[str, ...]:
    """Texts and lists of texts in the given fields."""
    values = [data.get(field) for field in fields]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return clean_expressions(text for text in texts if isinstance(text, str))


def clean_expressions(texts: Iterable[str]) -> tuple[str, ...]:
    """Normalise expressions; blanks and repetitions are left out."""
    cleaned = (normalise_expression(to_storable(text)).strip() for text in texts)
    return tuple(dict.fromkeys(text for text in cleaned if text))


def _read_prompt(entries: Sequence[object], config: LabelConfig) -> VisualPrompt | None:
    """Convert clicks and boxes, which come in per cent of the image's sides."""
    clicks = _select(entries, ClickEntry, config.click)
    boxes = _select(entries, BoxEntry, config.box)
    if not clicks and not boxes:
        return None
    box_xyxy = None
    for entry in boxes[-1:]:
        box = entry.value
        corner_xy = _to_pixels(entry, box.x + box.width, box.y + box.height)
        box_xyxy = (*_to_pixels(entry, box.x, box.y), *corner_xy)
    return VisualPrompt(
        tuple((*_to_pixels(c, c.value.x, c.value.y), c.is_positive) for c in clicks),
        box_xyxy,
        tuple(entry.id for entry in (*clicks, *boxes[-1:])),
    )


def _select(entries: Sequence[object], kind: type[Entry], name: str | None) -> list[Entry]:
    """The entries of one kind that come from the tag of this name."""
    return [e for e in entries if isinstance(e, kind) and e.from_name == name]


def _to_pixels(entry: ClickEntry | BoxEntry, x: float, y: float) -> tuple[float, float]:
    """Pixels from per cent, clipped to the image: a drag may end outside."""
    height, width = entry.size_hw
    return (
        min(max(width * x / 100, 0.0), float(width)),
        min(max(height * y / 100, 0.0), float(height)),
    )
