"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO in the layout of the REFER toolkit.

``refs(<split_by>).p`` or ``grefs(<split_by>).json`` next to ``instances.json``; also what
``saymask export`` writes in that layout.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saymask.datasets.files import (
    MISFIT,
    check_size_hw,
    convert_each,
    index_by_id,
    read_json,
    read_pickle,
    to_key,
    to_rle,
    unite,
)
from saymask.datasets.images import find_image
from saymask.datasets.model import DatasetImage, Expression, Instance, Rle
from saymask.errors import DatasetError

log = logging.getLogger(__name__)

REFS_FILES = {
    "refcoco": ("refs(unc).p",),
    "refcoco+": ("refs(unc).p",),
    "refcocog": ("refs(umd).p", "refs(google).p"),
    "grefcoco": ("grefs(unc).json", "grefs(unc).p"),
    "export": ("refs(saymask).p", "grefs(saymask).json"),
}
_NO_TARGET = ("None", "-1")


@dataclass(frozen=True)
class _Tables:
    """The parsed files of one dataset; ids are text, as ``to_key`` makes them.

    Attributes:
        images: image id to its entry.
        annotations: image id to the annotations of that image, by their ids.
        categories: category id to its name.
        kinds: sentence id to its entry in ``types.json``.
        path: of ``instances.json``, for messages.
    """

    root: Path
    images: dict[str, Any]
    annotations: dict[str, dict[str, Any]]
    categories: dict[str, str]
    kinds: dict[str, Any]
    path: Path


def load_refs(
    name: str, root: Path, split: str | None, split_by: str | None, limit: int | None
) -> tuple[list[DatasetImage], list[str]]:
    """Read one split (None: all) of a dataset named in ``REFS_FILES``.

    Returns:
        The images, and why others are left out.

    Raises:
        DatasetError: a file is missing or damaged, or the split is unknown.
    """
    folder = root / name if (root / name).is_dir() else root
    path = _find_refs(folder, REFS_FILES[name], split_by)
    refs = read_json(path) if path.suffix == ".json" else read_pickle(path)
    instances_path = folder / "instances.json"
    content = read_json(instances_path)
    kinds_path = root / "types.json"
    kinds = read_json(kinds_path) if kinds_path.is_file() else {}
    try:
        by_image = _group_refs(refs, split, path)
        tables = _build_tables(content, kinds, root, instances_path)
        described = [i for i in by_image if i in tables.images]
        ids = sorted(described, key=lambda i: Path(str(tables.images[i]["file_name"])).name)[:limit]
    except MISFIT as error:
        raise DatasetError(
            f"{path} and {instances_path.name} do not fit together: {type(error).__name__} {error}."
        ) from error
    left_out = [
        f"Image {image_id} of {path} is not in {instances_path}."
        for image_id in by_image
        if image_id not in tables.images
    ]
    return convert_each(
        ids, lambda image_id: _build_image(tables, image_id, by_image[image_id]), path, left_out
    )


def _find_refs(folder: Path, names: Sequence[str], split_by: str | None) -> Path:
    if split_by is not None:
        names = [f"{n.partition('(')[0]}({split_by}){Path(n).suffix}" for n in names]
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    if path is None:
        raise DatasetError(f"{folder} holds none of {', '.join(names)}.")
    return path


def _group_refs(refs: Any, split: str | None, path: Path) -> dict[str, list[Any]]:
    """Refs of the split, by image id."""
    by_image: dict[str, list[Any]] = defaultdict(list)
    for ref in refs:
        if split is None or ref["split"] == split:
            by_image[to_key(ref["image_id"])].append(ref)
    if not by_image:
        splits = sorted({str(ref["split"]) for ref in refs})
        raise DatasetError(f"{path} has no split {split!r}.", f"It has: {', '.join(splits)}.")
    return by_image


def _build_tables(content: Any, kinds: Any, root: Path, path: Path) -> _Tables:
    annotations: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, annotation in index_by_id(content["annotations"], "id", "annotations", path).items():
        annotations[to_key(annotation.get("image_id"))][key] = annotation
    categories = index_by_id(content["categories"], "id", "categories", path)
    return _Tables(
        root=root,
        images=index_by_id(content["images"], "id", "images", path),
        annotations=annotations,
        categories={key: str(entry["name"]) for key, entry in categories.items()},
        kinds=kinds,
        path=path,
    )


def _build_image(tables: _Tables, image_id: str, refs: list[Any]) -> DatasetImage:
    """One image with its refs and all its annotated objects."""
    image, annotations = tables.images[image_id], tables.annotations[image_id]
    size_hw = check_size_hw(
        (int(image["height"]), int(image["width"])), f"An image in {tables.path}"
    )
    referred_ids = {i for ref in refs for i in _target_ids(ref)}
    masks = _read_masks(annotations, size_hw, referred_ids, tables.path)
    names = {
        key: tables.categories.get(to_key(annotation.get("category_id")))
        for key, annotation in annotations.items()
    }
    expressions = [e for ref in refs for e in _read_ref(ref, masks, names, tables.kinds, size_hw)]
    instances = tuple(
        Instance(masks[key], name)
        for key, name in names.items()
        if name is not None and key in masks and not annotations[key].get("iscrowd")
    )
    path = find_image(tables.root, str(image["file_name"]))
    return DatasetImage(path, size_hw, tuple(expressions), instances)


def _read_masks(
    annotations: dict[str, Any], size_hw: tuple[int, int], referred_ids: set[str], path: Path
) -> dict[str, Rle]:
    """Masks by annotation id; a broken one that no ref uses is left out with a warning."""
    masks: dict[str, Rle] = {}
    for annotation_id, annotation in annotations.items():
        where = f"annotation {annotation_id} in {path}"
        try:
            masks[annotation_id] = to_rle(annotation.get("segmentation"), size_hw, where)
        except DatasetError as error:
            if annotation_id in referred_ids:
                raise
            log.warning("%s No expression refers to it; it is left out.", error)
    return masks


def _read_ref(
    ref: Any,
    masks: dict[str, Rle],
    names: dict[str, str | None],
    kinds: dict[str, Any],
    size_hw: tuple[int, int],
) -> list[Expression]:
    target_ids = _target_ids(ref)
    parts = tuple(masks[i] for i in target_ids)
    expressions = []
    for sentence in ref["sentences"]:
        sentence_id = str(sentence["sent_id"])
        kind = kinds.get(sentence_id)
        expressions.append(
            Expression(
                id=sentence_id,
                text=str(sentence.get("raw") or sentence["sent"]),
                target=unite(parts, size_hw),
                parts=parts,
                category=names[target_ids[0]] if target_ids else None,
                kind=None if kind is None else str(kind),
            )
        )
    return expressions


def _target_ids(ref: Any) -> list[str]:
    """Ids of the targets: gRefCOCO has a list, the others one; -1 and null mean no target."""
    value = ref["ann_id"]
    ids = list(value) if isinstance(value, list | tuple) else [value]
    return [key for key in map(to_key, ids) if key not in _NO_TARGET]
