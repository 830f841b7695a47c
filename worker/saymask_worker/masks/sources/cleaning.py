"""Masks of networks without their specks and pinholes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from saymask.masks import Mask
from saymask_worker.config.pipeline import SourcesConfig


def clean_mask(mask: Mask, config: SourcesConfig) -> Mask | None:
    """Return a mask (H, W) without small pieces and holes; None where too little is left.

    What is small is a share of the mask's own area.
    """
    smallest = config.piece_share * np.count_nonzero(mask)
    whole = _drop_small(mask, smallest)
    filled = ~_drop_small(~whole, smallest)
    return filled if np.count_nonzero(filled) >= config.min_area_share * mask.size else None


def _drop_small(mask: Mask, smallest: float) -> Mask:
    """Without connected pieces of fewer pixels."""
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes: NDArray[np.int64] = np.bincount(pieces.ravel())
    is_kept = sizes >= smallest
    is_kept[0] = False
    return np.asarray(is_kept[pieces], dtype=bool)
