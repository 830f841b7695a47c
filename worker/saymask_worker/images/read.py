"""Images as Python programs have them, as the bytes of a file, which name an image."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saymask.errors import ImageUnreachable, InvalidRequest

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path or the bytes of an image file, which is turned upright as its EXIF says; or pixels as they
are: a Pillow image, or an array (H, W, 3) of uint8, RGB.
"""

# As files these keep every value; other modes are converted to RGB.
_LOSSLESS_MODES = ("L", "RGB", "RGBA", "I;16")


def read_image(image: ImageLike) -> bytes:
    """Return the bytes of an image file; pixels become a PNG of the same values.

    Raises:
        ImageUnreachable: the file cannot be read.
        InvalidRequest: it is not an image, or an array of another shape or type.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ImageUnreachable(f"{image} cannot be read: {error.strerror}.") from error
    if isinstance(image, np.ndarray):
        image = Image.fromarray(_check_array(image))
    if not isinstance(image, Image.Image):
        raise InvalidRequest(
            f"An image cannot be of type {type(image).__name__}.",
            "Give a path, the bytes of a file, a Pillow image or an array (H, W, 3) of uint8.",
        )
    if image.mode in ("F", "I"):
        raise InvalidRequest(
            f"A Pillow image of mode {image.mode} has no known range of values.",
            "Scale it to 0 to 255 and convert it to mode L.",
        )
    if image.mode not in _LOSSLESS_MODES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    # Without EXIF: the pixels are taken as they are.
    image.save(buffer, "PNG", compress_level=1, exif=b"")
    return buffer.getvalue()


def _check_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise InvalidRequest(
            f"An image array must be uint8, got {array.dtype}.",
            "Scale it to 0 to 255: (array * 255).astype(np.uint8) for values from 0 to 1.",
        )
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InvalidRequest(
            f"An image array must have the shape (H, W, 3), RGB, got {array.shape}.",
            "Repeat a grey channel three times, drop alpha with array[..., :3], and move"
            " channels that come first with array.transpose(1, 2, 0).",
        )
    return array
