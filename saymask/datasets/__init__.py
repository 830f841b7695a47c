"""Readers of referring-segmentation datasets, used by import, evaluation and training.

``load_dataset`` reads the published ones as they lie on disk, and exports in the same layout.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, get_args

from saymask.datasets.coco import load_coco
from saymask.datasets.images import choose_usable
from saymask.datasets.model import (
    Dataset,
    DatasetImage,
    Expression,
    Instance,
    Rle,
    RowChoice,
)
from saymask.datasets.phrasecut import load_phrasecut
from saymask.datasets.refer import load_refs
from saymask.errors import DatasetError

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetImage",
    "DatasetName",
    "Expression",
    "Instance",
    "Rle",
    "RowChoice",
    "load_coco",
    "load_dataset",
]

DatasetName = Literal["refcoco", "refcoco+", "refcocog", "grefcoco", "phrasecut", "export"]
DATASETS: tuple[str, ...] = get_args(DatasetName)


def load_dataset(
    name: str,
    root: Path,
    split: str | None,
    *,
    split_by: str | None = None,
    limit: int | None = None,
) -> Dataset:
    """Read one split.

    Images that are missing, damaged or not the annotated ones, or whose annotations are broken,
    are left out and named in ``Dataset.left_out``.

    Args:
        name: one of ``DATASETS``.
        root: folder of the dataset.
        split: None reads all splits (for PhraseCut, whose splits are files: ``train``).
        split_by: the author of RefCOCO's splits (``unc``, ``umd``, ``google``); by
            default the first of the dataset's own that exists.
        limit: only this many images, the first by name.

    Raises:
        DatasetError: a file of annotations is missing, damaged or hostile, the split is unknown,
            two images have one name, or no image can be used. Names the file.
    """
    if name not in DATASETS:
        raise DatasetError(f"Unknown dataset {name!r}.", f"Use one of {', '.join(DATASETS)}.")
    if not root.is_dir():
        raise DatasetError(f"There is no folder {root}.", "Give the dataset's folder as --root.")
    if name == "phrasecut":
        images, left_out = load_phrasecut(root, split or "train", limit)
    else:
        images, left_out = load_refs(name, root, split, split_by, limit)
    images = [image for image in images if image.expressions]
    if not images:
        first = f" The first that was left out: {left_out[0]}" if left_out else ""
        raise DatasetError(f"The split {split or 'all'!r} in {root} holds no expression.{first}")
    file_name, count = Counter(image.path.name for image in images).most_common(1)[0]
    if count > 1:
        raise DatasetError(
            f"{count} images are named {file_name}.", "Give every image its own name."
        )
    upright, unusable = choose_usable(images, root)
    return Dataset(name, split or "all", tuple(upright), (*left_out, *unusable))
