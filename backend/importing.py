"""From data sets others made to Label Studio tasks with expressions and masks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.datasets.coco import load_coco
from backend.datasets.load import Dataset, EvaluationPhoto, Expression, load_dataset
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.project_tasks import (
    create_tasks,
    read_label_config,
    read_tasks,
    upload_photo,
)
from backend.label_studio.regions import build_region, build_typed, build_verdict

log = logging.getLogger(__name__)

IMPORT_FORMATS = ("refcoco", "refcoco+", "refcocog", "grefcoco", "coco")
MODEL_VERSION = "imported"
# In the task's data: which photo of which set this is, so that a second try makes no second task.
_SOURCE = "saymask_import"
_IMPORTED_LABEL = "referent"


@dataclass(frozen=True)
class ImportReport:
    """What an import made, or would make. ``there`` are tasks from an earlier try."""

    photos: int
    tasks: int
    expressions: int
    no_referent: int
    there: int


@dataclass(frozen=True)
class _Task:
    key: str
    path: Path
    expressions: tuple[Expression, ...]

    @property
    def has_referents(self) -> bool:
        return bool(self.expressions[0].parts)


def read_import(format_: str, root: Path, split: str | None) -> Dataset:
    """Read a set in one of ``IMPORT_FORMATS``, or one that ``saymask export`` made.

    Raises:
        DatasetError: says which file is wrong.
    """
    if format_ == "coco":
        return load_coco(root)
    ours = any((root / name).is_file() for name in ("refs(saymask).p", "grefs(saymask).json"))
    return load_dataset("export" if ours else format_, root, split)


def import_dataset(
    client: LabelStudioClient,
    project_id: int,
    dataset: Dataset,
    progress: Callable[[int, int], None],
    *,
    as_annotations: bool = False,
    dry_run: bool = False,
) -> ImportReport:
    """Create a task per photo with one region per object and expression, and a task of its own
    for every expression without a referent. What an earlier try made is left as it is.

    Args:
        as_annotations: as finished work, instead of predictions someone checks.

    Raises:
        LabelStudioError: a call failed; what was made stays, and the next try goes on.
        InvalidLabelConfig: the project is not made for saymask.
    """
    config = read_label_config(client, project_id)
    known = {task["data"].get(_SOURCE) for task, _ in read_tasks(client, project_id)}
    photos = tasks = expressions = no_referent = there = 0
    for number, photo in enumerate(dataset.photos, 1):
        wanted = _split_into_tasks(photo)
        new = [task for task in wanted if task.key not in known]
        there += len(wanted) - len(new)
        if new:
            photos += 1
            tasks += len(new)
            expressions += sum(len(task.expressions) for task in new)
            no_referent += sum(not task.has_referents for task in new)
            if not dry_run:
                reference = upload_photo(client, project_id, photo.path)
                made = [_build_task(t, reference, config, as_annotations) for t in new]
                create_tasks(client, project_id, made)
        progress(number, len(dataset.photos))
    return ImportReport(photos, tasks, expressions, no_referent, there)


def _split_into_tasks(photo: EvaluationPhoto) -> list[_Task]:
    """The editor holds one expression for the whole photo, and that one a verdict needs."""
    found = tuple(e for e in photo.expressions if e.parts)
    groups = [found] if found else []
    groups += [(e,) for e in photo.expressions if not e.parts]
    digest = hashlib.sha256(photo.path.read_bytes()).hexdigest()
    tasks = []
    for group in groups:
        said = hashlib.sha256("\n".join(sorted(e.text for e in group)).encode()).hexdigest()
        tasks.append(_Task(f"{digest[:32]}-{said[:16]}", photo.path, group))
    return tasks


def _build_task(
    task: _Task, reference: str, config: LabelConfig, as_annotations: bool
) -> dict[str, Any]:
    label = _IMPORTED_LABEL if _IMPORTED_LABEL in config.mask_labels else config.mask_labels[0]
    result: list[dict[str, Any]] = []
    if not task.has_referents:
        result.append(build_typed(config, task.expressions[0].text))
        if config.verdict is not None:
            result.append(build_verdict(config, "no referent"))
    for number, expression in enumerate(task.expressions):
        for part, mask in enumerate(expression.parts):
            result += build_region(
                config,
                region_id=f"im{task.key[:12]}_{number}_{part}",
                coco_rle=mask,
                label=label,
                expression=expression.text,
                meta="imported",
            )
    data = {
        config.image_key: reference,
        "expressions": [expression.text for expression in task.expressions],
        _SOURCE: task.key,
    }
    if as_annotations:
        return {"data": data, "annotations": [{"result": result}]}
    return {"data": data, "predictions": [{"result": result, "model_version": MODEL_VERSION}]}
