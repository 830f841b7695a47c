"""COCO instances files: with sentences where saymask wrote them, else by category."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from saymask.datasets.files import (
    MISFIT,
    check_size_hw,
    index_by_id,
    is_empty,
    read_json,
    to_key,
    to_rle,
    unite,
)
from saymask.datasets.images import choose_usable, find_image, require_inside
from saymask.datasets.model import Dataset, DatasetImage, Expression, Rle
from saymask.errors import DatasetError

log = logging.getLogger(__name__)

_IMAGE_FIELDS = ("file_name", "height", "width")


def load_coco(root: Path, *, with_unannotated: bool = False) -> Dataset:
    """Read all ``annotations/instances_*.json`` (or ``instances*.json``) of a folder, or one file.

    An annotation's ``expressions`` are its sentences. Without them its category name is the
    expression; then all objects of one category in an image are one referent of several parts.
    Crowds are left out where single objects of the category are annotated too. Images and
    annotations that cannot be used are left out and named in ``Dataset.left_out``.

    Args:
        root: the folder, or the file.
        with_unannotated: images without annotations too.

    Raises:
        DatasetError: a file is missing or damaged, ids are ambiguous, an image lies outside of the
            folder, or nothing can be used.
    """
    paths, folder = _find_files(root)
    if not paths:
        raise DatasetError(
            f"{root} holds no COCO instances file.",
            "Expected annotations/instances_<split>.json, or name the file itself.",
        )
    files = [_CocoFile(path, folder) for path in paths]
    left_out = [line for file in files for line in file.left_out]
    images = [i for file in files for i in file.images if i.expressions or with_unannotated]
    if not images:
        first = f" The first that was left out: {left_out[0]}" if left_out else ""
        raise DatasetError(f"{root} holds no annotated object.{first}")
    require_inside([image.path for image in images if image.path.is_file()], folder)
    path, count = Counter(image.path for image in images).most_common(1)[0]
    if count > 1 and path.is_file():
        raise DatasetError(f"{count} images are the file {path}.", "Give every image its own file.")
    upright, unusable = choose_usable(images, folder)
    left_out += unusable
    upright.sort(key=lambda image: (image.path.name, image.path))
    return Dataset("coco", "all", tuple(upright), tuple(left_out))


def _find_files(root: Path) -> tuple[list[Path], Path]:
    """The instances files, and the folder below which their images lie."""
    if not root.is_file():
        return sorted(
            [*root.glob("annotations/instances*.json"), *root.glob("instances*.json")]
        ), root
    folder = root.parent
    return [root], folder.parent if folder.name == "annotations" else folder


class _CocoFile:
    """One instances file.

    Attributes:
        images: of the file, in its order.
        left_out: images and annotations that cannot be used, and why.

    Args:
        folder: below which its images lie.

    Raises:
        DatasetError: it is not an instances file, or two of its images have one id.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.images: list[DatasetImage] = []
        self.left_out: list[str] = []
        self._path = path
        self._folder = folder
        content = read_json(path)
        try:
            categories = self._index_table(content["categories"], "categories")
            self._categories = {
                key: _read_text(entry.get("name")) for key, entry in categories.items()
            }
            images = self._index_table(content["images"], "images")
            annotations = self._group_annotations(content["annotations"], images)
        except MISFIT as error:
            raise DatasetError(
                f"{path} is not a COCO instances file: {type(error).__name__} {error}."
            ) from error
        for key, image in images.items():
            missing = [name for name in _IMAGE_FIELDS if image.get(name) is None]
            if missing:
                self.left_out.append(f"Image {key} in {path} has no {' and no '.join(missing)}.")
                continue
            try:
                self.images.append(self._read_image(image, annotations[key]))
            except DatasetError as error:
                self.left_out.append(str(error))
            except MISFIT as error:
                self.left_out.append(f"Image {key} in {path}: {type(error).__name__} {error}.")

    def _index_table(self, entries: list[Any], what: str) -> dict[str, Any]:
        """Entries by the key of their id; those without one are left out."""
        usable = []
        for number, entry in enumerate(entries, start=1):
            if isinstance(entry, dict) and entry.get("id") is not None:
                usable.append(entry)
            else:
                self.left_out.append(f"{what} in {self._path}: number {number} has no id.")
        return index_by_id(usable, "id", what, self._path)

    def _group_annotations(
        self, annotations: list[Any], images: dict[str, Any]
    ) -> dict[str, list[tuple[str, Any]]]:
        """Names for messages and annotations, by the key of their image; no crowds."""
        by_image: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for number, annotation in enumerate(annotations, start=1):
            if not isinstance(annotation, dict):
                self.left_out.append(f"annotation number {number} in {self._path}: not an object.")
                continue
            name = f"annotation {annotation.get('id', f'number {number}')} in {self._path}"
            key = to_key(annotation.get("image_id"))
            if key in images:
                by_image[key].append((name, annotation))
            else:
                self.left_out.append(f"{name}: there is no image {key}.")
        kept = {key: _drop_crowds(named) for key, named in by_image.items()}
        crowds = sum(len(by_image[key]) - len(kept[key]) for key in kept)
        if crowds:
            log.warning("%s: %d crowds left out", self._path, crowds)
        return defaultdict(list, kept)

    def _read_image(self, image: Any, annotations: list[tuple[str, Any]]) -> DatasetImage:
        size_hw = check_size_hw(
            (int(image["height"]), int(image["width"])), f"An image in {self._path}"
        )
        split = self._path.stem.partition("_")[2]
        path = find_image(self._folder, str(image["file_name"]), (split, f"images/{split}", "."))
        expressions: list[Expression] = []
        by_category: dict[str, list[Rle]] = defaultdict(list)
        for number, (name, annotation) in enumerate(annotations):
            try:
                category = self._find_category(annotation, name)
                mask = _read_mask(annotation, size_hw, name)
                sentences = _read_sentences(annotation, number, mask, category, name)
            except DatasetError as error:
                self.left_out.append(str(error))
            except MISFIT as error:
                self.left_out.append(f"{name}: {type(error).__name__} {error}.")
            else:
                expressions += sentences
                if category is not None and not sentences:
                    by_category[category].append(mask)
        for category, masks in by_category.items():
            target = unite(masks, size_hw)
            expressions.append(Expression(category, category, target, tuple(masks), category, None))
        return DatasetImage(path, size_hw, tuple(expressions), ())

    def _find_category(self, annotation: Any, name: str) -> str | None:
        """Its category's name; None only where sentences say what it is."""
        key = to_key(annotation.get("category_id"))
        category = self._categories.get(key)
        if category is None and not annotation.get("expressions"):
            if key in self._categories:
                raise DatasetError(f"{name}: its category {key} has no name.")
            raise DatasetError(f"{name}: there is no category {key}.")
        return category


def _drop_crowds(named: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Leave out crowds of a category of which single objects are annotated in the image.

    CVAT calls every mask drawn with a brush a crowd, and gives it ``attributes``.
    """
    single = {to_key(a.get("category_id")) for _, a in named if not _is_crowd(a)}
    return [
        (name, annotation)
        for name, annotation in named
        if not _is_crowd(annotation)
        or annotation.get("expressions")
        or to_key(annotation.get("category_id")) not in single
    ]


def _is_crowd(annotation: Any) -> bool:
    return to_key(annotation.get("iscrowd")) in ("1", "True") and "attributes" not in annotation


def _read_mask(annotation: Any, size_hw: tuple[int, int], name: str) -> Rle:
    """Its mask.

    Raises:
        DatasetError: it has none, or a broken or an empty one.
    """
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise DatasetError(f"{name}: it has no mask.")
    mask = to_rle(segmentation, size_hw, name)
    if is_empty(mask):
        raise DatasetError(f"{name}: its mask is empty.")
    return mask


def _read_sentences(
    annotation: Any, number: int, mask: Rle, category: str | None, name: str
) -> list[Expression]:
    sentences = annotation.get("expressions") or []
    texts = [text for s in sentences if (text := _read_text(s["raw"]))]
    if len(texts) < len(sentences):
        raise DatasetError(f"{name}: one of its expressions has no text.")
    return [
        Expression(
            f"{number}.{index}", text, mask, (mask,), category, None,
            # What an export holds was confirmed; it says how.
            sentence.get("provenance") == "proposed" and "outcome" not in sentence,
        )
        for index, (sentence, text) in enumerate(zip(sentences, texts, strict=True))
    ]  # fmt: skip


def _read_text(value: Any) -> str | None:
    """A name or a sentence; None for what nobody could read."""
    return value if isinstance(value, str) and value.strip() else None
