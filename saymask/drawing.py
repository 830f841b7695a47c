"""Masks drawn over an image, in the colours in which Label Studio shows candidates."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saymask.contract import Candidate
from saymask.masks import Mask, decode_coco_rle

if TYPE_CHECKING:
    from PIL import Image

# The same order and values as the labels of the recommended labelling config.
RANK_COLORS = ("#E6194B", "#3CB44B", "#4363D8", "#F58231", "#911EB4")
REFERENT_COLOR = "#FFE119"
_OPACITY = 0.45


def to_rgb(color: str) -> tuple[int, int, int]:
    """Convert ``#RRGGBB`` to three numbers, 0 to 255."""
    return (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16))


def color_of_rank(rank: int) -> str:
    """Return the colour of a rank; ranks beyond the last colour begin again."""
    return RANK_COLORS[(rank - 1) % len(RANK_COLORS)]


def draw_mask(
    canvas: NDArray[np.float32], mask: Mask, color: str, *, opacity: float = _OPACITY
) -> None:
    """Tint a mask (H, W) and draw its outline, in place, on a canvas (H, W, 3) of 0 to 255."""
    rgb = np.asarray(to_rgb(color), dtype=np.float32)
    canvas[mask] = (1 - opacity) * canvas[mask] + opacity * rgb
    canvas[find_outline(mask)] = rgb


def find_outline(mask: Mask) -> Mask:
    """Return the pixels of the mask within two pixels of its edge, as a mask."""
    inner = mask.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = (
            padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1]
            & padded[1:-1, :-2] & padded[1:-1, 2:]
        )  # fmt: skip
    return mask & ~inner


def to_image(canvas: NDArray[np.float32]) -> Image.Image:
    """Convert a canvas (H, W, 3) of 0 to 255 to a Pillow image."""
    # Pillow is imported by those who draw; the server starts without it.
    from PIL import Image

    return Image.fromarray(canvas.round().astype(np.uint8))


def to_data_url(canvas: NDArray[np.float32], side_px: int) -> str:
    """Convert a canvas (H, W, 3) of 0 to 255 to a JPEG in a URL; no side is longer than that."""
    image = to_image(canvas)
    image.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def draw_candidates(
    pixels: NDArray[np.uint8], candidates: Sequence[Candidate], title: str
) -> Image.Image:
    """Draw every candidate's mask, outline, rank and score on an image (H, W, 3)."""
    from PIL import ImageDraw, ImageFont

    canvas = pixels.astype(np.float32)
    # Worst first, so that the best lies on top.
    for candidate in reversed(candidates):
        draw_mask(canvas, decode_coco_rle(candidate.mask.as_dict()), color_of_rank(candidate.rank))
    image = to_image(canvas)
    draw = ImageDraw.Draw(image)
    size_px = max(14, round(max(image.size) / 50))
    font = ImageFont.load_default(size_px)
    for candidate in reversed(candidates):
        x, y, width, _ = candidate.box_xywh
        label = f"{candidate.rank}: {candidate.score:.3f}"
        draw.text(
            (x + width / 2, y + size_px), label, font=font, fill="white", stroke_width=3,
            stroke_fill=to_rgb(color_of_rank(candidate.rank)), anchor="mm",
        )  # fmt: skip
    draw.text((8, 6), title, font=font, fill="white", stroke_width=3, stroke_fill="black")
    return image
