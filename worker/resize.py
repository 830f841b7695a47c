"""Between the image's own size and the proposals' working size."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from saymask.masks import Mask
from worker.stages import DecodedImage


def to_original_size(mask: Mask, size_hw: tuple[int, int]) -> Mask:
    """Resize a mask (h, w) to (H, W) with smooth edges; exact when the sizes agree.

    A mask of single pixels, which smoothing would remove, keeps hard edges.
    """
    if mask.shape == size_hw:
        return mask
    soft = torch.from_numpy(np.array(mask)).float()[None, None]
    resized = F.interpolate(soft, size_hw, mode="bilinear", align_corners=False)
    smooth: Mask = (resized[0, 0] >= 0.5).numpy()
    if smooth.any() or not mask.any():
        return smooth
    hard: Mask = F.interpolate(soft, size_hw, mode="nearest-exact")[0, 0].bool().numpy()
    return hard


def resize_to_work(image: DecodedImage, work_hw: tuple[int, ...]) -> NDArray[np.uint8]:
    """Resize an image to pixels (h, w, 3) of the proposals' working size, antialiased."""
    if image.size_hw == tuple(work_hw):
        return image.pixels
    pixels = torch.from_numpy(np.array(image.pixels)).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, tuple(work_hw), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())
