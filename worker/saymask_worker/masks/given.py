"""Proposals from files: ground truth, FreeSOLO, CutLER, anyone's masks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saymask.errors import ConfigError, GivenMasksError, InvalidMask
from saymask.masks import Mask, decode_coco_rle
from saymask_worker.images.resize import cap_longest_side
from saymask_worker.images.types import (
    UNKNOWN_GRANULARITY,
    UNKNOWN_VOTE_SHARE,
    DecodedImage,
    Proposals,
)

_WORK_SIDE_PX = 1024


class GivenProposer:
    """Reads the masks of an image from ``<folder>/<image>.json``.

    ``<image>`` is the SHA-256 of the image's bytes, or its file name without suffix where that is
    known. A file holds a list of COCO RLE, compressed or not, at the image's size; an element may
    have a ``predicted_iou`` from 0 to 1.

    Args:
        folder: of the files.
        max_count: of more masks in a file, the first stay.

    Raises:
        ConfigError: the folder is missing or holds no file, or one cannot be read.
    """

    name = "given"

    def __init__(self, folder: Path, max_count: int) -> None:
        self._max_count = max_count
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if not files:
            raise ConfigError(
                f"{folder} holds no proposals.",
                "It needs one JSON file of COCO RLE masks per photo, named after the photo.",
            )
        self._folder = folder
        digest = hashlib.sha256()
        for path in files:
            digest.update(os.fsencode(path.name))
            try:
                digest.update(path.read_bytes())
            except OSError as error:
                raise ConfigError(
                    f"{path} cannot be read: {error}.", "Correct or remove it."
                ) from error
        self.fingerprint = digest.hexdigest()[:8]

    def halve_batch(self) -> bool:
        """Return False: nothing is computed in batches."""
        return False

    def propose(self, image: DecodedImage) -> Proposals:
        """Return the image's masks, in the file's order.

        Raises:
            GivenMasksError: there is no file for the image, or it is damaged; names the file.
        """
        names = [name for name in (image.sha256, image.name) if name]
        path = next((p for n in names if (p := self._folder / f"{n}.json").is_file()), None)
        if path is None:
            raise GivenMasksError(
                f"No proposals are given for the photo {' or '.join(names)}.",
                f"Add {names[-1]}.json to {self._folder}; an empty list means no proposal.",
            )
        try:
            masks, quality = self._read(path, image.size_hw)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError,
                InvalidMask) as error:  # fmt: skip
            raise GivenMasksError(f"{path} is not a list of COCO RLE masks: {error}") from error
        return to_proposals(masks, quality, image.size_hw)

    def _read(self, path: Path, size_hw: tuple[int, int]) -> tuple[list[Mask], list[float]]:
        """Masks and predicted IoUs of a file, in its order."""
        rows = json.loads(path.read_bytes())
        wrong = [row["size"] for row in rows if tuple(row["size"]) != size_hw]
        if wrong:
            raise ValueError(f"a mask of {wrong[0]}; the photo is {list(size_hw)}.")
        kept = rows[: self._max_count]
        quality = [float(row.get("predicted_iou", 1.0)) for row in kept]
        if not np.isfinite(quality).all():
            raise ValueError("a predicted_iou must be a finite number.")
        return [decode_coco_rle(row) for row in kept], quality


def to_proposals(
    masks: Sequence[Mask],
    quality: Sequence[float],
    size_hw: tuple[int, int],
    work_hw: tuple[int, int] | None = None,
) -> Proposals:
    """Convert masks (H, W) at image size to proposals; those that vanish are left out.

    Args:
        masks: of one image.
        quality: predicted IoU of each, 0 to 1.
        size_hw: of the image.
        work_hw: of the proposals; None means at most 1024 px.
    """
    if work_hw is None:
        work_hw = cap_longest_side(size_hw, _WORK_SIDE_PX)
    resized = [_resize(mask, work_hw) for mask in masks]
    stacked = np.stack(resized) if resized else np.zeros((0, *work_hw), dtype=bool)
    present = stacked.any(axis=(1, 2))
    ones = np.ones(int(present.sum()), dtype=np.float32)
    return Proposals(
        masks=stacked[present],
        predicted_iou=np.asarray(quality, dtype=np.float32)[present].clip(0, 1),
        stability_score=ones,
        vote_share=UNKNOWN_VOTE_SHARE * ones,
        granularity=UNKNOWN_GRANULARITY * ones,
        size_hw=size_hw,
    )


def _resize(mask: Mask, work_hw: tuple[int, int]) -> NDArray[Any]:
    if mask.shape == work_hw:
        return mask
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    small = image.resize((work_hw[1], work_hw[0]), Image.Resampling.BILINEAR)
    return np.asarray(small) >= 128
