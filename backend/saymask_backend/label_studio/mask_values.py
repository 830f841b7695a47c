"""Masks in a region's value: as RLE (BrushLabels) or as a picture (BitmaskLabels).

A bitmask is a PNG in a ``data:`` address: black pixels on a transparent background, of the photo's
size. What the editor's brush and eraser leave half transparent counts from ``ALPHA_THRESHOLD`` on,
as it does in RLE.
"""

from __future__ import annotations

import binascii
import io
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from saymask.errors import ImageUnreadable, InvalidMask
from saymask.masks import ALPHA_THRESHOLD
from saymask.runs import RunMask, read_brush_runs, read_row_runs
from saymask_backend.label_studio.schema import BrushValue, MaskValue

if TYPE_CHECKING:
    from PIL import Image

MaskTag = Literal["BrushLabels", "BitmaskLabels"]
MASK_TAGS: tuple[MaskTag, ...] = ("BrushLabels", "BitmaskLabels")
"""Tags of a labelling config that hold masks."""

_PNG_ADDRESS = "data:image/png;base64,"
# Enough to see what kind of address it is; the rest may hold secrets.
_BEGIN = re.compile(r"(data:)?[a-z/]{0,20}")
# Pillow holds the whole picture, up to four bytes a pixel; no photo is larger.
_MAX_PNG_PIXELS = 120_000_000
_STRIP_ROWS = 256
_CURE = "A bitmask is a PNG of the photo's size, black on transparent, as Label Studio writes it."


def build_mask(tag: MaskTag, mask: RunMask, label: str) -> dict[str, Any]:
    """Build type and value of a region that shows a mask."""
    kind = tag.lower()
    if tag == "BrushLabels":
        pixels: dict[str, Any] = {"format": "rle", "rle": mask.to_brush_rle()}
    else:
        pixels = {"imageDataURL": _encode_png(mask)}
    return {"type": kind, "value": {**pixels, kind: [label]}}


def read_mask(value: MaskValue, size_hw: tuple[int, int]) -> RunMask:
    """Read the mask of a region of an image of this size, pixels.

    Raises:
        InvalidMask: it cannot be decoded, belongs to another size, or has too many runs.
    """
    if isinstance(value, BrushValue):
        return read_brush_runs(value.rle, size_hw)
    return read_row_runs(_read_strips(_decode_address(value.image), size_hw), size_hw)


def _encode_png(mask: RunMask) -> str:
    from PIL import Image

    # Row by row, as pictures are.
    inside = mask.transpose().to_mask().T
    picture = Image.frombuffer("P", (inside.shape[1], inside.shape[0]), inside.tobytes())
    # Two blacks, one of them transparent: one bit a pixel, and every program reads it.
    picture.putpalette([0] * 6)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", bits=1, transparency=b"\x00\xff")
    return _PNG_ADDRESS + b64encode(buffer.getvalue()).decode("ascii")


def _decode_address(address: str) -> bytes:
    if not address.startswith(_PNG_ADDRESS):
        begin = _BEGIN.match(address)
        raise InvalidMask(
            f"The mask is not a PNG in a data address ({_PNG_ADDRESS}...) but begins with"
            f" {begin[0] if begin else ''!r}.",
            _CURE,
        )
    try:
        return b64decode(address[len(_PNG_ADDRESS) :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidMask(f"The mask's data address is not base64: {error}.", _CURE) from error


def _read_strips(data: bytes, size_hw: tuple[int, int]) -> Iterator[NDArray[np.bool_]]:
    """Strips (h, W) of a PNG's mask, from the top; its size is checked before it is decoded."""
    from PIL import UnidentifiedImageError

    from saymask.image_decoding import open_picture

    try:
        with open_picture(io.BytesIO(data), ("PNG",)) as image:
            _check_picture(image, size_hw)
            for top in range(0, image.height, _STRIP_ROWS):
                bottom = min(top + _STRIP_ROWS, image.height)
                strip = image.crop((0, top, image.width, bottom)).convert("RGBA")
                yield np.asarray(strip.getchannel("A")) >= ALPHA_THRESHOLD
    except UnidentifiedImageError as error:
        raise InvalidMask("The mask is not a PNG.", _CURE) from error
    except ImageUnreadable as error:
        raise InvalidMask(f"The mask's PNG is damaged: {error.__cause__}.", _CURE) from error


def _check_picture(image: Image.Image, size_hw: tuple[int, int]) -> None:
    if (image.height, image.width) != size_hw:
        raise InvalidMask(
            f"The mask's PNG has {image.height} x {image.width} pixels (height x width), its"
            f" region claims {size_hw[0]} x {size_hw[1]}.",
            "original_width and original_height do not belong to this mask.",
        )
    if image.height * image.width > _MAX_PNG_PIXELS:
        raise InvalidMask(
            f"The mask's PNG has {image.height} x {image.width} pixels; the limit is"
            f" {_MAX_PNG_PIXELS:,}.",
            "Use BrushLabels for such photos.",
        )
    if not image.has_transparency_data:
        raise InvalidMask(
            "The mask's PNG has no transparent background: Label Studio shows it as the whole"
            " photo.",
            _CURE,
        )
