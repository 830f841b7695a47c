"""Published data sets as they lie on disk, and sets in the same layout that people export.

Layouts: REFER's for RefCOCO, RefCOCO+ and RefCOCOg (``refs(<split_by>).p`` beside
``instances.json``), gRefCOCO's (``grefs(unc).json``), PhraseCut's (``refer_<split>.json``). What
can be wrong is found before the first photo is worked on, and named with its file.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from backend.datasets.files import (
    Rle,
    check_size_hw,
    read_json,
    read_pickle,
    read_size_hw,
    to_rle,
    unite,
)
from backend.errors import DatasetError
from backend.masks import decode_coco_rle

log = logging.getLogger(__name__)

DatasetName = Literal["refcoco", "refcoco+", "refcocog", "grefcoco", "phrasecut", "export"]
DATASETS: tuple[str, ...] = get_args(DatasetName)

_REFS = {
    "refcoco": ("refs(unc).p",),
    "refcoco+": ("refs(unc).p",),
    "refcocog": ("refs(umd).p", "refs(google).p"),
    "grefcoco": ("grefs(unc).json", "grefs(unc).p"),
    "export": ("refs(saymask).p", "grefs(saymask).json"),
}
_PHOTO_FOLDERS = (
    "images/mscoco/images/train2014",
    "images/train2014",
    "train2014",
    "images",
    "images/VG_100K",
    "VG_100K",
)
_MISFIT = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError)


@dataclass(frozen=True)
class Expression:
    """One sentence about one photo.

    Attributes:
        id: unique within the photo, as text.
        text: as the annotator typed it.
        target: compressed COCO RLE of the ground truth; an empty mask means no target.
        parts: its objects one by one; empty when there is none.
        category: name of the target's category, or None.
        kind: what a ``types.json`` in the root says of it, for a breakdown.
    """

    id: str
    text: str
    target: Rle
    parts: tuple[Rle, ...]
    category: str | None
    kind: str | None


@dataclass(frozen=True)
class Instance:
    """An annotated object of the photo, whether someone speaks of it or not."""

    mask: Rle
    category: str


@dataclass(frozen=True)
class EvaluationPhoto:
    """A photo, what was said about it, and what is annotated in it."""

    path: Path
    size_hw: tuple[int, int]
    expressions: tuple[Expression, ...]
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Dataset:
    """One split of a data set, photos in the order of their file names."""

    name: str
    split: str
    photos: tuple[EvaluationPhoto, ...]

    @property
    def count(self) -> int:
        """Number of expressions."""
        return sum(len(photo.expressions) for photo in self.photos)


def load_dataset(
    name: str,
    root: Path,
    split: str | None,
    *,
    split_by: str | None = None,
    limit: int | None = None,
) -> Dataset:
    """Read one split.

    Args:
        split: None reads all splits (not of PhraseCut, whose splits are files).
        split_by: RefCOCO's word for who made the splits (``unc``, ``umd``, ``google``); by
            default the first of the set's own that is there.
        limit: only so many photos, the first by name.

    Raises:
        DatasetError: a file is missing, damaged or hostile, the split is unknown, a mask does
            not fit its photo. Names the file.
    """
    if name not in DATASETS:
        raise DatasetError(f"Unknown data set {name!r}.", f"Use one of {', '.join(DATASETS)}.")
    if not root.is_dir():
        raise DatasetError(f"There is no folder {root}.", "Give the data set's folder as --root.")
    if name == "phrasecut":
        photos = _load_phrasecut(root, split or "train", limit)
    else:
        photos = _load_refs(name, root, split, split_by, limit)
    photos = [photo for photo in photos if photo.expressions]
    if not photos:
        raise DatasetError(f"The split {split or 'all'!r} in {root} holds no expression.")
    check_photos(photos, root)
    return Dataset(name, split or "all", tuple(photos))


def decode_mask(rle: Rle) -> NDArray[np.bool_]:
    """Compressed COCO RLE to (H, W) bool."""
    return decode_coco_rle(rle)


def check_photos(photos: list[EvaluationPhoto], root: Path) -> None:
    """Every photo is there, has its own name and the size it was annotated in.

    Raises:
        DatasetError: names the first that does not.
    """
    missing = [photo.path for photo in photos if not photo.path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(photos)} photos are missing, first {missing[0].name}.",
            f"Put the photos into one of these folders of {root}: {', '.join(_PHOTO_FOLDERS)}.",
        )
    counts = Counter(photo.path.name for photo in photos)
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise DatasetError(f"{count} photos are named {name}.", "Give every photo its own name.")
    for photo in photos:
        if len({expression.id for expression in photo.expressions}) < len(photo.expressions):
            raise DatasetError(f"Two sentences about {photo.path.name} have the same id.")
        size_hw = read_size_hw(photo.path)
        if size_hw != photo.size_hw:
            raise DatasetError(
                f"{photo.path} is {size_hw}, annotated as {photo.size_hw}.",
                "Give the photos the annotations were made on.",
            )


def _load_refs(
    name: str, root: Path, split: str | None, split_by: str | None, limit: int | None
) -> list[EvaluationPhoto]:
    folder = root / name if (root / name).is_dir() else root
    names = _REFS[name]
    if split_by is not None:
        names = tuple(f"{n.partition('(')[0]}({split_by}){Path(n).suffix}" for n in names)
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    if path is None:
        raise DatasetError(f"{folder} holds none of {', '.join(names)}.")
    refs = read_json(path) if path.suffix == ".json" else read_pickle(path)
    instances_path = folder / "instances.json"
    content = read_json(instances_path)
    kinds_path = root / "types.json"
    kinds = read_json(kinds_path) if kinds_path.is_file() else {}
    try:
        splits = sorted({str(ref["split"]) for ref in refs})
        by_image: dict[int, list[Any]] = defaultdict(list)
        for ref in refs:
            if split is None or ref["split"] == split:
                by_image[ref["image_id"]].append(ref)
        if not by_image:
            raise DatasetError(f"{path} has no split {split!r}.", f"It has: {', '.join(splits)}.")
        images = {image["id"]: image for image in content["images"]}
        chosen = sorted(by_image, key=lambda i: Path(str(images[i]["file_name"])).name)[:limit]
        annotations: dict[int, list[Any]] = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        categories = {c["id"]: str(c["name"]) for c in content["categories"]}
        return [
            _join(images[i], by_image[i], annotations[i], categories, kinds, root, instances_path)
            for i in chosen
        ]
    except _MISFIT as error:
        raise DatasetError(
            f"{path} and {instances_path.name} do not fit together: {type(error).__name__} {error}."
        ) from error


def _join(
    image: Any,
    refs: list[Any],
    annotations: list[Any],
    categories: dict[Any, str],
    kinds: Any,
    root: Path,
    where: Path,
) -> EvaluationPhoto:
    """One photo with its refs and everything that is annotated in it."""
    size_hw = check_size_hw((int(image["height"]), int(image["width"])), f"A photo in {where}")
    meant = {i for ref in refs for i in _target_ids(ref)}
    masks: dict[Any, Rle] = {}
    for annotation in annotations:
        number = annotation["id"]
        try:
            mask = to_rle(annotation["segmentation"], size_hw, f"annotation {number} in {where}")
        except DatasetError as error:
            if number in meant:
                raise
            log.warning("%s Nobody speaks of it; it is left out.", error)
        else:
            masks[number] = mask
    named = {a["id"]: categories[a["category_id"]] for a in annotations}
    expressions = []
    for ref in refs:
        targets = _target_ids(ref)
        parts = tuple(masks[i] for i in targets)
        category = named[targets[0]] if targets else None
        for sentence in ref["sentences"]:
            number = str(sentence["sent_id"])
            kind = kinds.get(number)
            expressions.append(
                Expression(
                    id=number,
                    text=str(sentence.get("raw") or sentence["sent"]),
                    target=unite(parts, size_hw),
                    parts=parts,
                    category=category,
                    kind=None if kind is None else str(kind),
                )
            )
    instances = tuple(
        Instance(masks[a["id"]], named[a["id"]])
        for a in annotations
        if not a.get("iscrowd") and a["id"] in masks
    )
    path = find_photo(root, str(image["file_name"]))
    return EvaluationPhoto(path, size_hw, tuple(expressions), instances)


def _target_ids(ref: Any) -> list[Any]:
    """gRefCOCO's list, or the one id of the others; -1 and null mean no target."""
    value = ref["ann_id"]
    ids = list(value) if isinstance(value, list | tuple) else [value]
    return [i for i in ids if i is not None and i != -1]


def _load_phrasecut(root: Path, split: str, limit: int | None) -> list[EvaluationPhoto]:
    path = root / f"refer_{split}.json"
    if not path.is_file():
        there = sorted(p.stem.removeprefix("refer_") for p in root.glob("refer_*.json"))
        raise DatasetError(
            f"{root} has no split {split!r}: {path.name} is missing.",
            f"It has: {', '.join(there) or 'none'}.",
        )
    tasks = read_json(path)
    sizes_path = root / "image_data_split.json"
    content = read_json(sizes_path)
    by_image: dict[int, list[Any]] = defaultdict(list)
    try:
        sizes = {i["image_id"]: (int(i["height"]), int(i["width"])) for i in content}
        for task in tasks:
            by_image[task["image_id"]].append(task)
        photos = []
        for image_id in sorted(by_image, key=lambda i: f"{i}.jpg")[:limit]:
            size_hw = check_size_hw(sizes[image_id], f"Photo {image_id} in {sizes_path}")
            expressions = tuple(_read_task(task, size_hw, path) for task in by_image[image_id])
            photo_path = find_photo(root, f"{image_id}.jpg")
            photos.append(EvaluationPhoto(photo_path, size_hw, expressions, ()))
    except _MISFIT as error:
        raise DatasetError(
            f"{path} and {sizes_path.name} do not fit together: {type(error).__name__} {error}."
        ) from error
    return photos


def _read_task(task: Any, size_hw: tuple[int, int], path: Path) -> Expression:
    polygons = [
        [coordinate for point in polygon for coordinate in point]
        for instance in task["Polygons"]
        for polygon in instance
    ]
    category = (task.get("phrase_structure") or {}).get("name")
    target = to_rle(polygons, size_hw, f"task {task['task_id']} in {path}")
    return Expression(
        id=str(task["task_id"]),
        text=str(task["phrase"]),
        target=target,
        parts=(target,),
        category=None if category is None else str(category),
        kind=None,
    )


def find_photo(root: Path, file_name: str, folders: Sequence[str] = ()) -> Path:
    """Where the photo is, or where it was looked for first. Names never lead out of the root."""
    plain = Path(file_name).name
    places = [root / folder / plain for folder in (*folders, *_PHOTO_FOLDERS)]
    return next((place for place in places if place.is_file()), places[0])
