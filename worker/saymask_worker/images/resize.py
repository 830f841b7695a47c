"""Resizing images and masks between an image's own size and the proposals' working size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saymask.masks import Mask, compute_box_xywh
from saymask_worker.images.types import DecodedImage

# Rows of a large photo that fit into a processor's cache.
_ROWS_AT_ONCE = 256


def scale_longest_side(size_hw: tuple[int, int], longer_px: int) -> tuple[int, int]:
    """Return height and width, at least 1, scaled so that the longer side has ``longer_px``."""
    height, width = size_hw
    scale = longer_px / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def cap_longest_side(size_hw: tuple[int, int], longer_px: int) -> tuple[int, int]:
    """``scale_longest_side`` of a larger image; a smaller one keeps its size."""
    return scale_longest_side(size_hw, min(longer_px, max(size_hw)))


def to_original_size(mask: Mask, size_hw: tuple[int, int]) -> Mask:
    """Resize a mask (h, w) to (H, W) with smooth edges; exact when the sizes agree.

    A mask of single pixels, which smoothing would remove, keeps hard edges.
    """
    if mask.shape == size_hw:
        return mask
    soft = torch.from_numpy(mask.astype(np.float32))
    smooth = _resize_inside(soft, mask, size_hw, lambda values: values >= 0.5)
    if smooth.any() or not mask.any():
        return smooth
    hard: Mask = F.interpolate(soft[None, None], size_hw, mode="nearest-exact")[0, 0].bool().numpy()
    return hard


def draw_at_original_size(logits: Tensor, size_hw: tuple[int, int]) -> Mask:
    """Resize the logits of a mask (h, w) to (H, W) and return where they are positive."""
    inside = (logits > 0).cpu().numpy()
    return _resize_inside(logits, inside, size_hw, lambda values: values > 0)


def _resize_inside(
    values: Tensor, inside: Mask, size_hw: tuple[int, int], is_inside: Callable[[Tensor], Tensor]
) -> Mask:
    """Resize values (h, w) bilinearly to (H, W) and decide about each.

    Only what the pixels ``inside`` touch is computed: most masks are small, and photos large.
    """
    resized: Mask = np.zeros(size_hw, dtype=np.bool_)
    x, y, width, height = compute_box_xywh(inside)
    rows = _find_samples(inside.shape[0], size_hw[0], y, y + height, values.device)
    columns = _find_samples(inside.shape[1], size_hw[1], x, x + width, values.device)
    if rows is None or columns is None:
        return resized
    wide = columns.interpolate(values.T).T.contiguous()
    for some in rows.split(_ROWS_AT_ONCE):
        resized[some.part, columns.part] = is_inside(some.interpolate(wide)).cpu().numpy()
    return resized


@dataclass(frozen=True)
class _Samples:
    """Where an axis of a resized image is sampled: between two neighbours of the old axis.

    Attributes:
        part: of the new axis, n long.
        lower: (n,) index on the old axis.
        upper: (n,) the next one.
        weight: (n, 1) of ``upper``, 0 to 1.
    """

    part: slice
    lower: Tensor
    upper: Tensor
    weight: Tensor

    def interpolate(self, values: Tensor) -> Tensor:
        """Resize the first axis of (length, m) float32: (n, m)."""
        lower = values.index_select(0, self.lower)
        return torch.lerp(lower, values.index_select(0, self.upper), self.weight)

    def split(self, count: int) -> Iterator[_Samples]:
        """Yield parts of at most ``count`` samples."""
        parts = (torch.split(part, count) for part in (self.lower, self.upper, self.weight))
        start = self.part.start
        for lower, upper, weight in zip(*parts, strict=True):
            yield _Samples(slice(start, start + len(lower)), lower, upper, weight)
            start += len(lower)


def _find_samples(
    length: int, new_length: int, start: int, stop: int, device: torch.device
) -> _Samples | None:
    """Sample an axis where the old pixels from ``start`` to ``stop`` are seen; None if nowhere."""
    position = (length / new_length * (torch.arange(new_length) + 0.5) - 0.5).clamp(min=0)
    lower = position.long()
    upper = (lower + 1).clamp(max=length - 1)
    seen = torch.nonzero((upper >= start) & (lower < stop))[:, 0].tolist()
    if not seen:
        return None
    part = slice(seen[0], seen[-1] + 1)
    samples = lower[part], upper[part], (position - lower)[part, None]
    return _Samples(part, *(values.to(device) for values in samples))


def resize_to_work(image: DecodedImage, work_hw: tuple[int, ...]) -> NDArray[np.uint8]:
    """Resize an image to pixels (h, w, 3) of the proposals' working size, antialiased."""
    return resize_pixels(image.pixels, (work_hw[0], work_hw[1]))


def resize_pixels(pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to (h, w, 3) bilinearly, antialiased; as it is when the sizes agree."""
    if pixels.shape[:2] == size_hw:
        return pixels
    planes = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, size_hw, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())
