"""From a proposal at working size to a mask at the photo's own size."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from worker.stages import Masks


def to_original_size(mask: Masks, size_hw: tuple[int, int]) -> Masks:
    """Resize one mask (h, w) bool to (H, W) bool with smooth edges; exact when sizes agree. A mask
    of single pixels, which smoothing would wipe out, keeps hard edges."""
    if mask.shape == size_hw:
        return mask
    soft = torch.from_numpy(np.array(mask)).float()[None, None]
    resized = F.interpolate(soft, size_hw, mode="bilinear", align_corners=False)
    smooth = (resized[0, 0] >= 0.5).numpy()
    if smooth.any() or not mask.any():
        return smooth
    return F.interpolate(soft, size_hw, mode="nearest-exact")[0, 0].bool().numpy()
