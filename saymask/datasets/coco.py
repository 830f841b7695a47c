"""COCO instances files: with sentences where saymask wrote them, else by category."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from saymask.datasets.files import MISFIT, check_size_hw, read_json, to_rle, unite
from saymask.datasets.images import check_images, find_image, require_inside
from saymask.datasets.model import Dataset, DatasetImage, Expression, Rle
from saymask.errors import DatasetError


def load_coco(root: Path) -> Dataset:
    """Read all ``annotations/instances_*.json`` (or ``instances*.json``) of a folder, or one file.

    An annotation's ``expressions`` are its sentences. Without them its category name is the
    expression; then all objects of one category in an image are one referent of several parts.
    Crowds are left out.

    Raises:
        DatasetError: a file or image is missing or damaged, an image lies outside of the folder,
            or a mask does not fit its image.
    """
    paths, folder = _find_files(root)
    if not paths:
        raise DatasetError(
            f"{root} holds no COCO instances file.",
            "Expected annotations/instances_<split>.json, or name the file itself.",
        )
    images = [image for path in paths for image in _read_file(path, folder) if image.expressions]
    if not images:
        raise DatasetError(f"{root} holds no annotated object.")
    check_images(images, folder)
    require_inside([image.path for image in images], folder)
    return Dataset("coco", "all", tuple(sorted(images, key=lambda image: image.path.name)))


def _find_files(root: Path) -> tuple[list[Path], Path]:
    """The instances files, and the folder below which their images lie."""
    if not root.is_file():
        return sorted(
            [*root.glob("annotations/instances*.json"), *root.glob("instances*.json")]
        ), root
    folder = root.parent
    return [root], folder.parent if folder.name == "annotations" else folder


def _read_file(path: Path, folder: Path) -> list[DatasetImage]:
    content = read_json(path)
    split = path.stem.partition("_")[2]
    try:
        categories = {c["id"]: str(c["name"]) for c in content["categories"]}
        annotations: dict[Any, list[Any]] = defaultdict(list)
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                annotations[annotation["image_id"]].append(annotation)
        images = []
        for image in content["images"]:
            size_hw = check_size_hw(
                (int(image["height"]), int(image["width"])), f"An image in {path}"
            )
            image_path = find_image(
                folder, str(image["file_name"]), (split, f"images/{split}", ".")
            )
            expressions = _read_expressions(annotations[image["id"]], categories, size_hw, path)
            images.append(DatasetImage(image_path, size_hw, tuple(expressions), ()))
    except MISFIT as error:
        raise DatasetError(
            f"{path} is not a COCO instances file: {type(error).__name__} {error}."
        ) from error
    return images


def _read_expressions(
    annotations: list[Any], categories: dict[Any, str], size_hw: tuple[int, int], path: Path
) -> list[Expression]:
    expressions: list[Expression] = []
    by_category: dict[str, list[Rle]] = defaultdict(list)
    for annotation in annotations:
        annotation_id, category = annotation["id"], categories[annotation["category_id"]]
        mask = to_rle(annotation["segmentation"], size_hw, f"annotation {annotation_id} in {path}")
        sentences = annotation.get("expressions") or []
        expressions += [
            Expression(
                f"{annotation_id}.{index}", str(sentence["raw"]), mask, (mask,), category, None,
                # What an export holds was confirmed; it says how.
                sentence.get("provenance") == "proposed" and "outcome" not in sentence,
            )
            for index, sentence in enumerate(sentences)
        ]  # fmt: skip
        if not sentences:
            by_category[category].append(mask)
    for category, masks in by_category.items():
        target = unite(masks, size_hw)
        expressions.append(Expression(category, category, target, tuple(masks), category, None))
    return expressions
