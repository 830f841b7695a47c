"""Outlines of masks as polygons, along pixel edges or through pixel centres."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from saymask.errors import ConfigError
from saymask.masks import Mask

Polygon = list[float]
_Point = tuple[int, int]
_Edge = tuple[int, int, int]
"""Corner x and y at which it begins, and its direction."""

# Right, down, left, up: an edge has the mask on its right hand.
_TURNS = ((1, 0), (0, 1), (-1, 0), (0, -1))
_RIGHT, _DOWN, _LEFT, _UP = range(4)
# From the corner at which an edge begins to the pixel on its right hand.
_TO_PIXEL = ((0, 0), (-1, 0), (-1, -1), (0, -1))


def trace(mask: Mask) -> tuple[list[Polygon], int]:
    """Trace the closed outlines of a mask (H, W), each ``[x0, y0, x1, y1, ...]`` in pixels.

    Returns:
        The outer outlines, and the number of holes.
    """
    outer, holes = _find_loops(mask)
    polygons = [
        [float(value) for point in _find_corners(loop) for value in point] for loop in outer
    ]
    return polygons, len(holes)


def trace_centres(mask: Mask) -> list[list[_Point]]:
    """Trace each piece of a mask (H, W) through the centres of its outermost pixels.

    A polygon that is filled by the even-odd rule together with its own line, as OpenCV's
    ``fillPoly`` does, gives its piece exactly: each hole is joined to the outline above it by a
    line that is gone there and back.

    Returns:
        For each piece the points (x, y), at least one, in pixels.
    """
    outer, holes = _find_loops(mask)
    paths = [[[_to_pixel(edge)] for edge in loop] for loop in (*outer, *holes)]
    tops = {
        _to_pixel(edge): (number, place)
        for number, loop in enumerate((*outer, *holes))
        for place, edge in enumerate(loop)
        if edge[2] == _RIGHT
    }
    # The pixel above each hole's highest one. What lies above a hole begins higher, so that a hole
    # is complete with those below before it is joined itself.
    highest = [min((e[1], place) for place, e in enumerate(h) if e[2] == _LEFT) for h in holes]
    for hole in sorted(range(len(holes)), key=lambda n: highest[n], reverse=True):
        path = paths[len(outer) + hole]
        place = highest[hole][1]
        x, y = path[place][0]
        while (x, y) not in tops:
            y -= 1
        number, above = tops[x, y]
        around = [point for points in (*path[place:], *path[:place]) for point in points]
        paths[number][above] += [*around, around[0], (x, y)]
    joined = ([point for points in path for point in points] for path in paths[: len(outer)])
    return [_drop_between(points) for points in joined]


def simplify(polygon: Polygon) -> Polygon:
    """Leave out corners of a closed polygon that lie within 0.5 % of its diagonal, or 1 px.

    At least three corners stay.
    """
    points = np.array(polygon).reshape(-1, 2)
    tolerance = max(1.0, 0.005 * float(np.hypot(*np.ptp(points, axis=0))))
    # Two corners far from each other stay; between them the one farthest from the line, and so on.
    opposite = int(np.hypot(*(points - points[0]).T).argmax())
    closed = np.vstack((points, points[:1]))
    kept = {0, opposite}
    spans = [(0, opposite), (opposite, len(points))]
    while spans:
        first, last = spans.pop()
        between = closed[first + 1 : last]
        if not len(between):
            continue
        dx, dy = closed[last] - closed[first]
        away = between - closed[first]
        distances = np.abs(dx * away[:, 1] - dy * away[:, 0]) / np.hypot(dx, dy)
        middle = first + 1 + int(distances.argmax())
        if distances.max() > tolerance:
            kept.add(middle)
            spans += [(first, middle), (middle, last)]
    if len(kept) < 3:
        return polygon
    return [float(value) for point in points[sorted(kept)] for value in point]


def _find_loops(mask: Mask) -> tuple[list[list[_Edge]], list[list[_Edge]]]:
    """All edges of each outer outline, and of each hole's."""
    edges = _collect_edges(mask)
    outer: list[list[_Edge]] = []
    holes: list[list[_Edge]] = []
    for start in sorted(edges):
        # Two outlines may begin at one corner; none does at one that earlier outlines used up.
        while start in edges:
            loop = _follow(edges, start)
            (outer if _signed_area(_find_corners(loop)) > 0 else holes).append(loop)
    return outer, holes


def _to_pixel(edge: _Edge) -> _Point:
    dx, dy = _TO_PIXEL[edge[2]]
    return edge[0] + dx, edge[1] + dy


def _find_corners(loop: list[_Edge]) -> list[_Point]:
    return [(x, y) for n, (x, y, turn) in enumerate(loop) if turn != loop[n - 1][2]]


def _drop_between(points: list[_Point]) -> list[_Point]:
    """Leave out points at which the line goes straight on."""
    kept: list[_Point] = []
    for point in points:
        if kept and kept[-1] == point:
            continue
        while len(kept) > 1 and _is_straight(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _is_straight(a: _Point, b: _Point, c: _Point) -> bool:
    before, after = (b[0] - a[0], b[1] - a[1]), (c[0] - b[0], c[1] - b[1])
    turns = before[0] * after[1] - before[1] * after[0]
    return turns == 0 and before[0] * after[0] + before[1] * after[1] > 0


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


def _follow(edges: dict[_Point, list[int]], start: _Point) -> list[_Edge]:
    """Take one loop out of the edges.

    Where two pixels touch at a corner the loop turns right and stays with its pixel. ``start``,
    the leftmost corner, is never such a place.
    """
    loop: list[_Edge] = []
    point, direction = start, -1
    while not loop or point != start:
        leaving = edges[point]
        right = (direction + 1) % 4
        turn = right if loop and right in leaving else leaving[0]
        leaving.remove(turn)
        if not leaving:
            del edges[point]
        loop.append((*point, turn))
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
