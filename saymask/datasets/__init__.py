"""Readers of referring-segmentation datasets, used by import, evaluation and training."""

from saymask.datasets.coco import load_coco
from saymask.datasets.load import DATASETS, DatasetName, load_dataset
from saymask.datasets.model import (
    Dataset,
    DatasetImage,
    Expression,
    Instance,
    Rle,
    RowChoice,
)

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
