"""Where proposals lie and how they overlap, from their masks alone."""

from __future__ import annotations

import numpy as np

from saymask.masks import Masks
from saymask_worker.images.grid import count_in_columns, cover_cells, divide_by_rounding
from saymask_worker.images.types import Geometry
from saymask_worker.images.vectors import to_float32

# Overlaps of pairs are measured at about 256 x 256.
_OVERLAP_PX = 65_536
GRID_SIDE = 28


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
