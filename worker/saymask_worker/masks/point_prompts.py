"""Which points of a grid become prompts: those at which the image embedding differs most.

Neighbouring points on one surface mostly yield the same masks. Farthest-point sampling (Gonzalez,
"Clustering to minimize the maximum intercluster distance", 1985) chooses the points of a grid that
are decoded; each other point is assumed to yield what the nearest of them, its representative,
yields.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saymask_worker.masks.frame import EMBEDDING_STEP


@dataclass(frozen=True)
class PointPrompts:
    """The points of a grid, and those of them that become prompts.

    Attributes:
        grid_xy: (G, 2) all points, in pixels of SAM's frame.
        prompted: (P,) indices of the points that become prompts, ascending.
        representative: (G,) for each point of the grid, which of the P prompts represents it.
    """

    grid_xy: Tensor
    prompted: Tensor
    representative: Tensor

    @property
    def xy(self) -> Tensor:
        """The prompts (P, 2)."""
        return self.grid_xy[self.prompted]


def prompt_every(grid_xy: Tensor) -> PointPrompts:
    """Make every point of a grid (G, 2) a prompt."""
    every = torch.arange(len(grid_xy), device=grid_xy.device)
    return PointPrompts(grid_xy, every, every)


def build_grid(side: int, frame_hw: tuple[int, int], device: torch.device | str) -> Tensor:
    """Build a regular grid of side * side points over a frame: (side ** 2, 2) xy in pixels."""
    steps = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(steps * frame_hw[0], steps * frame_hw[1], indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def choose_points(
    grid_xy: Tensor, embedding: Tensor, frame_hw: tuple[int, int], share: float, place_weight: float
) -> PointPrompts:
    """Choose the points of a grid that differ most in embedding and place.

    Args:
        grid_xy: (G, 2) in pixels of SAM's frame.
        embedding: (1, C, h, w) of the image, one cell for ``EMBEDDING_STEP`` pixels.
        frame_hw: size of the frame without padding.
        share: of the points that become prompts; at least one does.
        place_weight: of the squared distance, in shares of the frame's sides, added to the cosine
            distance of the embeddings.
    """
    wanted = max(1, round(share * len(grid_xy)))
    if wanted >= len(grid_xy):
        return prompt_every(grid_xy)
    distance = _compute_distances(grid_xy, embedding, frame_hw, place_weight)
    # On the CPU and in NumPy: the work of a step is less than what PyTorch adds to it.
    chosen = sorted(_sample_farthest(distance.cpu().numpy(), wanted))
    prompted = torch.tensor(chosen, device=grid_xy.device)
    return PointPrompts(grid_xy, prompted, distance[:, prompted].argmin(dim=1))


def _compute_distances(
    grid_xy: Tensor, embedding: Tensor, frame_hw: tuple[int, int], place_weight: float
) -> Tensor:
    """(G, G)."""
    cells = (grid_xy / EMBEDDING_STEP).long()
    height, width = embedding.shape[2:]
    x, y = cells[:, 0].clamp(max=width - 1), cells[:, 1].clamp(max=height - 1)
    rows = F.normalize(embedding[0, :, y, x].T.float(), dim=1)
    places = grid_xy / grid_xy.new_tensor([frame_hw[1], frame_hw[0]])
    return 1 - rows @ rows.T + place_weight * torch.cdist(places, places) ** 2


def _sample_farthest(distance: NDArray[np.float32], count: int) -> list[int]:
    """Indices of ``count`` points, beginning at the one nearest to all others."""
    chosen = [int(distance.sum(axis=1).argmin())]
    nearest = distance[chosen[0]].copy()
    while len(chosen) < count:
        nearest[chosen[-1]] = -np.inf
        chosen.append(int(nearest.argmax()))
        np.minimum(nearest, distance[chosen[-1]], out=nearest)
    return chosen
