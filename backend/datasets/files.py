"""Reading files that others made: masks, JSON, pickles; any may be broken or hostile."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from backend.errors import ConfigError, DatasetError, InvalidMask
from backend.masks import decode_coco_rle, encode_coco_rle

log = logging.getLogger(__name__)

Rle = dict[str, Any]
# Larger than any photo of the published sets; a wrong size asks for no memory.
_SIDE_MAX_PX = 20_000


class PlainUnpickler(pickle.Unpickler):
    """Admits containers, text and numbers, and nothing that is looked up by name: a pickle may
    otherwise run any code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no plain container")


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        DatasetError: it cannot be read; names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error


def read_pickle(path: Path) -> Any:
    """Load a pickle of plain containers, of either Python.

    Raises:
        DatasetError: it cannot be read, is damaged, or wants anything else; names the file.
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
    """Height and width of a photo as it is shown, from its header alone.

    Raises:
        DatasetError: it is no image; names the file.
    """
    # Only whoever reads data sets needs Pillow; the server starts without it.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path} is no image: {error}.") from error
    return (width, height) if turned else (height, width)


def check_size_hw(size_hw: tuple[int, int], where: str) -> tuple[int, int]:
    """Sizes a photo can have.

    Raises:
        DatasetError: not positive, or absurdly large.
    """
    if not all(1 <= side <= _SIDE_MAX_PX for side in size_hw):
        raise DatasetError(f"{where} has a size of {size_hw[0]} x {size_hw[1]} pixels.")
    return size_hw


def to_rle(segmentation: Any, size_hw: tuple[int, int], where: str) -> Rle:
    """Polygons, uncompressed or compressed RLE to compressed RLE; several polygons are united.

    Raises:
        DatasetError: the mask is broken or of another size; names where it stands.
    """
    try:
        if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], dict):
            # REFER's toolkit looks into the first element, so a run-length code stands in a list.
            return unite([to_rle(one, size_hw, where) for one in segmentation], size_hw)
        if isinstance(segmentation, list):
            return _unite_polygons(segmentation, size_hw, where)
        if tuple(int(side) for side in segmentation["size"]) != size_hw:
            raise ValueError(f"it is {segmentation['size']}, its photo {list(size_hw)}.")
        return encode_coco_rle(decode_coco_rle(segmentation))
    except (InvalidMask, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise DatasetError(f"The mask of {where} is broken: {error}") from error


def _unite_polygons(polygons: list[Any], size_hw: tuple[int, int], where: str) -> Rle:
    """Checked here: pycocotools takes four numbers for a box and believes any coordinate."""
    reach = 2 * max(size_hw)
    good = []
    for polygon in polygons:
        values = np.asarray(polygon, dtype=float)
        if values.ndim != 1 or len(values) % 2 or not np.isfinite(values).all():
            raise ValueError("a polygon is a list of pairs of numbers.")
        if (np.abs(values) > reach).any():
            raise ValueError("a polygon lies far outside the photo.")
        if len(values) >= 6:
            good.append(polygon)
    if len(good) < len(polygons):
        log.warning("%s: %d polygons without area left out", where, len(polygons) - len(good))
    if not good:
        raise ValueError("no polygon of three points or more.")
    coco = _open_coco()
    return dict(coco.merge(coco.frPyObjects(good, *size_hw)))


def unite(rles: Sequence[Rle], size_hw: tuple[int, int]) -> Rle:
    """The union of masks; an empty mask when there is none."""
    if not rles:
        return encode_coco_rle(np.zeros(size_hw, dtype=bool))
    return dict(_open_coco().merge(list(rles))) if len(rles) > 1 else rles[0]


def _open_coco() -> Any:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Reading data sets needs pycocotools.", "Install it: pip install 'saymask[export]'"
        ) from error
    return mask
