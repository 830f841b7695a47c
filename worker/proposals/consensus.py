"""How much a photo's points agree on a mask: what tells an object from its parts and from heaps.

Asked with one point, segment-anything answers at three levels: subpart, part, whole (Kirillov et
al., 2023, section 3). A point on a face yields the face and the person, a point on the jacket the
jacket and the person; nearly every point on the person yields the person. A heap of two cows or
half a room is found from few of its points. So two numbers per mask, before any text:

* consensus: the share of the points inside a mask that themselves yield it;
* level: the mean level at which they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.proposals.filters import compute_shared_and_union

SAME_MASK_IOU = 0.8
# Every answer above this quality has a vote, whether or not it becomes a proposal.
VOTER_PREDICTED_IOU = 0.5
_MIDDLE_LEVEL = 1.0


@dataclass(frozen=True)
class Votes:
    """Answers to point prompts.

    Attributes:
        masks: (R, h, w) bool, sketches: votes need no more.
        point: (R,) which prompt; ``level``: (R,) 0 to 2, which of its three answers.
    """

    masks: Tensor
    point: Tensor
    level: Tensor

    @staticmethod
    def join(parts: list[Votes]) -> Votes:
        return Votes(
            torch.cat([part.masks for part in parts]),
            torch.cat([part.point for part in parts]),
            torch.cat([part.level for part in parts]),
        )


def count_votes(
    masks: Tensor, votes: Votes, points_xy: Tensor, frame_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Consensus and level of masks.

    Args:
        masks: (N, h, w) bool, sketches as the votes are.
        points_xy: (P, 2) the prompts, in pixels of a frame of ``frame_hw`` that the masks fill.

    Returns:
        consensus (N,) float32 in 0..1, with half a vote of doubt: a mask that holds no point has
        0.5; level (N,) float32 in 0..2, the middle where no point yields the mask.
    """
    flat, voted = masks.flatten(1).float(), votes.masks.flatten(1).float()
    shared, union = compute_shared_and_union(flat, voted)
    agrees = shared > SAME_MASK_IOU * union
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
