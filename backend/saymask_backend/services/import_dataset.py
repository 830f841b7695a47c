"""From published datasets to Label Studio tasks with expressions and masks."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from saymask.datasets import (
    Dataset,
    DatasetImage,
    Expression,
    RowChoice,
    load_coco,
    load_dataset,
)
from saymask.datasets.images import require_inside
from saymask.errors import ConfigError, DatasetError
from saymask.image_files import find_suffix
from saymask.left_out import LeftOut, OnProgress
from saymask_backend.label_studio.annotations import PROPOSED_FIELD
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.predictions import build_region, build_typed, build_verdict

COCO_FORMAT: Final = "coco"
PARQUET_FORMAT: Final = "parquet"
ImportFormat = Literal["refcoco", "refcoco+", "refcocog", "grefcoco", "coco", "parquet"]
MODEL_VERSION = "imported"
# Label Studio takes and browsers show these.
_SHOWN_SUFFIXES = (".jpg", ".png", ".gif", ".bmp", ".webp")
# In the task's data: image and expressions of the dataset, so that a repeated import adds nothing.
_SOURCE_FIELD = "saymask_import"
_IMPORTED_LABEL = "referent"
_EXPORT_FILES = ("refs(saymask).p", "grefs(saymask).json")


@dataclass(frozen=True)
class ImportReport:
    """The numbers of an import, or of one that would be made.

    Attributes:
        unannotated: photos without an expression, which have an empty task each.
        existing: tasks of an earlier import.
        failed: items of the dataset that could not be used or created, and why.
    """

    photos: int
    tasks: int
    expressions: int
    no_referent: int
    unannotated: int
    existing: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class _NewTask:
    """A task to be created; ``key`` identifies image and expressions."""

    key: str
    expressions: tuple[Expression, ...]

    @property
    def has_referents(self) -> bool:
        return any(expression.parts for expression in self.expressions)


def read_import(
    format_: ImportFormat,
    place: str,
    split: str | None,
    choice: RowChoice,
    scratch: Path,
    *,
    with_unannotated: bool = False,
) -> Dataset:
    """Read a dataset in one of the formats, or one that ``saymask export`` wrote.

    ``place`` is a folder or file, or, with ``parquet``, whatever fsspec reads; ``scratch`` is a
    folder for copies of images that are elsewhere. Images are uploaded later, so none may lie
    outside of the dataset.

    Raises:
        DatasetError: names the file that is wrong.
        ConfigError: a package for ``parquet`` is missing.
    """
    if format_ == PARQUET_FORMAT:
        return _read_parquet(place, choice, scratch)
    root = Path(place)
    if format_ == COCO_FORMAT:
        return load_coco(root, with_unannotated=with_unannotated)
    is_export = any((root / name).is_file() for name in _EXPORT_FILES)
    dataset = load_dataset("export" if is_export else format_, root, split)
    require_inside([image.path for image in dataset.images], root)
    return dataset


def _read_parquet(place: str, choice: RowChoice, scratch: Path) -> Dataset:
    try:
        from saymask.datasets.parquet import load_parquet
    except ImportError as error:
        raise ConfigError(f"{error}.", "pip install 'saymask[batch]'") from error
    return load_parquet(place, choice, scratch)


def import_dataset(
    client: LabelStudioClient,
    project_id: int,
    dataset: Dataset,
    progress: OnProgress,
    *,
    as_annotations: bool = False,
    dry_run: bool = False,
) -> ImportReport:
    """Create a task per image, and another one for every expression without a referent.

    A task has one region per object and expression. Tasks of an earlier import stay as they are.
    An image that Label Studio cannot show is left out. ``as_annotations`` makes them finished work
    instead of predictions to check.

    Raises:
        LabelStudioError: a call failed; what was created stays, and the next import continues.
        InvalidLabelConfig: the project is not set up for saymask.
    """
    config = client.get_project(project_id).read_label_config()
    left_out = LeftOut()
    existing = {
        str(task.data.get(_SOURCE_FIELD)) for task in client.iterate_tasks(project_id, left_out)
    }
    counts: Counter[str] = Counter()
    for done, image in enumerate(dataset.images, start=1):
        with left_out.guard(image.path.name):
            data = _read(image.path)
            name = _name_upload(image.path, data)
            tasks = _split_into_tasks(image, hashlib.sha256(data).hexdigest())
            new = [task for task in tasks if task.key not in existing]
            if new and not dry_run:
                reference = client.upload_image(project_id, image.path, name)
                bodies = [_build_task(t, reference, config, as_annotations) for t in new]
                client.import_tasks(project_id, bodies)
            counts.update(_count(new), existing=len(tasks) - len(new))
        progress(done, len(dataset.images))
    names = ("photos", "tasks", "expressions", "no_referent", "unannotated", "existing")
    return ImportReport(
        **{name: counts[name] for name in names}, failed=(*dataset.left_out, *left_out.lines)
    )


def _name_upload(path: Path, data: bytes) -> str:
    """A name with a suffix by which Label Studio recognises an image that browsers show."""
    suffix = find_suffix(data[:16])
    if suffix not in _SHOWN_SUFFIXES:
        raise DatasetError(
            f"{path} is in a format that Label Studio does not show.", "Convert it to PNG or JPEG."
        )
    is_named_so = path.suffix.lower() in (*_SHOWN_SUFFIXES, ".jpeg")
    return path.name if is_named_so else f"{path.stem}{suffix}"


def _count(new: list[_NewTask]) -> dict[str, int]:
    """The new tasks of one image in numbers."""
    return {
        "photos": int(bool(new)),
        "tasks": len(new),
        "expressions": sum(len(task.expressions) for task in new),
        "no_referent": sum(bool(t.expressions) and not t.has_referents for t in new),
        "unannotated": sum(not task.expressions for task in new),
    }


def _split_into_tasks(image: DatasetImage, image_hash: str) -> list[_NewTask]:
    """Expressions with referents share a task; an image without any has one all the same.

    The editor has one expression for the whole image, and a verdict is about that one: every
    expression without a referent needs a separate task.
    """
    with_referent = tuple(e for e in image.expressions if e.parts)
    groups = [with_referent] if with_referent else []
    groups += [(e,) for e in image.expressions if not e.parts]
    if not groups:
        groups = [()]
    tasks = []
    for group in groups:
        texts = "\n".join(sorted(e.text for e in group))
        texts_hash = hashlib.sha256(texts.encode()).hexdigest()
        tasks.append(_NewTask(f"{image_hash[:32]}-{texts_hash[:16]}", group))
    return tasks


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error


def _build_task(
    task: _NewTask, reference: str, config: LabelConfig, as_annotations: bool
) -> dict[str, Any]:
    data: dict[str, Any] = {config.image_key: reference, _SOURCE_FIELD: task.key}
    if not task.expressions:
        return {"data": data}
    result = _build_result(task, config)
    data["expressions"] = [expression.text for expression in task.expressions]
    proposed = [name for name, expression, _ in _list_regions(task) if expression.is_proposed]
    if proposed:
        data[PROPOSED_FIELD] = proposed
    if as_annotations:
        return {"data": data, "annotations": [{"result": result}]}
    return {"data": data, "predictions": [{"result": result, "model_version": MODEL_VERSION}]}


def _build_result(task: _NewTask, config: LabelConfig) -> list[dict[str, Any]]:
    if not task.has_referents:
        typed = build_typed(config, [task.expressions[0].text])
        return [typed, build_verdict(config, "no referent")] if config.verdict else [typed]
    label = config.find_label(_IMPORTED_LABEL) or config.mask_labels[0].sent
    return [
        entry
        for region_id, expression, mask in _list_regions(task)
        for entry in build_region(
            config,
            region_id=region_id,
            coco_rle=mask,
            label=label,
            expression=expression.text,
            meta="proposed" if expression.is_proposed else "imported",
        )
    ]


def _list_regions(task: _NewTask) -> list[tuple[str, Expression, dict[str, Any]]]:
    """One region per part of an expression's mask; ids are unique in a project."""
    return [
        (f"im{task.key[:12]}_{index}_{part}", expression, mask)
        for index, expression in enumerate(task.expressions)
        for part, mask in enumerate(expression.parts)
    ]
