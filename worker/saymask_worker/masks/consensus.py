"""How much an image's point prompts agree on a mask: what tells an object from its parts.

Asked with one point, segment-anything answers at three levels: subpart, part, whole (Kirillov et
al., 2023, section 3). A point on a face yields the face and the person, a point on the jacket the
jacket and the person; nearly every point on the person yields the person. Two cows as one mask, or
half a room, come from few of their points. So there are two numbers per mask, before any text:

* consensus: the share of the points inside a mask that themselves yield it;
* level: the mean level at which points do.

Where only some points of the grid are prompts (``point_prompts``), the others count by what their
representatives yield, for the consensus if these lie inside the mask too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saymask_worker.masks.filters import compute_shared_and_union
from saymask_worker.masks.point_prompts import PointPrompts

_MIDDLE_LEVEL = 1.0


@dataclass(frozen=True)
class Votes:
    """The masks of point prompts.

    Attributes:
        masks: (R, h, w) bool, coarse: votes need no more.
        point: (R,) index of the prompt.
        level: (R,) 0 to 2, which of its three masks.
    """

    masks: Tensor
    point: Tensor
    level: Tensor

    @staticmethod
    def join(parts: list[Votes]) -> Votes:
        """Concatenate votes."""
        return Votes(
            torch.cat([part.masks for part in parts]),
            torch.cat([part.point for part in parts]),
            torch.cat([part.level for part in parts]),
        )


def count_votes(
    masks: Tensor,
    votes: Votes,
    points: PointPrompts,
    frame_hw: tuple[int, int],
    vote_iou_min: float,
) -> tuple[Tensor, Tensor]:
    """Compute consensus and level of masks.

    Args:
        masks: (N, h, w) bool, coarse as the votes are.
        votes: of the prompts.
        points: the grid and its prompts, in pixels of a frame that the masks fill.
        frame_hw: size of that frame.
        vote_iou_min: a vote counts for a mask when their IoU is higher.

    Returns:
        consensus (N,) float32 in 0..1, smoothed by half a vote: a mask that holds no point with its
        representative has 0.5;
        level (N,) float32 in 0..2, the middle where no point yields the mask.
    """
    flat, voted = masks.flatten(1).float(), votes.masks.flatten(1).float()
    shared, union = compute_shared_and_union(flat, voted)
    agrees = shared > vote_iou_min * union
    height, width = masks.shape[1:]
    x = (points.grid_xy[:, 0] * width / frame_hw[1]).long().clamp(max=width - 1)
    y = (points.grid_xy[:, 1] * height / frame_hw[0]).long().clamp(max=height - 1)
    inside = masks[:, y, x]
    shape = (len(masks), len(points.prompted))
    yields = torch.zeros(shape, dtype=torch.float32, device=masks.device)
    yields.index_add_(1, votes.point, agrees.float())
    # A prompt outside a mask hardly ever yields it: it does not represent the points inside.
    counts = inside & inside[:, points.prompted][:, points.representative]
    agreeing = ((yields > 0)[:, points.representative] & counts).sum(dim=1)
    consensus = (agreeing + 0.5) / (counts.sum(dim=1) + 1)
    represented = torch.bincount(points.representative, minlength=len(points.prompted)).float()
    weights = agrees * represented[votes.point]
    voters = weights.sum(dim=1)
    level = (weights @ votes.level.float()) / voters.clamp(min=1)
    return consensus, torch.where(voters > 0, level, _MIDDLE_LEVEL)
