"""Selecting among masks by arithmetic on the masks alone."""

from __future__ import annotations

import numpy as np
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torch import Tensor

from saymask_worker.config.pipeline import ProposalsConfig


def compute_pairwise_iou(masks: Tensor) -> Tensor:
    """Compute the IoU of every pair of masks (N, h, w) bool: (N, N) float32."""
    flat = masks.flatten(1).float()
    shared, union = compute_shared_and_union(flat, flat)
    return shared / union.clamp(min=1)


def compute_shared_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Count pixels in both and in either, (M, N) each, of flat masks (M, P) and (N, P) of 0 and 1.

    Products of such rows count exactly in float32 up to 2**24 pixels.
    """
    shared = first @ second.T
    return shared, first.sum(dim=1)[:, None] + second.sum(dim=1)[None] - shared


def suppress_duplicates(masks: Tensor, quality: Tensor, iou_max: float) -> Tensor:
    """Suppress masks (N, h, w) greedily by mask IoU: indices that stay, best quality first.

    Unlike suppression by box, a person and the shirt that fills most of the person's box
    both stay.
    """
    order = torch.argsort(quality, descending=True, stable=True)
    overlap = (compute_pairwise_iou(masks[order]) > iou_max).cpu().numpy()
    kept: list[int] = []
    suppressed = np.zeros(len(order), dtype=np.bool_)
    for index in range(len(order)):
        if not suppressed[index]:
            kept.append(index)
            suppressed |= overlap[index]
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


class SeenMasks:
    """The coarse masks that were upscaled so far, to skip duplicates from neighbouring points."""

    def __init__(self, config: ProposalsConfig) -> None:
        self._config = config
        self._count = 0
        self._coarse = torch.zeros(0, 0)
        self._quality = torch.zeros(0)

    def select_new(self, coarse: Tensor, quality: Tensor) -> Tensor:
        """Return the indices of coarse masks (M, h, w) bool to upscale, best first.

        A duplicate of one that is at least as good, among them or seen before, is left out.
        """
        order = torch.argsort(quality, descending=True, stable=True)
        rows, quality = coarse[order].flatten(1).float(), quality[order]
        duplicate = self._are_duplicates(rows, rows).tril(-1).any(dim=1)
        if self._count:
            seen, seen_quality = self._coarse[: self._count], self._quality[: self._count]
            tolerance = self._config.coarse_quality_tolerance
            is_as_good = seen_quality[None] >= quality[:, None] - tolerance
            duplicate |= (self._are_duplicates(rows, seen) & is_as_good).any(dim=1)
        return order[~duplicate]

    def add(self, coarse: Tensor, quality: Tensor) -> None:
        """Add masks that were upscaled and kept."""
        if len(coarse) == 0:
            return
        total = self._count + len(coarse)
        if len(self._coarse) < total:
            # Twice the room: growing by a few rows would copy everything every time.
            room = coarse.new_zeros(2 * total, coarse[0].numel(), dtype=torch.float32)
            qualities = quality.new_zeros(2 * total)
            if self._count:
                room[: self._count] = self._coarse[: self._count]
                qualities[: self._count] = self._quality[: self._count]
            self._coarse, self._quality = room, qualities
        self._coarse[self._count : total] = coarse.flatten(1)
        self._quality[self._count : total] = quality
        self._count = total

    def _are_duplicates(self, first: Tensor, second: Tensor) -> Tensor:
        """(M, N) whether flat coarse masks of 0 and 1 belong to nearly equal masks."""
        shared, union = compute_shared_and_union(first, second)
        config = self._config
        is_large = shared > config.coarse_min_shared_px
        return (shared > config.coarse_duplicate_iou * union) & is_large


def compute_stability(logits: Tensor, offset: float) -> Tensor:
    """Compute the IoU of each mask thresholded at +offset and -offset: (N, h, w) to (N,).

    It is 0 for a mask that is empty at both thresholds.
    """
    stability: Tensor = calculate_stability_score(logits, 0.0, offset)
    return stability.nan_to_num(0.0)


def compute_boxes_xyxy(masks: Tensor) -> Tensor:
    """Compute tight boxes (N, 4) of masks (N, h, w), x1 and y1 exclusive; zeros for empty masks."""
    boxes: Tensor = batched_mask_to_box(masks)
    boxes[:, 2:] += masks.flatten(1).any(dim=1)[:, None]
    return boxes
