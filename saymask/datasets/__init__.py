"""Readers of referring-segmentation datasets, used by import, evaluation and training.

``load_dataset`` reads the published ones as they lie on disk, and exports in the same layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from saymask.datasets.coco import load_coco
from saymask.datasets.images import check_images
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

    Args:
        name: one of ``DATASETS``.
        root: folder of the dataset.
        split: None reads all splits (for PhraseCut, whose splits are files: ``train``).
        split_by: RefCOCO's word for who made the splits (``unc``, ``umd``, ``google``); by
            default the first of the dataset's own that exists.
        limit: only this many images, the first by name.

    Raises:
        DatasetError: a file is missing, damaged or hostile, the split is unknown, or a mask does
            not fit its image. Names the file.
    """
    if name not in DATASETS:
        raise DatasetError(f"Unknown dataset {name!r}.", f"Use one of {', '.join(DATASETS)}.")
    if not root.is_dir():
        raise DatasetError(f"There is no folder {root}.", "Give the dataset's folder as --root.")
    if name == "phrasecut":
        images = load_phrasecut(root, split or "train", limit)
    else:
        images = load_refs(name, root, split, split_by, limit)
    images = [image for image in images if image.expressions]
    if not images:
        raise DatasetError(f"The split {split or 'all'!r} in {root} holds no expression.")
    return Dataset(name, split or "all", check_images(images, root))
