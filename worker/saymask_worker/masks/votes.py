"""How much an image's point prompts agree on a mask: what tells an object from its parts.

Asked with one point, segment-anything answers at three levels: subpart, part, whole (Kirillov et
al., 2023, section 3). A point on a face yields the face and the person, a point on the jacket the
jacket and the person; nearly every point on the person yields the person. Two cows as one mask, or
half a room, come from few of their points. So there are two numbers per mask, before any text:

* vote share: the share of the points inside a mask that themselves yield it;
* granularity: the mean level at which points do.

Where only some points of the grid are prompts (``point_prompts``), the others count by what their
representatives yield, for the vote share if these lie inside the mask too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saymask_worker.images.types import UNKNOWN_GRANULARITY
from saymask_worker.masks.decoder import SelectedMasks
from saymask_worker.masks.filters import compute_shared_and_union
from saymask_worker.masks.point_prompts import PointPrompts


def count_votes(
    masks: Tensor,
    votes: SelectedMasks,
    points: PointPrompts,
    frame_hw: tuple[int, int],
    vote_iou_min: float,
) -> tuple[Tensor, Tensor]:
    """Compute vote share and granularity of masks.

    Args:
        masks: (N, h, w) bool, coarse as the votes are.
        votes: masks of the prompts, each a vote.
        points: the grid and its prompts, in pixels of a frame that the masks fill.
        frame_hw: size of that frame.
        vote_iou_min: a vote counts for a mask when their IoU is higher.

    Returns:
        vote share (N,) float32 in 0..1, smoothed by half a vote: a mask that holds no point with
        its representative has 0.5;
        granularity (N,) float32 in 0..2, the middle where no point yields the mask.
    """
    flat, voted = masks.flatten(1).float(), (votes.coarse > 0).flatten(1).float()
    shared, union = compute_shared_and_union(flat, voted)
    agrees = shared > vote_iou_min * union
    height, width = masks.shape[1:]
    x = (points.grid_xy[:, 0] * width / frame_hw[1]).long().clamp(max=width - 1)
    y = (points.grid_xy[:, 1] * height / frame_hw[0]).long().clamp(max=height - 1)
    inside = masks[:, y, x]
    shape = (len(masks), len(points.prompted))
    yields = torch.zeros(shape, dtype=torch.float32, device=masks.device)
    yields.index_add_(1, votes.prompt, agrees.float())
    # A prompt outside a mask hardly ever yields it: it does not represent the points inside.
    counts = inside & inside[:, points.prompted][:, points.representative]
    agreeing = ((yields > 0)[:, points.representative] & counts).sum(dim=1)
    vote_share = (agreeing + 0.5) / (counts.sum(dim=1) + 1)
    represented = torch.bincount(points.representative, minlength=len(points.prompted)).float()
    weights = agrees * represented[votes.prompt]
    voters = weights.sum(dim=1)
    granularity = (weights @ votes.level.float()) / voters.clamp(min=1)
    return vote_share, torch.where(voters > 0, granularity, UNKNOWN_GRANULARITY)
