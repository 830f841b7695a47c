"""One decision as a picture: image, candidates in their colours, the final mask in yellow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saymask.drawing import REFERENT_COLOR, color_of_rank, draw_mask, to_image, to_rgb
from saymask.errors import ImageError, ImageUnreadable
from saymask.masks import Mask, decode_coco_rle
from saymask_backend.records.decisions import OUTCOME_LABELS
from saymask_backend.records.types import Offer, OfferedCandidate, RecordView

if TYPE_CHECKING:
    from PIL import Image

_CANDIDATE_OPACITY = 0.12
_BAR_PX = 26
_GAP_PX = 4


def draw_decision(data: bytes, record: RecordView, offer: Offer | None) -> Image.Image:
    """Draw the image with all offered candidates on the left, with the final mask on the right.

    Raises:
        ImageUnreadable: the bytes are not an image, or one of another size than the masks.
    """
    pixels = _decode(data, record)
    before, after = pixels.copy(), pixels.copy()
    candidates = offer.candidates if offer else ()
    for candidate in reversed(candidates):
        mask = decode_coco_rle(candidate.coco_rle)
        _check_size(mask, pixels, record)
        draw_mask(before, mask, color_of_rank(candidate.rank), opacity=_CANDIDATE_OPACITY)
    if record.coco_rle is not None:
        mask = decode_coco_rle(record.coco_rle)
        _check_size(mask, pixels, record)
        draw_mask(after, mask, REFERENT_COLOR)
    return _compose(before, after, record, candidates)


def _decode(data: bytes, record: RecordView) -> NDArray[np.float32]:
    # It needs Pillow, without which the server starts.
    from saymask.image_decoding import decode_picture

    try:
        pixels = decode_picture(data, math.inf).pixels
    except ImageError as error:
        raise ImageUnreadable(
            f"The photo of record {record.id} cannot be read: {error.cause}", error.cure
        ) from error
    return pixels.astype(np.float32)


def _compose(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    record: RecordView,
    candidates: Sequence[OfferedCandidate],
) -> Image.Image:
    """Both pictures side by side, below the expression, the outcome and the scores."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = before.shape[:2]
    sheet = Image.new("RGB", (2 * width + _GAP_PX, height + 2 * _BAR_PX), "white")
    for index, canvas in enumerate((before, after)):
        sheet.paste(to_image(canvas), (index * (width + _GAP_PX), 2 * _BAR_PX))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    draw.text((8, 5), _describe(record), font=font, fill="black")
    x = 8.0
    for candidate in candidates:
        text = f"{candidate.rank}: {candidate.score:.3f}"
        draw.text((x, 5 + _BAR_PX), text, font=font, fill=to_rgb(color_of_rank(candidate.rank)))
        x += draw.textlength(text, font=font) + 14
    return sheet


def _describe(record: RecordView) -> str:
    label = OUTCOME_LABELS[record.outcome]
    rank = f", rank {record.rank}" if record.rank is not None else ""
    iou = f", IoU {record.iou:.3f}" if record.iou is not None else ""
    return f"{record.expression}   ({label}{rank}{iou})"


def _check_size(mask: Mask, pixels: NDArray[np.float32], record: RecordView) -> None:
    height, width = pixels.shape[:2]
    if mask.shape != (height, width):
        raise ImageUnreadable(
            f"The photo of record {record.id} has {height} x {width} pixels, its masks"
            f" {mask.shape[0]} x {mask.shape[1]}.",
            "The photo was replaced after it was annotated.",
        )
