"""Photos as readers find them that ignore EXIF: their pixels upright, as the masks are."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Any

from saymask.errors import ImageTooLarge
from saymask.image_files import find_suffix
from saymask.masks import MAX_PIXELS

_ORIENTATION = 0x0112
# 2 to 8 turn or mirror; 1 and anything else leave the pixels as they are.
_TURNS = range(2, 9)
_NOT_IN_PNG = ("CMYK", "YCbCr", "LAB")
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Photo:
    """The file of a photo in an export.

    Attributes:
        data: of the file.
        size_hw: of its pixels; None where Pillow does not know the format.
        is_turned: whether it was written anew, because the original says that it is to be turned.
        is_converted: whether it was written anew as JPEG.
    """

    data: bytes
    size_hw: tuple[int, int] | None
    is_turned: bool = False
    is_converted: bool = False


def read_upright(data: bytes) -> Photo:
    """Return a photo whose pixels are upright without any EXIF.

    A photo that is stored so stays the same to the last bit. One that is to be turned, as phones
    store them, is written anew without EXIF: JPEG as JPEG of quality 95 without chroma subsampling,
    everything else as PNG without loss. Colour profiles stay.

    Raises:
        ImageUnreadable: the file is damaged.
        ImageTooLarge: it has more pixels than a mask may have.
    """
    # Pillow is imported by exports; the server starts without it.
    from PIL import UnidentifiedImageError

    from saymask.image_decoding import open_picture

    try:
        with open_picture(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageTooLarge(
                    f"The photo has {image.width} x {image.height} pixels; a mask has at most"
                    f" {MAX_PIXELS:,}."
                )
            if image.getexif().get(_ORIENTATION) in _TURNS:
                return _turn(image)
            return Photo(data, (image.height, image.width))
    except UnidentifiedImageError:
        return Photo(data, None)


def to_jpeg(photo: Photo) -> Photo:
    """Return an upright photo as JPEG of quality 95; one that is a JPEG stays the same.

    Raises:
        ImageUnreadable: the file is damaged, or of an unknown format.
    """
    if find_suffix(photo.data) == ".jpg":
        return photo
    from PIL import Image

    from saymask.image_decoding import decode_picture

    picture = decode_picture(photo.data, math.inf)
    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return replace(photo, data=buffer.getvalue(), size_hw=picture.size_hw, is_converted=True)


def _turn(image: Any) -> Photo:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    buffer = io.BytesIO()
    # Phones store a second view in a JPEG, which Pillow calls MPO.
    if image.format in ("JPEG", "MPO"):
        upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", icc_profile=profile)
    else:
        if upright.mode in _NOT_IN_PNG:
            upright, profile = upright.convert("RGB"), None
        upright.save(buffer, "PNG", icc_profile=profile)
    return Photo(buffer.getvalue(), (upright.height, upright.width), is_turned=True)
