"""Decoding an image: any common format to upright 8-bit RGB, the same for all who look at pixels.

The mask must lie on what the annotator sees, so images are decoded as a browser does it: EXIF
orientation is applied, transparency shows a white page, 16 bits become 8. Only greys of 16 bits
that are far too dark for a screen, as microscopes and scanners write them, are brightened.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from saymask.errors import ImageTooLarge, ImageUnreadable

MIN_SIDE_PX = 8
"""Of the shorter side."""
MAX_MEGAPIXELS = 120.0
"""Of a photo that is worked on."""
# Pillow hands a multi-picture JPEG (MPO), as phones write it, to the JPEG reader.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_MEGA = 1_000_000
_STRIP_ROWS = 256
# Orientations of EXIF in which rows and columns are exchanged.
_TURNED = (5, 6, 7, 8)
_DEEP_MAX = 65535
# Greys below a quarter of the range hold 14 bits or fewer.
_DIM_BELOW = 16384
_BLACK_BELOW = 16
# Of all values; hot pixels are brighter and show nothing.
_BRIGHT_SHARE = 0.001


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        size_hw: of the image itself; larger than the pixels' where a JPEG was decoded smaller.
        notices: conversions that changed the image, and pixels that show nothing, for people.
    """

    pixels: NDArray[np.uint8]
    size_hw: tuple[int, int]
    notices: tuple[str, ...]


def decode_picture(data: bytes, max_megapixels: float, longer_px: int | None = None) -> Picture:
    """Decode the bytes of an image.

    Args:
        data: the encoded image.
        max_megapixels: larger ones are refused; ``math.inf`` refuses none.
        longer_px: enough for the longer side. A JPEG of at least twice that is decoded at a half,
            a quarter or an eighth of its size, which takes less time and memory.

    Raises:
        ImageUnreadable: empty, of an unknown format, damaged, animated, or below 8 px a side.
        ImageTooLarge: more pixels than allowed; found before any pixel is decoded.
    """
    if not data:
        raise ImageUnreadable("The photo is empty (zero bytes).", "Upload it again.")
    try:
        with open_picture(io.BytesIO(data), _FORMATS) as image:
            _check_size(image, max_megapixels)
            _check_still(image)
            size_hw = _read_upright_hw(image)
            if longer_px is not None:
                scale = longer_px / max(image.size)
                # Of a JPEG that is larger; of others it changes nothing.
                width, height = (max(1, round(side * scale)) for side in image.size)
                image.draft(None, (width, height))
            return _to_picture(image, size_hw)
    except UnidentifiedImageError as error:
        raise ImageUnreadable(
            "The file is not an image that saymask can read.", f"Use one of {', '.join(_FORMATS)}."
        ) from error


@contextmanager
def open_picture(
    source: Path | BinaryIO, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    """Open an image of any size with Pillow, whose failures become one error.

    Raises:
        UnidentifiedImageError: it is in no known format.
        ImageUnreadable: it is damaged; raised by the block too.
    """
    # Callers have limits of their own.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            # A corrupt EXIF block counts as none.
            warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
            with Image.open(source, formats=formats) as image:
                yield image
    except UnidentifiedImageError:
        raise
    except (
        OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error,
    ) as error:  # fmt: skip
        # Pillow reports damaged files with any of these, SyntaxError for broken PNG chunks.
        raise ImageUnreadable(
            f"The photo is damaged: {error}", "Save it again with an image editor."
        ) from error


def read_stored_hw(image: Image.Image) -> tuple[int, int]:
    """Return height and width of an opened image as stored, before EXIF's orientation."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow gives the size of a TIFF as it is after turning.
        tags = image.tag_v2
        return tags[TiffImagePlugin.IMAGELENGTH], tags[TiffImagePlugin.IMAGEWIDTH]
    return image.height, image.width


def _check_size(image: Image.Image, max_megapixels: float) -> None:
    width, height = image.size
    if width * height > max_megapixels * _MEGA:
        raise ImageTooLarge(
            f"The photo has {width} x {height} pixels ({width * height / _MEGA:.0f} megapixels);"
            f" the limit is {max_megapixels:g}.",
            "Shrink it.",
        )
    if min(width, height) < MIN_SIDE_PX:
        raise ImageUnreadable(
            f"The photo has {width} x {height} pixels; the shorter side needs {MIN_SIDE_PX}.",
            "Use a larger photo.",
        )


def _check_still(image: Image.Image) -> None:
    # An MPO holds a second view or a preview of one still photo, a TIFF may hold a thumbnail.
    if image.format not in ("MPO", "TIFF") and getattr(image, "n_frames", 1) > 1:
        raise ImageUnreadable(
            f"The {image.format} is animated ({getattr(image, 'n_frames', 0)} frames).",
            "Save one frame as a still image.",
        )


def _read_upright_hw(image: Image.Image) -> tuple[int, int]:
    """Height and width of what ``ImageOps.exif_transpose`` will give."""
    height, width = read_stored_hw(image)
    is_turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (width, height) if is_turned else (height, width)


def _to_picture(image: Image.Image, size_hw: tuple[int, int]) -> Picture:
    upright: Any = ImageOps.exif_transpose(image)
    notices: list[str] = []
    if upright.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        upright, is_brightened = _from_deep_grey(upright)
        brightened = ", and its dark values brightened" if is_brightened else ""
        notices.append(f"The photo's 16 bits per channel were reduced to 8{brightened}.")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        page = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(page, rgba)
        notices.append("Transparent parts of the photo count as white.")
    pixels = np.array(upright.convert("RGB"))
    if _is_black(pixels):
        notices.append("The photo is nearly black, so little can be found in it.")
    return Picture(pixels, size_hw, tuple(notices))


def _is_black(pixels: NDArray[np.uint8]) -> bool:
    bright = sum(
        np.count_nonzero(pixels[top : top + _STRIP_ROWS] >= _BLACK_BELOW)
        for top in range(0, len(pixels), _STRIP_ROWS)
    )
    return bright <= _BRIGHT_SHARE * pixels.size


def _from_deep_grey(image: Image.Image) -> tuple[Image.Image, bool]:
    """Reduce 16 and 32 bits per pixel to 8, a strip at a time: one pixel takes 8 bytes meanwhile.

    16-bit files have their own scale unless they use little of it; others are taken up to their
    brightest pixel.

    Returns:
        The image, and whether it uses little of its scale and was brightened.
    """
    values = np.asarray(image)
    strips = [slice(top, top + _STRIP_ROWS) for top in range(0, len(values), _STRIP_ROWS)]
    if image.mode.startswith("I;16"):
        brightest = _find_brightest(values, strips)
        is_dim = brightest < _DIM_BELOW
        top = float(brightest if is_dim else _DEEP_MAX)
    else:
        is_dim = False
        top = max(1.0, *(float(_to_finite(values[rows]).max(initial=0.0)) for rows in strips))
    reduced = np.empty(values.shape, dtype=np.uint8)
    for rows in strips:
        reduced[rows] = (_to_finite(values[rows]).clip(0, top) / top * 255).round()
    return Image.fromarray(reduced), is_dim


def _find_brightest(values: NDArray[Any], strips: list[slice]) -> int:
    """The brightest of 16-bit values (H, W) but for hot pixels; at least 1."""
    counts = np.zeros(_DEEP_MAX + 1, dtype=np.int64)
    for rows in strips:
        counts += np.bincount(values[rows].ravel(), minlength=len(counts))
    brighter = values.size - counts.cumsum()
    return max(1, int(np.argmax(brighter <= _BRIGHT_SHARE * values.size)))


def _to_finite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
