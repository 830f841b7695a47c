"""Where masks lie, how they overlap, and which share of each cell of a grid they cover."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from saymask.masks import Masks
from saymask_worker.images.types import Geometry, to_float32

# Overlaps of pairs are measured at about 256 x 256.
_OVERLAP_PX = 65_536
GRID_SIDE = 28
_LARGEST_BYTE = 255

Bins = tuple[tuple[int, int], ...]
"""First pixel of each bin and the one after its last, along one axis; no bin is empty."""


def compute_geometry(masks: Masks) -> Geometry:
    """Compute centroids, edges, areas and overlaps of masks (N, h, w), none of them empty."""
    count, height, width = masks.shape
    if count == 0:
        none, square = np.zeros(0, dtype=np.float32), np.zeros((0, 0), dtype=np.float32)
        return Geometry(none, none, none, none, none, square, square)
    step = max(1, round((height * width / _OVERLAP_PX) ** 0.5))
    flat = masks[:, ::step, ::step].reshape(count, -1).astype(np.float32)
    shared = flat @ flat.T
    small_areas = np.maximum(flat.sum(axis=1), 1)
    rows = masks.view(np.uint8).sum(axis=2, dtype=np.uint32)
    columns = count_in_columns(masks)
    areas = rows.sum(axis=1)
    filled = rows > 0
    return Geometry(
        center_x=to_float32((columns @ (np.arange(width) + 0.5)) / areas / width),
        center_y=to_float32((rows @ (np.arange(height) + 0.5)) / areas / height),
        top=to_float32(filled.argmax(axis=1) / height),
        bottom=to_float32(1 - filled[:, ::-1].argmax(axis=1) / height),
        area=to_float32(areas / (height * width)),
        containment=to_float32(shared / small_areas[:, None]),
        iou=to_float32(shared / np.maximum(small_areas[:, None] + small_areas[None] - shared, 1)),
        cells=cover_cells(
            masks, divide_by_rounding(height, GRID_SIDE), divide_by_rounding(width, GRID_SIDE)
        ),
    )


def divide_by_rounding(length: int, count: int) -> Bins:
    """Divide pixels into bins whose limits are rounded; where there are too few, bins share one."""
    limits = np.linspace(0, length, count + 1).round().astype(int).tolist()
    starts = ((min(start, length - 1), stop) for start, stop in pairwise(limits))
    return tuple((start, max(stop, start + 1)) for start, stop in starts)


def divide_by_touching(length: int, count: int) -> Bins:
    """Divide pixels into bins of all that they touch, as adaptive average pooling does."""
    return tuple(
        (index * length // count, -(-(index + 1) * length // count)) for index in range(count)
    )


def cover_cells(masks: Masks, rows: Bins, columns: Bins) -> NDArray[np.float32]:
    """Compute the covered share (N, R, C), 0 to 1, of each cell of masks (N, h, w).

    Bytes are added as bytes, which is far quicker than pooling them as floating-point numbers.
    """
    bands = _add_rows(masks, rows)
    sums = [bands[:, :, start:stop].sum(axis=2, dtype=np.uint32) for start, stop in columns]
    heights = np.array([stop - start for start, stop in rows])
    widths = np.array([stop - start for start, stop in columns])
    shares = np.stack(sums, axis=2) / (heights[:, None] * widths)
    return np.asarray(shares, dtype=np.float32)


def count_in_columns(masks: Masks) -> NDArray[np.uint32]:
    """Count the pixels (N, w) inside each column of masks (N, h, w)."""
    height = masks.shape[1]
    bands = _add_rows(masks, divide_by_rounding(height, -(-height // _LARGEST_BYTE)))
    return np.asarray(bands.sum(axis=1), dtype=np.uint32)


def _add_rows(masks: Masks, rows: Bins) -> NDArray[np.unsignedinteger]:
    """Add the rows of each bin: (N, R, w), as bytes where their sums are."""
    pixels = masks.view(np.uint8)
    is_small = all(stop - start <= _LARGEST_BYTE for start, stop in rows)
    dtype = np.uint8 if is_small else np.uint32
    return np.stack(
        [pixels[:, start:stop].sum(axis=1, dtype=dtype) for start, stop in rows], axis=1
    )


def cover_square_grid(masks: Masks, side: int) -> NDArray[np.float32]:
    """Compute the covered share (N, side, side) of each cell, as adaptive average pooling does."""
    height, width = masks.shape[1:]
    rows, columns = divide_by_touching(height, side), divide_by_touching(width, side)
    return cover_cells(masks, rows, columns)
