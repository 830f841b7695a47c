"""How much an image's point prompts agree on a mask: what tells an object from its parts.

Asked with one point, segment-anything answers at three levels: subpart, part, whole (Kirillov et
al., 2023, section 3). A point on a face yields the face and the person, a point on the jacket the
jacket and the person; nearly every point on the person yields the person. Two cows as one mask, or
half a room, come from few of their points. So there are two numbers per mask, before any text:

* consensus: the share of the points inside a mask that themselves yield it;
* level: the mean level at which they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.proposals.filters import compute_shared_and_union

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
    points_xy: Tensor,
    frame_hw: tuple[int, int],
    vote_iou_min: float,
) -> tuple[Tensor, Tensor]:
    """Compute consensus and level of masks.

    Args:
        masks: (N, h, w) bool, coarse as the votes are.
        votes: of the P prompts.
        points_xy: (P, 2) the prompts, in pixels of a frame that the masks fill.
        frame_hw: size of that frame.
        vote_iou_min: a vote counts for a mask when their IoU is higher.

    Returns:
        consensus (N,) float32 in 0..1, smoothed by half a vote: a mask that holds no point has 0.5;
        level (N,) float32 in 0..2, the middle where no point yields the mask.
    """
    flat, voted = masks.flatten(1).float(), votes.masks.flatten(1).float()
    shared, union = compute_shared_and_union(flat, voted)
    agrees = shared > vote_iou_min * union
    height, width = masks.shape[1:]
    x = (points_xy[:, 0] * width / frame_hw[1]).long().clamp(max=width - 1)
    y = (points_xy[:, 1] * height / frame_hw[0]).long().clamp(max=height - 1)
    inside = masks[:, y, x]
    yields = torch.zeros(inside.shape, dtype=torch.float32, device=masks.device)
    yields.index_add_(1, votes.point, agrees.float())
    agreeing = ((yields > 0) & inside).sum(dim=1)
    consensus = (agreeing + 0.5) / (inside.sum(dim=1) + 1)
    voters = agrees.sum(dim=1)
    level = (agrees.float() @ votes.level.float()) / voters.clamp(min=1)
    return consensus, torch.where(voters > 0, level, _MIDDLE_LEVEL)
