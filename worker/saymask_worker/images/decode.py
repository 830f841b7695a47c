"""Decoding an image for the models, at the size at which they look at it."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saymask.image_decoding import MAX_MEGAPIXELS, decode_picture
from saymask_worker.images.resize import cap_longest_side, resize_pixels
from saymask_worker.images.types import DecodedImage, EncodedImage

_EXAMPLE_SIDE_PX = 64


def decode_image(data: bytes, longer_px: int | None = None) -> DecodedImage:
    """Decode the bytes of an image, reduced to a longer side of ``longer_px`` where it has more.

    Raises:
        ImageUnreadable, ImageTooLarge: see ``decode_picture``.
    """
    picture = decode_picture(data, MAX_MEGAPIXELS, longer_px)
    sha256 = hashlib.sha256(data).hexdigest()
    if longer_px is None:
        return DecodedImage(picture.pixels, sha256, picture.notices)
    pixels = resize_pixels(picture.pixels, cap_longest_side(picture.size_hw, longer_px))
    return DecodedImage(pixels, sha256, picture.notices, original_hw=picture.size_hw)


def read_pixels(encoded: EncodedImage) -> NDArray[np.uint8]:
    """Return an image's pixels in full size, (h, w, 3) uint8 RGB; decoded once. Raises as above."""
    return encoded.decode(decode_image).pixels


def draw_example() -> bytes:
    """Draw a small image with one red square on grey, encoded; it shows a model how to run."""
    pixels = np.full((_EXAMPLE_SIDE_PX, _EXAMPLE_SIDE_PX, 3), 127, dtype=np.uint8)
    pixels[16:48, 16:48] = (200, 40, 40)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
