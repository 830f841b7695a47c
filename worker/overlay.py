"""Drawing candidates on a photo, in the colours Label Studio shows them in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from backend.contract import Candidate
from backend.masks import decode_coco_rle

# The same order and values as the labels of the recommended labelling config.
COLORS = ("#E6194B", "#3CB44B", "#4363D8", "#F58231", "#911EB4")
_OPACITY = 0.45


def draw_overlay(
    pixels: NDArray[np.uint8], candidates: tuple[Candidate, ...], title: str
) -> Image.Image:
    """The photo (H, W, 3) with every candidate's mask, outline, rank and score."""
    canvas = pixels.astype(np.float32)
    # Worst first, so that the best lies on top.
    for candidate in reversed(candidates):
        mask = decode_coco_rle(candidate.mask.as_dict())
        color = np.asarray(_rgb(candidate.rank), dtype=np.float32)
        canvas[mask] = (1 - _OPACITY) * canvas[mask] + _OPACITY * color
        canvas[find_outline(mask)] = color
    image = Image.fromarray(canvas.round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    size_px = max(14, round(max(image.size) / 50))
    font = ImageFont.load_default(size_px)
    for candidate in reversed(candidates):
        x, y, width, _ = candidate.box_xywh
        label = f"{candidate.rank}: {candidate.score:.3f}"
        place = (x + width / 2, y + size_px)
        draw.text(
            place, label, font=font, fill="white", stroke_width=3,
            stroke_fill=_rgb(candidate.rank), anchor="mm",
        )  # fmt: skip
    draw.text((8, 6), title, font=font, fill="white", stroke_width=3, stroke_fill="black")
    return image


def _rgb(rank: int) -> tuple[int, int, int]:
    color = COLORS[(rank - 1) % len(COLORS)]
    return (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16))


def find_outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask with a neighbour outside, two pixels wide."""
    inner = mask.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = (
            padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1]
            & padded[1:-1, :-2] & padded[1:-1, 2:]
        )  # fmt: skip
    return mask & ~inner
