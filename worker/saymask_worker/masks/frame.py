"""SAM's frame: the image scaled so that its longer side has 1024 pixels, padded to a square.

A quarter of the tokens of a 4 : 3 photo show nothing but padding. Prompts attend to them all the
same, and without them outlines get worse. But they are nearly alike: a regular sample of them
suffices if each is weighted by the number of tokens that it represents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from saymask_worker.images.resize import scale_longest_side
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.masks.upscaling import COARSE_STEP

# A low-resolution mask has one pixel for this many of the frame, in each direction.
LOW_RESOLUTION_STEP = 4
EMBEDDING_STEP = LOW_RESOLUTION_STEP * COARSE_STEP


def to_frame_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image in SAM's frame, without padding."""
    return scale_longest_side(size_hw, IMAGE_SIZE_PX)


def embed_image(sam: Sam, image: DecodedImage, frame_hw: tuple[int, int]) -> Tensor:
    """Run the image encoder: (1, 256, 64, 64) float32, whatever precision its weights have."""
    pixels = torch.from_numpy(np.array(image.pixels)).to(sam.device)
    batch = pixels.permute(2, 0, 1)[None].float()
    resized = F.interpolate(batch, frame_hw, mode="bilinear", antialias=True).round()
    dtype = next(sam.image_encoder.parameters()).dtype
    prepared = sam.preprocess(resized[0])[None].to(dtype)
    embedding: Tensor = sam.image_encoder(prepared.to(memory_format=torch.channels_last))
    return embedding.float()


def count_cells_hw(frame_hw: tuple[int, int], step: int) -> tuple[int, int]:
    """Return rows and columns of cells of ``step`` x ``step`` pixels that cover a frame."""
    return -(-frame_hw[0] // step), -(-frame_hw[1] // step)


def crop_padding(logits: Tensor, frame_hw: tuple[int, int]) -> Tensor:
    """Remove what lies outside the image from low-resolution logits (N, 256, 256)."""
    rows, columns = count_cells_hw(frame_hw, LOW_RESOLUTION_STEP)
    return logits[:, :rows, :columns]


def upsample_to_frame(logits: Tensor, frame_hw: tuple[int, int]) -> Tensor:
    """Resize logits (n, 1, h, w) without padding to the frame's pixels (n, 1, H, W)."""
    padded_hw = [side * LOW_RESOLUTION_STEP for side in logits.shape[2:]]
    frame = F.interpolate(logits, padded_hw, mode="bilinear")
    return frame[:, :, : frame_hw[0], : frame_hw[1]]


@dataclass(frozen=True)
class ImageTokens:
    """Some of the tokens of a padded image, those of the image itself first.

    Attributes:
        index: (P,) in the grid of all tokens, row by row.
        log_counts: (P,) logarithm of how many tokens each represents, which is added to attention
            scores; None where each represents itself.
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
