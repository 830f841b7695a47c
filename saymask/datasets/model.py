"""What every dataset reader returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saymask.contract import normalise_expression

Rle = dict[str, Any]
"""Compressed COCO RLE: ``{"size": [H, W], "counts": str}``."""


@dataclass(frozen=True)
class Expression:
    """One sentence about one image.

    Attributes:
        id: unique within the image, as text.
        text: as the annotator typed it, in composed Unicode.
        target: compressed COCO RLE of the ground truth; an empty mask means no target.
        parts: its objects one by one; empty when there is none.
        category: name of the target's category, or None.
        kind: the entry of ``types.json`` in the root, for a breakdown, or None.
        is_proposed: the text was proposed by saymask, and nobody has confirmed it.
    """

    id: str
    text: str
    target: Rle
    parts: tuple[Rle, ...]
    category: str | None
    kind: str | None
    is_proposed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", normalise_expression(self.text))


@dataclass(frozen=True)
class Instance:
    """An annotated object of the image, whether or not an expression refers to it."""

    mask: Rle
    category: str


@dataclass(frozen=True)
class DatasetImage:
    """An image file, the expressions about it, and its annotated objects.

    Attributes:
        size_hw: of the masks and of the upright image, pixels.
    """

    path: Path
    size_hw: tuple[int, int]
    expressions: tuple[Expression, ...]
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset, images in the order of their file names.

    Attributes:
        left_out: what could not be used of images and annotations, and why.
    """

    name: str
    split: str
    images: tuple[DatasetImage, ...]
    left_out: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of expressions."""
        return sum(len(image.expressions) for image in self.images)


@dataclass(frozen=True)
class RowChoice:
    """Which rows of a batch.

    Attributes:
        sample: at most this many, chosen at random; None for all.
        doubtful: only rows of less confidence than this; None for all.
        seed: of the sample; the same gives the same rows of the same batch.
    """

    sample: int | None = None
    doubtful: float | None = None
    seed: int = 0
