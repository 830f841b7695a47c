"""Reading files of unknown origin: masks, JSON, pickles; any of them may be broken or hostile."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from saymask.datasets.model import Rle
from saymask.errors import ConfigError, DatasetError, InvalidMask
from saymask.masks import MAX_PIXELS, decode_coco_rle, encode_coco_rle

log = logging.getLogger(__name__)

# What reading a file of another layout was seen to raise.
MISFIT = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError)
# Larger than any image of the published datasets; a wrong size must not allocate memory.
_SIDE_MAX_PX = 20_000


class PlainUnpickler(pickle._Unpickler):
    """An unpickler for plain containers, text and numbers.

    Nothing is looked up by name, because a pickle could otherwise run any code. It is the one
    written in Python: the other allocates gigabytes for a few bytes that name a high memo slot.
    """

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every class."""
        raise pickle.UnpicklingError(f"it needs {module}.{name}, which is not a plain container")


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        DatasetError: it cannot be read; names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error


def read_pickle(path: Path) -> Any:
    """Load a pickle of plain containers, of either Python.

    Raises:
        DatasetError: it cannot be read, is damaged, or needs any class; names the file.
    """
    try:
        return PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError,
            AttributeError, MemoryError, OverflowError, RecursionError) as error:  # fmt: skip
        raise DatasetError(
            f"{path} was refused: {error}.",
            "A refs file is a pickle of dictionaries, lists, text and numbers only.",
        ) from error


def read_size_hw(path: Path) -> tuple[int, int]:
    """Return the upright height and width of an image file, from its header alone.

    Raises:
        DatasetError: it is not an image; names the file.
    """
    # Pillow is imported by readers of datasets; the server starts without it.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            is_rotated = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (
        OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError,
    ) as error:  # fmt: skip
        raise DatasetError(f"{path} is not an image: {error}.") from error
    return (width, height) if is_rotated else (height, width)


def check_size_hw(size_hw: tuple[int, int], where: str) -> tuple[int, int]:
    """Return the size if an image can have it.

    Raises:
        DatasetError: not positive, or absurdly large.
    """
    height, width = size_hw
    if not all(1 <= side <= _SIDE_MAX_PX for side in size_hw) or height * width > MAX_PIXELS:
        raise DatasetError(f"{where} has a size of {size_hw[0]} x {size_hw[1]} pixels.")
    return size_hw


def to_rle(segmentation: Any, size_hw: tuple[int, int], where: str) -> Rle:
    """Convert polygons, uncompressed or compressed RLE to compressed RLE; polygons are united.

    Raises:
        DatasetError: the mask is broken or of another size; names its place.
    """
    try:
        if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], dict):
            # REFER's toolkit reads the first element, so RLEs are stored in a list.
            return unite([to_rle(part, size_hw, where) for part in segmentation], size_hw)
        if isinstance(segmentation, list):
            return _unite_polygons(segmentation, size_hw, where)
        if tuple(int(side) for side in segmentation["size"]) != size_hw:
            raise ValueError(f"it is {segmentation['size']}, its image {list(size_hw)}.")
        return encode_coco_rle(decode_coco_rle(segmentation))
    except (InvalidMask, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise DatasetError(f"The mask of {where} is broken: {error}") from error


def _unite_polygons(polygons: list[Any], size_hw: tuple[int, int], where: str) -> Rle:
    """Checked first: pycocotools reads four numbers as a box and trusts any coordinate."""
    reach = 2 * max(size_hw)
    valid = []
    for polygon in polygons:
        values = np.asarray(polygon, dtype=float)
        if values.ndim != 1 or len(values) % 2 or not np.isfinite(values).all():
            raise ValueError("a polygon is a list of pairs of numbers.")
        if (np.abs(values) > reach).any():
            raise ValueError("a polygon lies far outside the image.")
        if len(values) >= 6:
            valid.append(polygon)
    if len(valid) < len(polygons):
        log.warning("%s: %d polygons without area left out", where, len(polygons) - len(valid))
    if not valid:
        raise ValueError("no polygon of three points or more.")
    coco = _open_coco()
    return dict(coco.merge(coco.frPyObjects(valid, *size_hw)))


def unite(rles: Sequence[Rle], size_hw: tuple[int, int]) -> Rle:
    """Return the union of masks of one size; an empty mask when there is none."""
    if not rles:
        return encode_coco_rle(np.zeros(size_hw, dtype=bool))
    return dict(_open_coco().merge(list(rles))) if len(rles) > 1 else rles[0]


def _open_coco() -> Any:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Reading datasets needs pycocotools.", "Install it: pip install 'saymask[export]'"
        ) from error
    return mask
