"""Masks over a photo, numpy only, in the colours Label Studio shows candidates in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.masks import Mask

# The same order and values as the labels of the recommended labelling config.
RANK_COLORS = ("#E6194B", "#3CB44B", "#4363D8", "#F58231", "#911EB4")
REFERENT_COLOR = "#FFE119"
_OPACITY = 0.45


def to_rgb(color: str) -> tuple[int, int, int]:
    """``#RRGGBB`` to numbers."""
    return (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16))


def color_of_rank(rank: int) -> str:
    """Ranks beyond the last colour begin again."""
    return RANK_COLORS[(rank - 1) % len(RANK_COLORS)]


def paint(
    canvas: NDArray[np.float32], mask: Mask, color: str, *, opacity: float = _OPACITY
) -> None:
    """Tint a mask and draw its outline, in place, on a canvas (H, W, 3) of 0 to 255."""
    rgb = np.asarray(to_rgb(color), dtype=np.float32)
    canvas[mask] = (1 - opacity) * canvas[mask] + opacity * rgb
    canvas[find_outline(mask)] = rgb


def find_outline(mask: Mask) -> Mask:
    """Pixels of the mask with a neighbour outside, two pixels wide."""
    inner = mask.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = (
            padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1]
            & padded[1:-1, :-2] & padded[1:-1, 2:]
        )  # fmt: skip
    return mask & ~inner
