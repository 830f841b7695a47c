"""PhraseCut: ``refer_<split>.json`` next to ``image_data_split.json``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from saymask.datasets.files import (
    MISFIT,
    check_size_hw,
    convert_each,
    index_by_id,
    read_json,
    to_key,
    to_rle,
)
from saymask.datasets.images import find_image
from saymask.datasets.model import DatasetImage, Expression
from saymask.errors import DatasetError


def load_phrasecut(
    root: Path, split: str, limit: int | None
) -> tuple[list[DatasetImage], list[str]]:
    """Read one split.

    Returns:
        The images, and why others are left out.

    Raises:
        DatasetError: a file is missing or damaged.
    """
    path = root / f"refer_{split}.json"
    if not path.is_file():
        splits = sorted(p.stem.removeprefix("refer_") for p in root.glob("refer_*.json"))
        raise DatasetError(
            f"{root} has no split {split!r}: {path.name} is missing.",
            f"It has: {', '.join(splits) or 'none'}.",
        )
    tasks = read_json(path)
    sizes_path = root / "image_data_split.json"
    content = read_json(sizes_path)
    by_image: dict[str, list[Any]] = defaultdict(list)
    try:
        entries = index_by_id(content, "image_id", "images", sizes_path)
        for task in tasks:
            by_image[to_key(task["image_id"])].append(task)
    except MISFIT as error:
        raise DatasetError(
            f"{path} and {sizes_path.name} do not fit together: {type(error).__name__} {error}."
        ) from error

    def build(image_id: str) -> DatasetImage:
        entry = entries[image_id]
        size_hw = check_size_hw(
            (int(entry["height"]), int(entry["width"])), f"Image {image_id} in {sizes_path}"
        )
        expressions = tuple(_read_task(task, size_hw, path) for task in by_image[image_id])
        return DatasetImage(find_image(root, f"{image_id}.jpg"), size_hw, expressions, ())

    return convert_each(sorted(by_image, key=lambda i: f"{i}.jpg")[:limit], build, path, [])


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
