"""Outlines of masks as polygons along pixel edges, and whether they reproduce the mask."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from saymask.errors import ConfigError
from saymask.masks import Mask

Polygon = list[float]
_Point = tuple[int, int]

# Right, down, left, up: an edge has the mask on its right hand.
_TURNS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def trace(mask: Mask) -> tuple[list[Polygon], int]:
    """Trace the closed outlines of a mask (H, W), each ``[x0, y0, x1, y1, ...]`` in pixels.

    Returns:
        The outer outlines, and the number of holes.
    """
    edges = _collect_edges(mask)
    polygons: list[Polygon] = []
    holes = 0
    for start in sorted(edges):
        # Two outlines may begin at one corner; none does at one that earlier outlines used up.
        while start in edges:
            loop = _follow(edges, start)
            if _signed_area(loop) > 0:
                polygons.append([float(value) for point in loop for value in point])
            else:
                holes += 1
    return polygons, holes


def _collect_edges(mask: Mask) -> dict[_Point, list[int]]:
    """Directions of the edges that leave each corner."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    edges: dict[_Point, list[int]] = defaultdict(list)
    # Neighbour outside above, right, below, left: the edge begins at this corner of the pixel.
    sides = (
        (padded[:-2, 1:-1], 0, (0, 0)),
        (padded[1:-1, 2:], 1, (1, 0)),
        (padded[2:, 1:-1], 2, (1, 1)),
        (padded[1:-1, :-2], 3, (0, 1)),
    )
    for neighbour, direction, (dx, dy) in sides:
        for y, x in zip(*np.nonzero(inside & ~neighbour), strict=True):
            edges[int(x) + dx, int(y) + dy].append(direction)
    return edges


def _follow(edges: dict[_Point, list[int]], start: _Point) -> list[_Point]:
    """Take one loop out of the edges; only its corners are kept.

    Where two pixels touch at a corner the loop turns right and stays with its pixel. ``start``,
    the leftmost corner, is never such a place.
    """
    loop: list[_Point] = []
    point, direction = start, -1
    while not loop or point != start:
        leaving = edges[point]
        right = (direction + 1) % 4
        turn = right if loop and right in leaving else leaving[0]
        leaving.remove(turn)
        if not leaving:
            del edges[point]
        if turn != direction:
            loop.append(point)
        direction = turn
        point = (point[0] + _TURNS[turn][0], point[1] + _TURNS[turn][1])
    return loop


def _signed_area(loop: list[_Point]) -> int:
    """Twice the area; positive for outer outlines."""
    x, y = np.array(loop).T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def to_exact_polygons(mask: Mask) -> list[Polygon] | None:
    """Return polygons that pycocotools draws as exactly this mask.

    None means that there are none: the mask has holes, or pycocotools draws them differently.

    Raises:
        ConfigError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask as coco
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Polygons need pycocotools.", "Install it: pip install 'saymask[export]'"
        ) from error
    polygons, holes = trace(mask)
    # Four numbers would be read as a box; a pixel's outline has eight.
    if holes or not polygons:
        return None
    drawn = coco.decode(coco.merge(coco.frPyObjects(polygons, *mask.shape)))
    return polygons if np.array_equal(drawn.astype(bool), mask) else None
