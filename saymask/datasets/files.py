"""Reading files of unknown origin: masks, JSON, pickles; any of them may be broken or hostile."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from saymask.datasets.model import DatasetImage, Rle
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
    """Parse a JSON file, in UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        DatasetError: it cannot be read; names the file.
    """
    try:
        return json.loads(path.read_bytes())
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


def to_key(value: Any) -> str:
    """Return an id as text: tools write 7 in one table, "7" or 7.0 in another."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def index_by_id(items: Sequence[Any], field: str, what: str, path: Path) -> dict[str, Any]:
    """Return the entries of a table by ``to_key`` of a field.

    Raises:
        DatasetError: two different entries have one id; names it.
    """
    entries: dict[str, Any] = {}
    for item in items:
        key = to_key(item[field])
        if entries.setdefault(key, item) != item:
            raise DatasetError(f"Two {what} in {path} have the id {key}.", "Give each its own id.")
    return entries


def convert_each(
    image_ids: Iterable[str],
    build: Callable[[str], DatasetImage],
    path: Path,
    left_out: Sequence[str],
) -> tuple[list[DatasetImage], list[str]]:
    """Build every image, and name those that cannot be built after those left out before."""
    images, reasons = [], list(left_out)
    for image_id in image_ids:
        try:
            images.append(build(image_id))
        except DatasetError as error:
            reasons.append(f"Image {image_id} of {path}: {error}")
        except MISFIT as error:
            reasons.append(f"Image {image_id} of {path}: {type(error).__name__} {error}.")
    return images, reasons


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

    A single polygon may lack its list, and its points may be pairs.

    Raises:
        DatasetError: the mask is broken or of another size; names its place.
    """
    try:
        if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], dict):
            # REFER's toolkit reads the first element, so RLEs are stored in a list.
            return unite([to_rle(part, size_hw, where) for part in segmentation], size_hw)
        if isinstance(segmentation, list):
            return _unite_polygons(_list_polygons(segmentation), size_hw, where)
        if tuple(int(side) for side in segmentation["size"]) != size_hw:
            raise ValueError(f"it is {segmentation['size']}, its image {list(size_hw)}.")
        return encode_coco_rle(decode_coco_rle(segmentation))
    except (InvalidMask, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise DatasetError(f"The mask of {where} is broken: {error}") from error


def _list_polygons(segmentation: list[Any]) -> list[Any]:
    """Polygons; ``[x, y, ...]`` and ``[[x, y], ...]`` are one."""
    is_flat = all(isinstance(value, int | float) for value in segmentation)
    is_pairs = len(segmentation) > 2 and all(np.shape(value) == (2,) for value in segmentation)
    return [segmentation] if segmentation and (is_flat or is_pairs) else segmentation


def _unite_polygons(polygons: list[Any], size_hw: tuple[int, int], where: str) -> Rle:
    """Checked first: pycocotools reads four numbers as a box and trusts any coordinate."""
    reach = 2 * max(size_hw)
    valid = []
    for polygon in polygons:
        values = np.asarray(polygon, dtype=float)
        if values.ndim == 2 and values.shape[1] == 2:
            values = values.ravel()
        if values.ndim != 1 or len(values) % 2 or not np.isfinite(values).all():
            raise ValueError("a polygon is a list of pairs of numbers.")
        if (np.abs(values) > reach).any():
            raise ValueError("a polygon lies far outside the image.")
        if len(values) >= 6:
            valid.append(values.tolist())
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


def is_empty(rle: Rle) -> bool:
    """Return whether a mask has no pixel."""
    return int(_open_coco().area(rle)) == 0


def _open_coco() -> Any:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Reading datasets needs pycocotools.", "Install it: pip install 'saymask[export]'"
        ) from error
    return mask
