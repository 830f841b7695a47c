"""Reading published data sets as they lie on disk, and our own exports.

Layouts: REFER's for RefCOCO, RefCOCO+ and RefCOCOg (``refs(<split_by>).p`` beside
``instances.json``), gRefCOCO's (``grefs(unc).json``), PhraseCut's (``refer_<split>.json``). All
that can be wrong is found before the first photo is worked on, and named with its file.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from backend.errors import DatasetError, InvalidMask
from backend.masks import decode_coco_rle, encode_coco_rle

DatasetName = Literal["refcoco", "refcoco+", "refcocog", "grefcoco", "phrasecut", "export"]
DATASETS: tuple[str, ...] = get_args(DatasetName)
Rle = dict[str, Any]

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
_PLAIN = {
    (module, name)
    for module in ("builtins", "__builtin__")
    for name in ("dict", "list", "tuple", "set", "str", "unicode", "int", "long", "float", "bool")
}


@dataclass(frozen=True)
class Expression:
    """One sentence about one photo.

    Attributes:
        id: unique within the data set, as text.
        text: as the annotator typed it.
        target: compressed COCO RLE of the ground truth; an empty mask means no target.
        category: name of the target's category, or None.
        kind: what a ``types.json`` in the root says of it, for a breakdown.
    """

    id: str
    text: str
    target: Rle
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


class PlainUnpickler(pickle.Unpickler):
    """Admits plain containers only: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no plain container")
        return super().find_class("builtins", {"unicode": "str", "long": "int"}.get(name, name))


def load_dataset(
    name: str, root: Path, split: str, *, split_by: str | None = None, limit: int | None = None
) -> Dataset:
    """Read one split.

    Args:
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
        photos = _load_phrasecut(root, split)
    else:
        photos = _load_refs(name, root, split, split_by)
    photos.sort(key=lambda photo: photo.path.name)
    missing = [photo.path for photo in photos if not photo.path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(photos)} photos are missing, first {missing[0].name}.",
            f"Put the photos into one of these folders of {root}: {', '.join(_PHOTO_FOLDERS)}.",
        )
    return Dataset(name, split, tuple(photos[:limit]))


def decode_mask(rle: Rle) -> NDArray[np.bool_]:
    """Compressed COCO RLE to (H, W) bool."""
    return decode_coco_rle(rle)


def _load_refs(name: str, root: Path, split: str, split_by: str | None) -> list[EvaluationPhoto]:
    folder = root / name if (root / name).is_dir() else root
    names = _REFS[name]
    if split_by is not None:
        names = tuple(f"{n.partition('(')[0]}({split_by}){Path(n).suffix}" for n in names)
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    if path is None:
        raise DatasetError(f"{folder} holds none of {', '.join(names)}.")
    refs = _read_json(path) if path.suffix == ".json" else _read_pickle(path)
    instances_path = folder / "instances.json"
    content = _read_json(instances_path)
    try:
        return _join_refs(refs, content, root, split, path, instances_path)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DatasetError(
            f"{path} and {instances_path.name} do not fit together: {type(error).__name__} {error}."
        ) from error


def _join_refs(
    refs: Any, content: Any, root: Path, split: str, path: Path, instances_path: Path
) -> list[EvaluationPhoto]:
    splits = sorted({ref["split"] for ref in refs})
    wanted = [ref for ref in refs if ref["split"] == split]
    if not wanted:
        raise DatasetError(f"{path} has no split {split!r}.", f"It has: {', '.join(splits)}.")
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    on_image: dict[int, list[Any]] = defaultdict(list)
    for annotation in content["annotations"]:
        on_image[annotation["image_id"]].append(annotation)
    kinds_path = root / "types.json"
    kinds = _read_json(kinds_path) if kinds_path.is_file() else {}
    by_image: dict[int, list[Any]] = defaultdict(list)
    for ref in wanted:
        by_image[ref["image_id"]].append(ref)
    photos = []
    for image_id, of_image in by_image.items():
        image = images[image_id]
        size_hw = (int(image["height"]), int(image["width"]))
        masks = {
            a["id"]: _to_rle(
                a["segmentation"], size_hw, f"annotation {a['id']} in {instances_path}"
            )
            for a in on_image[image_id]
        }
        named = {a["id"]: str(categories[a["category_id"]]) for a in on_image[image_id]}
        expressions = []
        for ref in of_image:
            targets = [i for i in _as_list(ref["ann_id"]) if i is not None and i != -1]
            target = _union([masks[i] for i in targets], size_hw)
            category = named[targets[0]] if targets else None
            expressions += [
                Expression(
                    id=str(sentence["sent_id"]),
                    text=str(sentence.get("raw") or sentence["sent"]),
                    target=target,
                    category=category,
                    kind=kinds.get(str(sentence["sent_id"])),
                )
                for sentence in ref["sentences"]
            ]
        instances = tuple(
            Instance(masks[a["id"]], named[a["id"]])
            for a in on_image[image_id]
            if not a.get("iscrowd")
        )
        photo_path = _find_photo(root, str(image["file_name"]))
        photos.append(EvaluationPhoto(photo_path, size_hw, tuple(expressions), instances))
    return photos


def _load_phrasecut(root: Path, split: str) -> list[EvaluationPhoto]:
    path = root / f"refer_{split}.json"
    if not path.is_file():
        there = sorted(p.stem.removeprefix("refer_") for p in root.glob("refer_*.json"))
        raise DatasetError(
            f"{root} has no split {split!r}: {path.name} is missing.",
            f"It has: {', '.join(there) or 'none'}.",
        )
    tasks = _read_json(path)
    sizes_path = root / "image_data_split.json"
    content = _read_json(sizes_path)
    by_image: dict[int, list[Any]] = defaultdict(list)
    try:
        sizes = {i["image_id"]: (int(i["height"]), int(i["width"])) for i in content}
        for task in tasks:
            by_image[task["image_id"]].append(task)
        photos = []
        for image_id, of_image in by_image.items():
            size_hw = sizes[image_id]
            expressions = []
            for task in of_image:
                where = f"task {task['task_id']} in {path}"
                polygons = [
                    [coordinate for point in polygon for coordinate in point]
                    for instance in task["Polygons"]
                    for polygon in instance
                ]
                structure = task.get("phrase_structure") or {}
                expressions.append(
                    Expression(
                        id=str(task["task_id"]),
                        text=str(task["phrase"]),
                        target=_to_rle(polygons, size_hw, where),
                        category=structure.get("name"),
                        kind=None,
                    )
                )
            photo_path = _find_photo(root, f"{image_id}.jpg")
            photos.append(EvaluationPhoto(photo_path, size_hw, tuple(expressions), ()))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DatasetError(
            f"{path} and {sizes_path.name} do not fit together: {type(error).__name__} {error}."
        ) from error
    return photos


def _find_photo(root: Path, file_name: str) -> Path:
    """Where the photo is, or where it was looked for first. Names never lead out of the root."""
    plain = Path(file_name).name
    places = [root / folder / plain for folder in _PHOTO_FOLDERS]
    return next((place for place in places if place.is_file()), places[0])


def _to_rle(segmentation: Any, size_hw: tuple[int, int], where: str) -> Rle:
    """Polygons, uncompressed or compressed RLE to compressed RLE; several polygons are united."""
    try:
        if isinstance(segmentation, list):
            return _unite_polygons(segmentation, size_hw)
        mask = decode_coco_rle(segmentation)
    except (InvalidMask, ValueError, TypeError, KeyError, IndexError) as error:
        raise DatasetError(f"The mask of {where} is broken: {error}") from error
    if mask.shape != size_hw:
        raise DatasetError(f"The mask of {where} is {mask.shape}, its photo {size_hw}.")
    return encode_coco_rle(mask)


def _unite_polygons(polygons: list[Any], size_hw: tuple[int, int]) -> Rle:
    """Checked here: pycocotools takes a list of four numbers for a box."""
    for polygon in polygons:
        values = np.asarray(polygon, dtype=float)
        if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
            raise ValueError("a polygon is three or more pairs of numbers.")
    if not polygons:
        raise ValueError("no polygon.")
    return dict(coco.merge(coco.frPyObjects(polygons, *size_hw)))


def _union(rles: Sequence[Rle], size_hw: tuple[int, int]) -> Rle:
    if not rles:
        return encode_coco_rle(np.zeros(size_hw, dtype=bool))
    return dict(coco.merge(list(rles))) if len(rles) > 1 else rles[0]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error


def _read_pickle(path: Path) -> Any:
    try:
        return PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError,
            AttributeError, MemoryError, OverflowError, UnicodeDecodeError) as error:  # fmt: skip
        raise DatasetError(
            f"{path} was refused: {error}.",
            "A refs file is a pickle of dictionaries, lists, text and numbers only.",
        ) from error
