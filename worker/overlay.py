"""Drawing candidates on a photo, in the colours Label Studio shows them in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from backend.contract import Candidate
from backend.masks import decode_coco_rle
from backend.painting import color_of_rank, paint, to_rgb


def draw_overlay(
    pixels: NDArray[np.uint8], candidates: tuple[Candidate, ...], title: str
) -> Image.Image:
    """The photo (H, W, 3) with every candidate's mask, outline, rank and score."""
    canvas = pixels.astype(np.float32)
    # Worst first, so that the best lies on top.
    for candidate in reversed(candidates):
        paint(canvas, decode_coco_rle(candidate.mask.as_dict()), color_of_rank(candidate.rank))
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
            stroke_fill=to_rgb(color_of_rank(candidate.rank)), anchor="mm",
        )  # fmt: skip
    draw.text((8, 6), title, font=font, fill="white", stroke_width=3, stroke_fill="black")
    return image
