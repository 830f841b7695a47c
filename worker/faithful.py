"""The published method, step by step: configuration ``faithful``.

Global-Local CLIP (Yu, Seo, Son, CVPR 2023) as its authors' code computes it, its defects
included: ImageNet statistics, resizing without antialias, point-sampled token masks, boxes
squashed to a square, features mixed before normalisation. Tests hold every step to numbers made
by that code. ``corrected`` is what people should use; this is what it is compared with.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from worker.encoders.clip_visual import ClipVisual
from worker.encoders.crops import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalise,
    sample_token_masks,
    to_tensor,
)
from worker.stages import Floats, Masks, Scores, VisualFeatures

TEXT_GLOBAL_WEIGHT = 0.5
_SHORT_SIDE_PX = 800


def load_image(pixels: NDArray[np.uint8]) -> Tensor:
    """The published loader: short side 800, antialiased by Pillow, ImageNet statistics.

    Returns:
        (1, 3, h, w) float32.
    """
    height, width = pixels.shape[:2]
    short = _SHORT_SIDE_PX
    if height <= width:
        size = (int(short * width / height), short)
    else:
        size = (short, int(short * height / width))
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    return normalise(to_tensor(np.asarray(resized)), IMAGENET_MEAN, IMAGENET_STD)[None]


def resize(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear without antialias, whatever the scale."""
    return F.interpolate(image, size_hw, mode="bilinear", align_corners=False, antialias=False)


def crop_boxes(
    image: Tensor, masks: Masks, boxes_xyxy: NDArray[np.float64], *, size_px: int
) -> Tensor:
    """The published crops: the 800 px tensor back at photo size, filled, boxed, squashed.

    Args:
        image: from ``load_image``.
        masks: (N, H, W) at photo size.
        boxes_xyxy: (N, 4); truncated to whole pixels as published. A box that truncates to
            nothing keeps one pixel, where the published code fails.

    Returns:
        (N, 3, S, S) float32.
    """
    original = resize(image, (masks.shape[1], masks.shape[2]))[0]
    fill = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    crops = []
    for mask, box in zip(masks, boxes_xyxy, strict=True):
        soft = torch.from_numpy(mask).float()
        filled = original * soft + fill * (1 - soft)
        x0, y0, x1, y1 = (int(side) for side in box)
        cut = filled[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        crops.append(resize(cut[None], (size_px, size_px)))
    return torch.cat(crops)


def compute_extents_xyxy(masks: Masks) -> NDArray[np.float64]:
    """Tight boxes (N, 4) of masks (N, H, W), x1 and y1 exclusive."""
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def encode_proposals(
    visual: ClipVisual, pixels: NDArray[np.uint8], masks: Masks, boxes_xyxy: NDArray[np.float64]
) -> VisualFeatures:
    """Global and local features of masks (N, H, W) on a photo (H, W, 3), as published."""
    image = load_image(pixels)
    size_px = visual.image_size_px
    whole = resize(image, (size_px, size_px))
    tokens = sample_token_masks(masks, visual.grid_side)
    crops = crop_boxes(image, masks, boxes_xyxy, size_px=size_px)
    local = visual.encode_images(crops)
    if not visual.is_vit:
        # The published ResNet path normalises the crop features, and only those.
        local = F.normalize(local, dim=-1)
    return VisualFeatures(
        global_context=visual.encode_global(whole, tokens, "multiply").cpu().numpy(),
        local_context=local.cpu().numpy(),
    )


def compute_scores(
    features: VisualFeatures,
    sentence: Floats,
    phrase: Floats,
    global_weight: float,
    *,
    is_vit: bool,
) -> Scores:
    """Mix first, normalise once (ViT) or not at all (ResNet, where text is normalised first).

    Args:
        sentence, phrase: (D,), not normalised.
        global_weight: the paper's alpha.
    """
    visual = global_weight * features.global_context + (1 - global_weight) * features.local_context
    if is_vit:
        text = TEXT_GLOBAL_WEIGHT * sentence + (1 - TEXT_GLOBAL_WEIGHT) * phrase
        visual = visual / np.linalg.norm(visual, axis=-1, keepdims=True)
        text = text / np.linalg.norm(text)
    else:
        sentence = sentence / np.linalg.norm(sentence)
        phrase = phrase / np.linalg.norm(phrase)
        text = TEXT_GLOBAL_WEIGHT * sentence + (1 - TEXT_GLOBAL_WEIGHT) * phrase
    total = np.asarray(visual @ text, dtype=np.float32)
    return Scores(total=total, terms={"appearance": total}, order=np.argsort(-total, kind="stable"))
