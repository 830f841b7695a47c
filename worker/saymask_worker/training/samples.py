"""What is trained on: refs with their sentences, split by photo; mirrored with their words."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from saymask.datasets import Dataset
from saymask.datasets.model import DatasetImage, Rle
from saymask.errors import DatasetError, ImageError
from saymask.image_decoding import decode_picture
from saymask.left_out import LeftOut
from saymask.masks import decode_coco_rle
from saymask_worker.training.cris.letterbox import Letterbox

MIN_REFS = 8
MIN_IMAGES = 2
_MIRRORED = {
    "left": "right", "leftmost": "rightmost", "lefthand": "righthand", "lft": "rt",
    "right": "left", "rightmost": "leftmost", "righthand": "lefthand", "rt": "lft",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z]+")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample:
    """One annotated object of a photo and every sentence about it.

    Attributes:
        id: unique in the dataset.
        image: its file.
        target: compressed COCO RLE.
        sentences: at least one.
    """

    id: str
    image: Path
    target: Rle
    sentences: tuple[str, ...]


def read_samples(dataset: Dataset, left_out: LeftOut) -> list[Sample]:
    """Group the sentences of a dataset by the object they refer to; no-target ones are not used.

    Every photo is decoded once: a damaged one would end a run in its middle.
    """
    groups = left_out.convert(dataset.images, _read_image, lambda image: image.path.name)
    return [sample for group in groups for sample in group]


def _read_image(image: DatasetImage) -> list[Sample]:
    """The samples of one photo.

    Raises:
        DatasetError: it cannot be read.
    """
    load_pixels(image.path)
    groups: dict[str, list[str]] = {}
    targets = {}
    for expression in image.expressions:
        if expression.parts:
            key = str(expression.target["counts"])
            targets[key] = expression.target
            groups.setdefault(key, []).append(expression.text)
    return [
        Sample(f"{image.path.name}:{index}", image.path, targets[key], tuple(sentences))
        for index, (key, sentences) in enumerate(groups.items())
    ]


@dataclass(frozen=True)
class Split:
    """Samples by what they are for; no photo is in two parts.

    Attributes:
        train: learned from.
        held_out: choose the best epoch.
        reserved: seen by nothing before a comparison.
    """

    train: list[Sample]
    held_out: list[Sample]
    reserved: list[Sample]


def split_samples(
    samples: Sequence[Sample], held_out_share: float, reserved_share: float, seed: int
) -> Split:
    """Split by photo.

    What a photo is for follows from its name and the seed alone, so that it stays so when others
    are added, and a later model is not measured on what an earlier one was trained on. Every part
    that has a share gets a photo.

    Raises:
        DatasetError: there is too little to train on.
    """
    images = sorted({sample.image for sample in samples})
    needed = MIN_IMAGES + bool(reserved_share)
    if len(samples) < MIN_REFS or len(images) < needed:
        raise DatasetError(
            f"There are {len(samples)} refs on {len(images)} photos; training needs at least"
            f" {MIN_REFS} on {needed}.",
            "Accept more suggestions, export again, and train then.",
        )
    positions = {image: _hash_to_share(f"{seed}:{image.name}") for image in images}
    ordered = sorted(images, key=positions.__getitem__)
    counts = [
        sum(position < share for position in positions.values())
        for share in (reserved_share, reserved_share + held_out_share)
    ]
    reserved_count = min(max(1, counts[0]), len(images) - MIN_IMAGES) if reserved_share else 0
    rest = ordered[reserved_count:]
    held_out_count = min(max(1, counts[1] - reserved_count), len(rest) - 1)
    reserved, held_out = set(ordered[:reserved_count]), set(rest[:held_out_count])
    return Split(
        [s for s in samples if s.image not in reserved | held_out],
        [s for s in samples if s.image in held_out],
        [s for s in samples if s.image in reserved],
    )


def _hash_to_share(text: str) -> float:
    """A number from 0 to 1 that follows from a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def order_epoch(items: Sequence[Item], seed: int, epoch: int) -> list[Item]:
    """Return the items in the order of one epoch, the same whenever it is asked for."""
    ordered = list(items)
    random.Random(f"{seed}:{epoch}").shuffle(ordered)
    return ordered


@dataclass(frozen=True)
class Example:
    """A sample as it is trained on in one epoch."""

    sample: Sample
    sentence: str
    is_mirrored: bool


def draw_example(sample: Sample, flip_share: float, seed: int, epoch: int) -> Example:
    """Choose a sentence, and whether to mirror; the same whenever it is asked for."""
    chance = random.Random(f"{seed}:{epoch}:{sample.id}")
    sentence = chance.choice(sample.sentences)
    is_mirrored = chance.random() < flip_share
    return Example(sample, mirror_words(sentence) if is_mirrored else sentence, is_mirrored)


def mirror_words(sentence: str) -> str:
    """Swap left and right, as whole words."""

    def swap(match: re.Match[str]) -> str:
        word = match[0]
        other = _MIRRORED.get(word.lower(), word)
        return other.capitalize() if word[0].isupper() else other

    return _WORD.sub(swap, sentence)


def load_pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decode a photo upright: (H, W, 3) uint8 RGB.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return decode_picture(path.read_bytes(), math.inf).pixels
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.", "Replace the file.") from error
    except ImageError as error:
        raise DatasetError(f"{path} cannot be read: {error.cause}", "Replace the file.") from error


def load_image(sample: Sample, side_px: int, *, is_mirrored: bool) -> Tensor:
    """Return a sample's photo as the model sees it: (3, S, S)."""
    pixels = load_pixels(sample.image)
    seen = Letterbox((pixels.shape[0], pixels.shape[1]), side_px).apply(pixels)
    return seen.flip(-1).contiguous() if is_mirrored else seen


def load_mask(sample: Sample, side_px: int, *, is_mirrored: bool) -> Tensor:
    """Return a sample's mask in the same square: (S, S) of 0 and 1."""
    mask = decode_coco_rle(sample.target)
    seen = Letterbox((mask.shape[0], mask.shape[1]), side_px).apply_mask(mask)
    return seen.flip(-1).contiguous() if is_mirrored else seen
