"""The published method, step by step.

Global-Local CLIP (Yu, Seo, Son, CVPR 2023) as its authors' code computes it, its defects
included: ImageNet statistics, resizing without antialias, point-sampled token masks, boxes
squashed to a square, features mixed before normalisation. Tests compare every step with numbers
made by that code. ``GlobalLocalClip`` is the method to use; this one is what it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saymask.masks import Masks, compute_box_xywh
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.crops import normalise, to_tensor
from saymask_worker.images.resize import to_original_size
from saymask_worker.images.types import (
    DecodedImage,
    Floats,
    PreparedImage,
    Proposals,
    Scores,
    TextFeatures,
    VisualFeatures,
)
from saymask_worker.language import LanguageParser, ParsedExpression

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_SHORT_SIDE_PX = 800


class PublishedGlobalLocalClip:
    """The published method; its noun phrase follows the published rule."""

    supports_first_look = False
    has_confidence = False
    needs_all_pixels = True

    def __init__(self, config: PipelineConfig, encoder: Encoder, parser: LanguageParser) -> None:
        self._scoring = config.scoring
        self._encoder = encoder
        self._parser = parser

    def encode_proposals(self, image: DecodedImage, proposals: Proposals) -> VisualFeatures:
        """Encode proposals at the image's own size."""
        masks = np.stack([to_original_size(m, image.size_hw) for m in proposals.masks])
        boxes = compute_extents_xyxy(masks)
        return encode_proposals(self._encoder.visual, image.pixels, masks, boxes)

    def encode_text(self, expression: ParsedExpression) -> TextFeatures:
        """Encode sentence and noun phrase."""
        published = self._parser.find_published_noun_phrase(expression.text)
        sentence, phrase = self._encoder.text.encode([expression.text, published])
        return TextFeatures(sentence, phrase)

    def score(
        self,
        prepared: PreparedImage,
        text: TextFeatures,
        expression: ParsedExpression,  # noqa: ARG002
    ) -> Scores:
        """Return the cosine of every proposal; the expression is read through its text alone."""
        return compute_scores(
            prepared.features,
            text.sentence,
            text.phrase,
            self._scoring.visual_global_weight,
            self._scoring.text_global_weight,
            is_vit=self._encoder.visual.is_vit,
        )

    def compute_probabilities(
        self,
        scores: Scores,  # noqa: ARG002
        prepared: PreparedImage,  # noqa: ARG002
        chosen: Sequence[int],  # noqa: ARG002
    ) -> None:
        """Return None: the scores of this method were never calibrated."""
        return


def load_image(pixels: NDArray[np.uint8]) -> Tensor:
    """Load as published: short side 800, antialiased by Pillow, ImageNet statistics.

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
    return normalise(to_tensor(np.asarray(resized)), _IMAGENET_MEAN, _IMAGENET_STD)[None]


def resize(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly without antialias, whatever the scale."""
    return F.interpolate(image, size_hw, mode="bilinear", align_corners=False, antialias=False)


def crop_boxes(
    image: Tensor, masks: Masks, boxes_xyxy: NDArray[np.float64], *, size_px: int
) -> Tensor:
    """Crop as published: the 800 px tensor back at image size, filled, boxed, squashed.

    Args:
        image: from ``load_image``.
        masks: (N, H, W) at image size.
        boxes_xyxy: (N, 4); truncated to whole pixels as published. A box that truncates to
            nothing keeps one pixel, where the published code fails.
        size_px: side S of the crops.

    Returns:
        (N, 3, S, S) float32.
    """
    original = resize(image, (masks.shape[1], masks.shape[2]))[0]
    fill = torch.tensor(_IMAGENET_MEAN).view(3, 1, 1)
    crops = []
    for mask, box in zip(masks, boxes_xyxy, strict=True):
        soft = torch.from_numpy(mask).float()
        filled = original * soft + fill * (1 - soft)
        x0, y0, x1, y1 = (int(side) for side in box)
        cut = filled[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        crops.append(resize(cut[None], (size_px, size_px)))
    return torch.cat(crops)


def sample_token_masks(masks: Masks, grid_side: int) -> Tensor:
    """Sample token weights (N, g, g) of masks (N, h, w) at points; zero for most small masks."""
    soft = torch.from_numpy(masks).float()[:, None]
    return resize(soft, (grid_side, grid_side))[:, 0]


def compute_extents_xyxy(masks: Masks) -> NDArray[np.float64]:
    """Return tight boxes (N, 4) of masks (N, H, W), x1 and y1 exclusive."""
    boxes = np.asarray([compute_box_xywh(mask) for mask in masks], dtype=np.float64)
    boxes = boxes.reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def encode_proposals(
    visual: ClipVisual, pixels: NDArray[np.uint8], masks: Masks, boxes_xyxy: NDArray[np.float64]
) -> VisualFeatures:
    """Encode masks (N, H, W) on an image (H, W, 3) as published, globally and locally."""
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
    visual_global_weight: float,
    text_global_weight: float,
    *,
    is_vit: bool,
) -> Scores:
    """Score proposals: mix, then normalise (ViT) or not (ResNet, where text is normalised first).

    Args:
        features: of N proposals.
        sentence: (D,), not normalised.
        phrase: (D,), not normalised.
        visual_global_weight: alpha of the paper.
        text_global_weight: beta of the paper.
        is_vit: whether the features come from a ViT.
    """
    alpha, beta = visual_global_weight, text_global_weight
    visual = alpha * features.global_context + (1 - alpha) * features.local_context
    if is_vit:
        text = beta * sentence + (1 - beta) * phrase
        visual = visual / np.linalg.norm(visual, axis=-1, keepdims=True)
        text = text / np.linalg.norm(text)
    else:
        sentence = sentence / np.linalg.norm(sentence)
        phrase = phrase / np.linalg.norm(phrase)
        text = beta * sentence + (1 - beta) * phrase
    total = np.asarray(visual @ text, dtype=np.float32)
    return Scores(total=total, terms={"appearance": total}, order=np.argsort(-total, kind="stable"))
