"""CRIS's view of an image: scaled into a square, the rest filled with CLIP's mean colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saymask.masks import Mask
from saymask_worker.encoders.crops import CLIP_MEAN, CLIP_STD, normalise, to_tensor

THRESHOLD = 0.35
INPUT_SIDE_PX = 416


@dataclass(frozen=True)
class Letterbox:
    """The affine map of an image of ``size_hw`` into a square of ``side`` pixels."""

    size_hw: tuple[int, int]
    side: int = INPUT_SIDE_PX

    @property
    def scale(self) -> float:
        """Pixels of the square per pixel of the image."""
        return min(self.side / self.size_hw[0], self.side / self.size_hw[1])

    @property
    def offset_xy(self) -> tuple[float, float]:
        """Where the image's corner lies in the square."""
        height, width = self.size_hw
        return (self.side - width * self.scale) / 2, (self.side - height * self.scale) / 2

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(2, 3): from pixels of the image to pixels of the square."""
        x, y = self.offset_xy
        return np.array([[self.scale, 0, x], [0, self.scale, y]])

    def apply(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return an image (H, W, 3) as CRIS sees it: (3, side, side), normalised."""
        image = normalise(to_tensor(pixels), CLIP_MEAN, CLIP_STD)
        low, high = (normalise(torch.full((3, 1, 1), v), CLIP_MEAN, CLIP_STD) for v in (0.0, 1.0))
        # Cubic interpolation overshoots; the authors' eight-bit images cannot.
        return self._sample(image, "bicubic").clamp(low, high)

    def apply_mask(self, mask: Mask) -> Tensor:
        """Return a mask (H, W) in the square: (side, side) float32 of 0 and 1."""
        return self._sample(torch.from_numpy(mask).float()[None], "nearest")[0]

    def invert(self, probabilities: Tensor) -> Tensor:
        """Bring probabilities (side, side) back to the image: (H, W)."""
        height, width = self.size_hw
        x, y = self.offset_xy
        columns = torch.arange(width) * self.scale + x
        rows = torch.arange(height) * self.scale + y
        return _sample_at(probabilities[None], columns, rows, "bicubic")[0]

    def _sample(self, image: Tensor, mode: str) -> Tensor:
        x, y = self.offset_xy
        columns = (torch.arange(self.side) - x) / self.scale
        rows = (torch.arange(self.side) - y) / self.scale
        return _sample_at(image, columns, rows, mode)


def _sample_at(image: Tensor, columns: Tensor, rows: Tensor, mode: str) -> Tensor:
    """Sample (C, h, w) at pixel coordinates; 0 outside: (C, len(rows), len(columns))."""
    height, width = image.shape[1:]
    x = columns.float() * 2 / max(width - 1, 1) - 1
    y = rows.float() * 2 / max(height - 1, 1) - 1
    grid = torch.stack([x[None].expand(len(rows), -1), y[:, None].expand(-1, len(columns))], dim=-1)
    return F.grid_sample(image[None], grid[None], mode=mode, align_corners=True)[0]


def to_mask(logits: Tensor, letterbox: Letterbox) -> tuple[Mask, float]:
    """Turn logits (h, w) into a mask of the image, (H, W) bool, and the certainty of it.

    The certainty is the mean probability of the mask's pixels, 0 to 1; 0 for an empty mask.
    """
    probabilities = to_probabilities(logits, letterbox).numpy()
    mask: Mask = probabilities > THRESHOLD
    # Cubic interpolation overshoots.
    return mask, float(np.clip(probabilities[mask].mean(), 0, 1)) if mask.any() else 0.0


def to_probabilities(logits: Tensor, letterbox: Letterbox) -> Tensor:
    """Turn logits (h, w) into probabilities on the image: (H, W)."""
    size = (letterbox.side, letterbox.side)
    square = F.interpolate(
        logits.float().sigmoid()[None, None], size, mode="bicubic", align_corners=True
    )
    return letterbox.invert(square[0, 0].cpu())
