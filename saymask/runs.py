"""Masks as runs: what can be asked of a mask without decoding its image.

A photo of 120 megapixels has masks of 120 MB each; their runs take some hundred kilobytes. So
everything that compares masks works on runs, and only what draws them decodes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saymask.errors import InvalidMask
from saymask.masks import (
    ALPHA_THRESHOLD,
    Mask,
    pack_brush_rle,
    pack_coco_rle,
    read_brush_alphas,
    read_coco_counts,
)

MAX_RUNS = 1_000_000
"""Most runs of a mask; one drawn on 120 megapixels has some ten thousand to hundred thousand."""

Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RunMask:
    """A mask as the runs of its pixels, column by column from the left.

    Attributes:
        size_hw: of the image, pixels.
        starts, ends: (N,) int64; each run covers the pixels ``x * H + y`` from its start up to,
            not including, its end. Ascending; no two runs touch.
    """

    size_hw: tuple[int, int]
    starts: Positions
    ends: Positions

    def __bool__(self) -> bool:
        """Whether any pixel is inside."""
        return self.starts.size > 0

    @property
    def area(self) -> int:
        """Number of pixels inside."""
        return int((self.ends - self.starts).sum())

    @property
    def box_xywh(self) -> tuple[int, int, int, int]:
        """The tight box, pixels; (0, 0, 0, 0) of an empty mask."""
        if not self:
            return (0, 0, 0, 0)
        height = self.size_hw[0]
        last = self.ends - 1
        left, right = int(self.starts[0] // height), int(last[-1] // height)
        if (self.starts // height != last // height).any():
            # From the bottom of one column to the top of the next.
            return (left, 0, right - left + 1, height)
        top, bottom = int((self.starts % height).min()), int((last % height).max())
        return (left, top, right - left + 1, bottom - top + 1)

    def holds(self, x: int, y: int) -> bool:
        """Whether a pixel of the image is inside."""
        position = x * self.size_hw[0] + y
        run = int(np.searchsorted(self.starts, position, side="right")) - 1
        return run >= 0 and position < int(self.ends[run])

    def equals(self, other: RunMask) -> bool:
        """Whether both have the same size and the same pixels."""
        return (
            self.size_hw == other.size_hw
            and np.array_equal(self.starts, other.starts)
            and np.array_equal(self.ends, other.ends)
        )

    def compute_iou(self, other: RunMask) -> float:
        """Return the intersection over union, 0 to 1; 0.0 when both are empty.

        Raises:
            InvalidMask: the sizes differ.
        """
        shared = self.count_shared(other)
        union = self.area + other.area - shared
        return shared / union if union else 0.0

    def count_shared(self, other: RunMask) -> int:
        """Return the number of pixels inside both.

        Raises:
            InvalidMask: the sizes differ.
        """
        return find_agreed([self, other], 2).area

    def to_coco_rle(self) -> dict[str, Any]:
        """Return compressed COCO RLE, as ``masks.encode_coco_rle`` does."""
        return pack_coco_rle(self.size_hw, self._to_counts())

    def to_brush_rle(self) -> list[int]:
        """Return Label Studio's brush RLE, as ``masks.encode_brush_rle`` does."""
        return pack_brush_rle(self.size_hw, self.transpose()._to_counts())

    def to_mask(self) -> Mask:
        """Decode to a mask (H, W) bool."""
        counts = self._to_counts()
        values = np.arange(counts.size) % 2 == 1
        return np.repeat(values, counts).reshape(self.size_hw, order="F")

    def _to_counts(self) -> Positions:
        """Lengths of alternating runs; the first is the zero run and may be 0."""
        size = self.size_hw[0] * self.size_hw[1]
        edges = np.stack((self.starts, self.ends), axis=1).ravel()
        end = [size] if not self or edges[-1] < size else []
        return np.diff(np.concatenate(([0], edges, end))).astype(np.int64)

    def transpose(self) -> RunMask:
        """The same pixels row by row; of those, column by column.

        A run begins at each pixel whose neighbour before it, in the other order, is outside.
        """
        height, width = self.size_hw
        firsts = _list_pixels(*_subtract(self, height))
        lasts = _list_pixels(*_subtract(self, -height))
        starts, ends = (
            np.sort(pixels % height * width + pixels // height) for pixels in (firsts, lasts)
        )
        return _join((width, height), starts, ends + 1)


def read_coco_runs(coco_rle: dict[str, Any]) -> RunMask:
    """Read compressed or uncompressed COCO RLE.

    Raises:
        InvalidMask: the counts are malformed or do not add up to H * W.
    """
    size_hw, counts = read_coco_counts(coco_rle)
    edges = np.cumsum(counts)
    ends = edges[1::2]
    return _join(size_hw, edges[0::2][: ends.size], ends)


def read_brush_runs(brush_rle: list[int], size_hw: tuple[int, int]) -> RunMask:
    """Read Label Studio's brush RLE; inside is alpha of at least ``ALPHA_THRESHOLD``.

    Raises:
        InvalidMask: the list is not a brush RLE, belongs to another size, or has more than
            ``MAX_RUNS`` runs.
    """
    alphas, counts = read_brush_alphas(brush_rle, size_hw)
    ends = np.cumsum(counts)
    inside = alphas >= ALPHA_THRESHOLD
    rows = _join(size_hw[::-1], (ends - counts)[inside], ends[inside])
    return rows.transpose()


def read_row_runs(strips: Iterable[NDArray[np.bool_]], size_hw: tuple[int, int]) -> RunMask:
    """Read a mask (H, W) that comes in strips (h, W) from the top.

    Raises:
        InvalidMask: it has more than ``MAX_RUNS`` runs.
    """
    found: list[Positions] = []
    offset = edges = 0
    for strip in strips:
        found.append(np.flatnonzero(np.diff(strip.ravel(), prepend=False, append=False)) + offset)
        offset += strip.size
        edges += found[-1].size
        _check_runs(edges // 2)
    starts, ends = np.concatenate(found).reshape(-1, 2).T
    return _join(size_hw[::-1], starts, ends).transpose()


def unite(masks: Sequence[RunMask]) -> RunMask:
    """Return the union of masks, at least one.

    Raises:
        InvalidMask: the sizes differ.
    """
    return find_agreed(masks, 1)


def find_agreed(masks: Sequence[RunMask], least: int) -> RunMask:
    """Return the pixels that lie inside at least ``least`` of the masks.

    Raises:
        InvalidMask: the sizes differ.
    """
    sizes = {mask.size_hw for mask in masks}
    if len(sizes) != 1:
        raise InvalidMask(f"Masks of different sizes (H, W): {sorted(sizes)}.")
    starts = np.concatenate([mask.starts for mask in masks])
    ends = np.concatenate([mask.ends for mask in masks])
    edges, levels = _sweep(
        np.concatenate((starts, ends)), np.repeat([1, -1], [starts.size, ends.size])
    )
    return RunMask(masks[0].size_hw, *_select(edges, levels >= least))


def _subtract(mask: RunMask, shift: int) -> tuple[Positions, Positions]:
    """The runs of a mask without itself, moved by ``shift`` pixels."""
    starts, ends = mask.starts, mask.ends
    positions = np.concatenate((starts, ends, starts + shift, ends + shift))
    edges, levels = _sweep(positions, np.repeat([1, -1, -2, 2], starts.size))
    return _select(edges, levels == 1)


def _sweep(positions: Positions, steps: Positions) -> tuple[Positions, Positions]:
    """Distinct positions, ascending, and the sum of all steps up to each."""
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    is_last = np.append(ordered[1:] != ordered[:-1], True)[: ordered.size]
    return ordered[is_last], np.cumsum(steps[order])[is_last]


def _select(edges: Positions, inside: NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """The runs between edges where ``inside``, which tells what follows each edge."""
    before = np.concatenate(([False], inside[:-1])) if inside.size else inside
    return edges[inside & ~before], edges[before & ~inside]


def _list_pixels(starts: Positions, ends: Positions) -> Positions:
    """Every pixel of the runs.

    Raises:
        InvalidMask: there are more than ``MAX_RUNS``, each of which becomes the end of a run.
    """
    lengths = ends - starts
    total = int(lengths.sum())
    _check_runs(total)
    return np.repeat(ends - np.cumsum(lengths), lengths) + np.arange(total)


def _check_runs(total: int) -> None:
    if total > MAX_RUNS:
        raise InvalidMask(
            f"The mask consists of {total:,} runs of pixels; the limit is {MAX_RUNS:,}.",
            "It is noise or stripes rather than an object: draw it anew.",
        )


def _join(size_hw: tuple[int, int], starts: Positions, ends: Positions) -> RunMask:
    """A mask of ascending runs, some of which may be empty or touch the next."""
    is_run = ends > starts
    starts, ends = starts[is_run], ends[is_run]
    if starts.size == 0:
        return RunMask(size_hw, starts, ends)
    apart = starts[1:] > ends[:-1]
    return RunMask(
        size_hw,
        starts[np.concatenate(([True], apart))],
        ends[np.concatenate((apart, [True]))],
    )
