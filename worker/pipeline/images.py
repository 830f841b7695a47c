"""Decoding an image: any common format to upright RGB, with limits.

The mask must lie on what the annotator sees, so images are decoded as a browser does it: EXIF
orientation is applied, transparency shows a white page, 16 bits become 8.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from saymask.errors import ImageTooLarge, ImageUnreadable
from worker.resize import fit_hw, resize_pixels, shrink_hw
from worker.stages import DecodedImage

MIN_SIDE_PX = 8
# Pillow hands a multi-picture JPEG (MPO), as phones write it, to the JPEG reader.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_MEGA = 1_000_000
_STRIP_ROWS = 256
# Orientations of EXIF in which rows and columns are exchanged.
_TURNED = (5, 6, 7, 8)
_EXAMPLE_SIDE_PX = 64


def decode_image(data: bytes, max_megapixels: float, longer_px: int | None = None) -> DecodedImage:
    """Decode the bytes of an image.

    Args:
        data: the encoded image.
        max_megapixels: larger ones are refused.
        longer_px: one whose longer side has more pixels is reduced to so many. A JPEG is then
            decoded at a half, a quarter or an eighth of its size, which takes less time and memory.

    Raises:
        ImageUnreadable: empty, of an unknown format, damaged, animated, or below 8 px a side.
        ImageTooLarge: more pixels than allowed; found before any pixel is decoded.
    """
    if not data:
        raise ImageUnreadable("The photo is empty (zero bytes).", "Upload it again.")
    try:
        with warnings.catch_warnings():
            # The limit below replaces Pillow's; a corrupt EXIF block counts as none.
            warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
            Image.MAX_IMAGE_PIXELS = None
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_size(image, max_megapixels)
                _check_still(image)
                size_hw = _read_upright_hw(image)
                if longer_px is not None:
                    # Of a JPEG that is larger; of others it changes nothing.
                    image.draft(None, fit_hw(image.size, longer_px))
                decoded = _to_decoded(image, hashlib.sha256(data).hexdigest())
                return decoded if longer_px is None else _reduce(decoded, size_hw, longer_px)
    except UnidentifiedImageError as error:
        raise ImageUnreadable(
            "The file is not an image that saymask can read.", f"Use one of {', '.join(_FORMATS)}."
        ) from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        struct.error,
    ) as error:
        # Pillow reports damaged files with any of these, SyntaxError for broken PNG chunks.
        raise ImageUnreadable(
            f"The photo is damaged: {error}", "Save it again with an image editor."
        ) from error


def _check_size(image: Image.Image, max_megapixels: float) -> None:
    width, height = image.size
    if width * height > max_megapixels * _MEGA:
        raise ImageTooLarge(
            f"The photo has {width} x {height} pixels ({width * height / _MEGA:.0f} megapixels);"
            f" the limit is {max_megapixels:g}.",
            "Shrink it, or raise SAYMASK_PHOTO_MAX_MEGAPIXELS.",
        )
    if min(width, height) < MIN_SIDE_PX:
        raise ImageUnreadable(
            f"The photo has {width} x {height} pixels; the shorter side needs {MIN_SIDE_PX}.",
            "Use a larger photo.",
        )


def _read_upright_hw(image: Image.Image) -> tuple[int, int]:
    """Height and width of what ``ImageOps.exif_transpose`` will give."""
    width, height = image.size
    is_turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (width, height) if is_turned else (height, width)


def _reduce(image: DecodedImage, size_hw: tuple[int, int], longer_px: int) -> DecodedImage:
    pixels = resize_pixels(image.pixels, shrink_hw(size_hw, longer_px))
    return replace(image, pixels=pixels, original_hw=size_hw)


def _check_still(image: Image.Image) -> None:
    # An MPO holds a second view or a preview of one still photo, a TIFF may hold a thumbnail.
    if image.format not in ("MPO", "TIFF") and getattr(image, "n_frames", 1) > 1:
        raise ImageUnreadable(
            f"The {image.format} is animated ({getattr(image, 'n_frames', 0)} frames).",
            "Save one frame as a still image.",
        )


def _to_decoded(image: Image.Image, sha256: str) -> DecodedImage:
    upright: Any = ImageOps.exif_transpose(image)
    notices: list[str] = []
    if upright.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        upright = _from_deep_grey(upright)
        notices.append("The photo's 16 bits per channel were reduced to 8.")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        page = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(page, rgba)
        notices.append("Transparent parts of the photo count as white.")
    pixels = np.array(upright.convert("RGB"))
    return DecodedImage(pixels=pixels, sha256=sha256, notices=tuple(notices))


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Reduce 16 and 32 bits per pixel to 8, a strip at a time: one pixel takes 8 bytes meanwhile.

    16-bit files have their own scale; others are taken up to their brightest pixel.
    """
    values = np.asarray(image)
    strips = [slice(top, top + _STRIP_ROWS) for top in range(0, len(values), _STRIP_ROWS)]
    top = 65535.0
    if not image.mode.startswith("I;16"):
        top = max(1.0, *(float(_to_finite(values[rows]).max(initial=0.0)) for rows in strips))
    reduced = np.empty(values.shape, dtype=np.uint8)
    for rows in strips:
        reduced[rows] = (_to_finite(values[rows]).clip(0, top) / top * 255).round()
    return Image.fromarray(reduced)


def _to_finite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)


def draw_example() -> bytes:
    """Draw a small image with one red square on grey, encoded; it shows a model how to run."""
    pixels = np.full((_EXAMPLE_SIDE_PX, _EXAMPLE_SIDE_PX, 3), 127, dtype=np.uint8)
    pixels[16:48, 16:48] = (200, 40, 40)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
