"""Names for the colours of pixels: the eleven basic terms of English (Berlin and Kay, 1969)."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from saymask.masks import Masks
from saymask_worker.images.types import Floats, to_float32

COLORS = (
    "black", "gray", "white", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink",
)  # fmt: skip
# Levels per channel of the table that names a pixel.
_LEVELS = 32
_STEP = 256 // _LEVELS


def measure_colors(pixels: NDArray[np.uint8], masks: Masks) -> Floats:
    """Return the share (N, 11) of each mask's pixels that has each of ``COLORS``.

    Args:
        pixels: (h, w, 3) RGB.
        masks: (N, h, w), none of them empty.
    """
    cells = (pixels // _STEP).astype(np.intp)
    named = _name_table()[cells[..., 0], cells[..., 1], cells[..., 2]]
    shares = [np.bincount(named[mask], minlength=len(COLORS)) / mask.sum() for mask in masks]
    return to_float32(np.array(shares).reshape(len(masks), len(COLORS)))


@lru_cache(maxsize=1)
def _name_table() -> NDArray[np.intp]:
    """Index into ``COLORS`` for every cell of the RGB cube."""
    middles = (np.arange(_LEVELS) + 0.5) * _STEP / 256
    names = [
        COLORS.index(_name(*colorsys.rgb_to_hsv(red, green, blue)))
        for red in middles
        for green in middles
        for blue in middles
    ]
    return np.array(names, dtype=np.intp).reshape(_LEVELS, _LEVELS, _LEVELS)


def _name(hue: float, saturation: float, value: float) -> str:
    """Name a colour; all three from 0 to 1. The borders were set by hand."""
    if value < 0.2:
        return "black"
    if saturation < 0.16 or (saturation < 0.28 and value < 0.35):
        return "white" if value > 0.78 else "gray" if value > 0.28 else "black"
    degrees = hue * 360
    if degrees < 15 or degrees >= 345:
        return "pink" if saturation < 0.55 and value > 0.7 else "brown" if value < 0.4 else "red"
    if degrees < 45:
        return "orange" if saturation > 0.6 and value > 0.65 else "brown"
    for limit, name in ((70, "yellow"), (170, "green"), (255, "blue"), (290, "purple")):
        if degrees < limit:
            return "brown" if name == "yellow" and value < 0.5 else name
    return "pink" if value > 0.5 else "purple"
