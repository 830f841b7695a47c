"""Where proposals lie and how they overlap, from their masks alone."""

from __future__ import annotations

import numpy as np

from saymask.masks import Masks
from worker.methods.features import to_float32
from worker.stages import Floats, Geometry

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
    rows, columns = masks.sum(axis=2), masks.sum(axis=1)
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
        cells=_cover_cells(masks),
    )


def _cover_cells(masks: Masks) -> Floats:
    """Covered share (N, G, G) of each cell of a square grid."""
    _, height, width = masks.shape
    rows = np.linspace(0, height, GRID_SIDE + 1).round().astype(int)
    columns = np.linspace(0, width, GRID_SIDE + 1).round().astype(int)
    sums = np.add.reduceat(masks, rows[:-1].clip(max=height - 1), axis=1, dtype=np.float32)
    sums = np.add.reduceat(sums, columns[:-1].clip(max=width - 1), axis=2)
    sizes = np.maximum(np.diff(rows), 1)[:, None] * np.maximum(np.diff(columns), 1)[None]
    return to_float32(sums / sizes)
