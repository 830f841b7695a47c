"""Choosing among masks by arithmetic on the masks alone."""

from __future__ import annotations

import torch
from torch import Tensor

# Masks that neighbouring points on one object yield.
_SAME_SKETCH_IOU = 0.98
# Sketches that share no more pixels than this may belong to different masks.
_TOO_SMALL_TO_TELL = 40
_QUALITY_NOISE = 0.02


def compute_pairwise_iou(masks: Tensor) -> Tensor:
    """IoU of every pair of masks (N, h, w) bool: (N, N) float32."""
    flat = masks.flatten(1).float()
    shared, union = compute_shared_and_union(flat, flat)
    return shared / union.clamp(min=1)


def compute_shared_and_union(some: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in both and in either, (M, N) each, of flat masks (M, P) and (N, P) of 0 and 1.

    Products of such rows count exactly in float32 up to 2**24 pixels.
    """
    shared = some @ others.T
    return shared, some.sum(dim=1)[:, None] + others.sum(dim=1)[None] - shared


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


class Drawn:
    """Sketches of what was drawn so far, to tell what need not be drawn again."""

    def __init__(self) -> None:
        self._count = 0
        self._sketches = torch.zeros(0, 0)
        self._quality = torch.zeros(0)

    def choose_new(self, sketches: Tensor, quality: Tensor) -> Tensor:
        """Which sketches (M, h, w) bool to draw, best first: not those that are the same as one
        at least as good, among them or drawn before."""
        order = torch.argsort(quality, descending=True, stable=True)
        mine, quality = sketches[order].flatten(1).float(), quality[order]
        same = _are_same(mine, mine).tril(-1).any(dim=1)
        if self._count:
            known, known_quality = self._sketches[: self._count], self._quality[: self._count]
            as_good = known_quality[None] >= quality[:, None] - _QUALITY_NOISE
            same |= (_are_same(mine, known) & as_good).any(dim=1)
        return order[~same]

    def add(self, sketches: Tensor, quality: Tensor) -> None:
        """Remember what was drawn and kept."""
        if len(sketches) == 0:
            return
        total = self._count + len(sketches)
        while len(self._sketches) < total:
            # Twice the room: growing by every few would copy everything every time.
            more = max(64, len(self._sketches))
            room = sketches.new_zeros(more, sketches[0].numel(), dtype=torch.float32)
            self._sketches = torch.cat([self._sketches, room]) if self._count else room
            self._quality = torch.cat([self._quality.to(quality), quality.new_zeros(more)])
        self._sketches[self._count : total] = sketches.flatten(1)
        self._quality[self._count : total] = quality
        self._count = total


def _are_same(some: Tensor, others: Tensor) -> Tensor:
    """(M, N) whether sketches, flat, 0 or 1, are of masks that are as good as the same."""
    shared, union = compute_shared_and_union(some, others)
    return (shared > _SAME_SKETCH_IOU * union) & (shared > _TOO_SMALL_TO_TELL)


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
