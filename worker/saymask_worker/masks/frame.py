"""SAM's frame: the image scaled so that its longer side has 1024 pixels, padded to a square."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from saymask_worker.images.resize import fit_hw
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.masks.upscaling import COARSE_STEP

# A low-resolution mask has one pixel for this many of the frame, in each direction.
LOW_RESOLUTION_STEP = 4
EMBEDDING_STEP = LOW_RESOLUTION_STEP * COARSE_STEP


def to_frame_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image in SAM's frame, without padding."""
    return fit_hw(size_hw, IMAGE_SIZE_PX)


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
