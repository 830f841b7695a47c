"""The image tower's input: the whole image, token masks and crops.

CLIP's own statistics, square boxes with a margin around the mask's extent, antialiased resizing
and area averaging. Each of these can be replaced by what the published code does, to measure what
it contributes; ``saymask_worker.ranking.faithful`` does all of it as published, number for number.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saymask.masks import Masks, compute_box_xywh
from saymask_worker.config.pipeline import FeaturesConfig
from saymask_worker.images.geometry import cover_square_grid

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
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


def compute_published_boxes(masks: Masks) -> NDArray[np.int64]:
    """Compute the published boxes (N, 4) xyxy, inside the image.

    Each is the centre of mass plus and minus half the number of occupied columns and rows; a mask
    in two parts may be cropped to almost nothing.
    """
    height, width = masks.shape[1:]
    boxes = np.zeros((len(masks), 4), dtype=np.int64)
    for index, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        half_w, half_h = mask.any(axis=0).sum() / 2, mask.any(axis=1).sum() / 2
        x0, y0 = np.clip([x.mean() - half_w, y.mean() - half_h], 0, [width - 1, height - 1])
        x1, y1 = np.clip([x.mean() + half_w, y.mean() + half_h], 1, [width, height])
        boxes[index] = [int(x0), int(y0), max(int(x1), int(x0) + 1), max(int(y1), int(y0) + 1)]
    return boxes


def crop_proposals(
    pixels: NDArray[np.uint8], masks: Masks, config: FeaturesConfig, *, size_px: int, device: str
) -> Tensor:
    """Crop N masked proposals, normalised.

    Args:
        pixels: (h, w, 3) uint8 at the masks' size.
        masks: (N, h, w) bool.
        config: kind of crop and statistics.
        size_px: side S of the crops.
        device: where to compute.

    Returns:
        (N, 3, S, S) float32. Outside the mask and outside the image: the mean colour, with
        ``imagenet`` statistics the value the published code puts there.
    """
    image = normalise(to_tensor(pixels).to(device), *_statistics(config))
    fill = torch.tensor(IMAGENET_MEAN if config.statistics == "imagenet" else (0.0, 0.0, 0.0))
    fill = fill.to(device).view(3, 1, 1)
    is_square = config.crop == "square"
    boxes = (
        compute_square_boxes(masks, config.crop_margin)
        if is_square
        else compute_published_boxes(masks)
    )
    height, width = pixels.shape[:2]
    crops = torch.zeros(len(masks), 3, size_px, size_px, device=device)
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        padding = (left - x0, x1 - right, top - y0, y1 - bottom)
        region = image[:, top:bottom, left:right]
        inside = torch.from_numpy(masks[index, top:bottom, left:right]).to(device)
        crop = fill + F.pad((region - fill) * inside, padding)
        if is_square:
            crop = F.interpolate(crop[None], (size_px, size_px), mode="bicubic", antialias=True)
        else:
            crop = F.interpolate(crop[None], (size_px, size_px), mode="bilinear")
        crops[index] = crop[0]
    return crops


def resize_whole(
    pixels: NDArray[np.uint8], config: FeaturesConfig, *, size_px: int, device: str
) -> Tensor:
    """Squash the whole image to (1, 3, S, S), normalised, antialiased."""
    image = normalise(to_tensor(pixels).to(device), *_statistics(config))[None]
    return F.interpolate(image, (size_px, size_px), mode="bicubic", antialias=True)


def _statistics(config: FeaturesConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if config.statistics == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    return CLIP_MEAN, CLIP_STD


def resize_token_masks(masks: Masks, grid_side: int, config: FeaturesConfig) -> Tensor:
    """Convert masks (N, h, w) to token weights (N, g, g) in 0..1: the covered share of each cell.

    The published point sampling gives small masks no token at all. Here each mask is scaled so
    that its best covered cell weighs at least ``token_floor``.
    """
    if config.token_mask == "point":
        return sample_token_masks(masks, grid_side)
    area = torch.from_numpy(cover_square_grid(masks, grid_side))
    best = area.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    return (area * (config.token_floor / best).clamp(min=1)).clamp(max=1)


def sample_token_masks(masks: Masks, grid_side: int) -> Tensor:
    """Sample token weights (N, g, g) at points; zero for most small masks, as published."""
    soft = torch.from_numpy(masks).float()[:, None]
    size = (grid_side, grid_side)
    return F.interpolate(soft, size, mode="bilinear", align_corners=False, antialias=False)[:, 0]
