"""Choosing among masks by arithmetic on the masks alone."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_pairwise_iou(masks: Tensor) -> Tensor:
    """IoU of every pair of masks (N, h, w) bool: (N, N) float32."""
    intersections, areas = compute_pairwise_intersections(masks)
    unions = areas[:, None] + areas[None, :] - intersections
    return intersections / unions.clamp(min=1)


def compute_pairwise_intersections(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Shared pixels of every pair (N, N) and areas (N,), float32.

    Products of 0/1 rows count exactly in float32 up to 2**24 pixels.
    """
    flat = masks.flatten(1).float()
    return flat @ flat.T, flat.sum(dim=1)


def suppress_duplicates(masks: Tensor, quality: Tensor, iou_max: float) -> Tensor:
    """Greedy suppression by mask IoU: indices that stay, best quality first.

    Unlike suppression by box, a person and the shirt that fills most of the person's box
    both stay.
    """
    order = torch.argsort(quality, descending=True, stable=True)
    overlap = (compute_pairwise_iou(masks[order]) > iou_max).cpu()
    kept: list[int] = []
    gone = torch.zeros(len(order), dtype=torch.bool)
    for index in range(len(order)):
        if not gone[index]:
            kept.append(index)
            gone |= overlap[index]
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def compute_stability(logits: Tensor, offset: float = 1.0) -> Tensor:
    """IoU of each mask thresholded at +offset and -offset; logits (N, h, w) to (N,)."""
    inner = (logits > offset).flatten(1).sum(dim=1)
    outer = (logits > -offset).flatten(1).sum(dim=1)
    return inner / outer.clamp(min=1)


def compute_boxes_xyxy(masks: Tensor) -> Tensor:
    """Tight boxes (N, 4) of masks (N, h, w), x1 and y1 exclusive; zeros for an empty mask."""
    height, width = masks.shape[1:]
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    y0 = rows.float().argmax(dim=1)
    x0 = columns.float().argmax(dim=1)
    y1 = height - rows.flip(1).float().argmax(dim=1)
    x1 = width - columns.flip(1).float().argmax(dim=1)
    boxes = torch.stack([x0, y0, x1, y1], dim=1)
    return boxes * rows.any(dim=1)[:, None]
