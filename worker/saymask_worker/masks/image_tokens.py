"""Which tokens of SAM's square frame its decoder sees.

SAM pads an image to a square, so a quarter of the tokens of a 4 : 3 photo show nothing. Prompts
attend to them all the same, and without them outlines get worse. But they are nearly alike: a
regular sample of them suffices, if each counts in the attention for all that it stands for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saymask_worker.masks.frame import EMBEDDING_STEP, count_cells_hw


@dataclass(frozen=True)
class ImageTokens:
    """Some of the tokens of a padded image, those of the image itself first.

    Attributes:
        index: (P,) places in the grid of all tokens, row by row.
        log_counts: (P,) logarithm of how many tokens each stands for, which is added to attention
            scores; None where each stands for itself.
        inside_hw: the grid of the image's own tokens; all are among the P.
    """

    index: Tensor
    log_counts: Tensor | None
    inside_hw: tuple[int, int]


def choose_image_tokens(
    grid_hw: tuple[int, int],
    frame_hw: tuple[int, int],
    padding_step: int,
    device: torch.device | str,
) -> ImageTokens:
    """Choose all tokens of the image, and of its padding one in ``padding_step`` each way.

    Args:
        grid_hw: of all tokens.
        frame_hw: size of the image in pixels of SAM's frame, without padding.
        padding_step: 1 keeps all tokens.
        device: of the result.
    """
    height, width = count_cells_hw(frame_hw, EMBEDDING_STEP)
    grid = torch.arange(grid_hw[0] * grid_hw[1], device=device).view(grid_hw)
    parts, log_counts = [grid[:height, :width].flatten()], [torch.zeros(height * width)]
    for region in (grid[height:], grid[:height, width:]):
        if region.numel() > 0:
            rows, columns = (_sample(side, padding_step) for side in region.shape)
            sampled = region[rows, columns].flatten()
            parts.append(sampled)
            count = math.log(region.numel() / len(sampled))
            log_counts.append(torch.full((len(sampled),), count))
    counts = torch.cat(log_counts).to(device)
    return ImageTokens(
        torch.cat(parts), counts if padding_step > 1 and len(parts) > 1 else None, (height, width)
    )


def _sample(side: int, step: int) -> slice:
    """One index in ``step``, from the middle of the first step or of a shorter side."""
    return slice(min(side, step) // 2, None, step)
