"""One decision as a picture: photo, candidates in their colours, the final mask in yellow."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import PhotoUnreadable
from backend.masks import Mask, decode_coco_rle
from backend.painting import REFERENT_COLOR, color_of_rank, paint, to_rgb
from backend.records.ledger import RecordView
from backend.records.outcomes import OUTCOME_WORDS, Offer

if TYPE_CHECKING:
    from PIL import Image

_CANDIDATE_OPACITY = 0.12
_BAR_PX = 26


def draw_record(data: bytes, record: RecordView, offer: Offer | None) -> Image.Image:
    """Left the photo with all candidates, right with the final mask.

    Raises:
        PhotoUnreadable: the bytes are no image, or one of another size than the masks.
    """
    # Only this command needs Pillow; the server starts without it.
    from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

    try:
        photo = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise PhotoUnreadable(
            f"The photo of record {record.id} cannot be read: {error}."
        ) from error
    before, after = (np.asarray(photo, dtype=np.float32).copy() for _ in range(2))
    candidates = offer.candidates if offer else ()
    for candidate in reversed(candidates):
        _check_size(candidate.mask, photo, record)
        paint(before, candidate.mask, color_of_rank(candidate.rank), opacity=_CANDIDATE_OPACITY)
    if record.coco_rle is not None:
        mask = decode_coco_rle(record.coco_rle)
        _check_size(mask, photo, record)
        paint(after, mask, REFERENT_COLOR)
    sheet = Image.new("RGB", (2 * photo.width + 4, photo.height + 2 * _BAR_PX), "white")
    for index, canvas in enumerate((before, after)):
        picture = Image.fromarray(canvas.round().astype(np.uint8))
        sheet.paste(picture, (index * (photo.width + 4), 2 * _BAR_PX))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    words = OUTCOME_WORDS[record.outcome]  # type: ignore[index]
    rank = f", rank {record.rank}" if record.rank is not None else ""
    iou = f", IoU {record.iou:.3f}" if record.iou is not None else ""
    draw.text((8, 5), f"{record.expression}   ({words}{rank}{iou})", font=font, fill="black")
    x = 8.0
    for candidate in candidates:
        text = f"{candidate.rank}: {candidate.score:.3f}"
        draw.text((x, 5 + _BAR_PX), text, font=font, fill=to_rgb(color_of_rank(candidate.rank)))
        x += draw.textlength(text, font=font) + 14
    return sheet


def _check_size(mask: Mask, photo: Image.Image, record: RecordView) -> None:
    if mask.shape != (photo.height, photo.width):
        raise PhotoUnreadable(
            f"The photo of record {record.id} has {photo.height} x {photo.width} pixels, its masks"
            f" {mask.shape[0]} x {mask.shape[1]}.",
            "The photo was replaced after it was annotated.",
        )
