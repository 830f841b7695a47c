"""COCO instances files: with sentences where saymask wrote them, else by category."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from backend.datasets.files import check_size_hw, read_json, to_rle, unite
from backend.datasets.load import Dataset, EvaluationPhoto, Expression, check_photos, find_photo
from backend.errors import DatasetError

_MISFIT = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError)


def load_coco(root: Path) -> Dataset:
    """All ``annotations/instances_*.json`` (or ``instances*.json``) of a folder, or one file.

    An annotation's ``expressions`` say what it is called. Without them its category does; then
    all objects of one category in a photo are one referent of several parts. Crowds are left out.

    Raises:
        DatasetError: a file or photo is missing or damaged, or a mask does not fit its photo.
    """
    if root.is_file():
        paths, folder = [root], root.parent
        folder = folder.parent if folder.name == "annotations" else folder
    else:
        paths = sorted([*root.glob("annotations/instances*.json"), *root.glob("instances*.json")])
        folder = root
    if not paths:
        raise DatasetError(
            f"{root} holds no COCO instances file.",
            "Expected annotations/instances_<split>.json, or name the file itself.",
        )
    photos = [photo for path in paths for photo in _read(path, folder)]
    photos = [photo for photo in photos if photo.expressions]
    if not photos:
        raise DatasetError(f"{root} holds no annotated object.")
    check_photos(photos, folder)
    return Dataset("coco", "all", tuple(sorted(photos, key=lambda photo: photo.path.name)))


def _read(path: Path, folder: Path) -> list[EvaluationPhoto]:
    content = read_json(path)
    split = path.stem.partition("_")[2]
    try:
        categories = {c["id"]: str(c["name"]) for c in content["categories"]}
        annotations: dict[Any, list[Any]] = defaultdict(list)
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                annotations[annotation["image_id"]].append(annotation)
        photos = []
        for image in content["images"]:
            size_hw = check_size_hw(
                (int(image["height"]), int(image["width"])), f"A photo in {path}"
            )
            where = find_photo(folder, str(image["file_name"]), (split, f"images/{split}", "."))
            said = _read_expressions(annotations[image["id"]], categories, size_hw, path)
            photos.append(EvaluationPhoto(where, size_hw, tuple(said), ()))
    except _MISFIT as error:
        raise DatasetError(
            f"{path} is no COCO instances file: {type(error).__name__} {error}."
        ) from error
    return photos


def _read_expressions(
    annotations: list[Any], categories: dict[Any, str], size_hw: tuple[int, int], path: Path
) -> list[Expression]:
    found: list[Expression] = []
    unnamed: dict[str, list[Any]] = defaultdict(list)
    for annotation in annotations:
        number, category = annotation["id"], categories[annotation["category_id"]]
        mask = to_rle(annotation["segmentation"], size_hw, f"annotation {number} in {path}")
        sentences = [str(e["raw"]) for e in annotation.get("expressions") or []]
        for place, text in enumerate(sentences):
            found.append(Expression(f"{number}.{place}", text, mask, (mask,), category, None))
        if not sentences:
            unnamed[category].append(mask)
    for category, masks in unnamed.items():
        target = unite(masks, size_hw)
        found.append(Expression(category, category, target, tuple(masks), category, None))
    return found
