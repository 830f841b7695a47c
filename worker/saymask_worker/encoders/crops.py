"""The image tower's input: the whole image, token masks and crops.

CLIP's own statistics, square boxes with a margin around the mask's extent, antialiased resizing
and area averaging. ``saymask_worker.ranking.published`` does the same as published.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saymask.masks import Masks, compute_box_xywh
from saymask_worker.images.geometry import cover_square_grid

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalise(
    pixels: Tensor, mean: tuple[float, ...] = CLIP_MEAN, std: tuple[float, ...] = CLIP_STD
) -> Tensor:
    """Normalise (..., 3, H, W) in 0..1 to zero mean and unit variance per channel."""
    shift = torch.tensor(mean, device=pixels.device).view(3, 1, 1)
    scale = torch.tensor(std, device=pixels.device).view(3, 1, 1)
    return (pixels - shift) / scale


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert (H, W, 3) uint8 to (3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255


def compute_square_boxes(masks: Masks, margin: float) -> NDArray[np.int64]:
    """Compute square boxes (N, 4) xyxy around the extents of masks (N, h, w), none empty.

    They are grown by ``margin`` of the longer side on each side, and may reach outside the image.
    """
    boxes = np.zeros((len(masks), 4), dtype=np.int64)
    for index, mask in enumerate(masks):
        x, y, width, height = compute_box_xywh(mask)
        half = max(height, width) * (0.5 + margin)
        cy, cx = y + height / 2, x + width / 2
        boxes[index] = np.round([cx - half, cy - half, cx + half, cy + half])
        boxes[index, 2:] = np.maximum(boxes[index, 2:], boxes[index, :2] + 1)
    return boxes


def crop_proposals(
    pixels: NDArray[np.uint8], masks: Masks, margin: float, *, size_px: int, device: str
) -> Tensor:
    """Crop N masked proposals, normalised.

    Args:
        pixels: (h, w, 3) uint8 at the masks' size.
        masks: (N, h, w) bool.
        margin: see ``compute_square_boxes``.
        size_px: side S of the crops.
        device: where to compute.

    Returns:
        (N, 3, S, S) float32, with the mean colour outside the mask and outside the image.
    """
    image = normalise(to_tensor(pixels).to(device))
    height, width = pixels.shape[:2]
    crops = torch.zeros(len(masks), 3, size_px, size_px, device=device)
    for index, (x0, y0, x1, y1) in enumerate(compute_square_boxes(masks, margin).tolist()):
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        inside = torch.from_numpy(masks[index, top:bottom, left:right]).to(device)
        padding = (left - x0, x1 - right, top - y0, y1 - bottom)
        crops[index] = _resize(F.pad(image[:, top:bottom, left:right] * inside, padding), size_px)
    return crops


def resize_whole(pixels: NDArray[np.uint8], *, size_px: int, device: str) -> Tensor:
    """Squash the whole image (h, w, 3) to (1, 3, S, S), normalised, antialiased."""
    return _resize(normalise(to_tensor(pixels).to(device)), size_px)[None]


def _resize(image: Tensor, size_px: int) -> Tensor:
    """Squash (3, h, w) to (3, S, S)."""
    return F.interpolate(image[None], (size_px, size_px), mode="bicubic", antialias=True)[0]


def resize_token_masks(masks: Masks, grid_side: int, floor: float) -> Tensor:
    """Convert masks (N, h, w) to token weights (N, g, g) in 0..1: the covered share of each cell.

    Each mask is scaled so that its best covered cell weighs at least ``floor``: the point sampling
    of the published code gives small masks no token at all.
    """
    area = torch.from_numpy(cover_square_grid(masks, grid_side))
    best = area.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    return (area * (floor / best).clamp(min=1)).clamp(max=1)
