"""Masks from clicks and boxes: segment-anything's prompts, on an embedding that is kept.

Kirillov et al., "Segment Anything" (2023): one click is ambiguous, so all three masks of the
decoder are offered; with more clicks its single mask is taken. A mask to start from enters as its
box, and once more as the dense prompt too, because a click all but overrules the dense prompt
alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from saymask.contract import CLICKS_SOURCE
from saymask.errors import InvalidRequest
from saymask.masks import Mask, compute_box_xywh, compute_iou
from saymask_worker.config.pipeline import ClicksConfig
from saymask_worker.images.resize import draw_at_original_size
from saymask_worker.images.types import DecodedImage, VisualPrompt
from saymask_worker.masks.decoder import PromptDecoder
from saymask_worker.masks.filters import compute_stability
from saymask_worker.masks.frame import (
    LOW_RESOLUTION_STEP,
    crop_padding,
    embed_image,
    to_frame_hw,
    upsample_to_frame,
)
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.masks.sources.base import SourceMask

_LOW_SIDE = IMAGE_SIZE_PX // LOW_RESOLUTION_STEP
_SINGLE, _ALL_LEVELS = (0,), (1, 2, 3)


@dataclass(frozen=True)
class EmbeddedImage:
    """An image as the decoder needs it.

    Attributes:
        embedding: (1, 256, 64, 64) bfloat16.
        frame_hw: size in SAM's frame.
        size_hw: original size.
    """

    sha256: str
    embedding: Tensor
    frame_hw: tuple[int, int]
    size_hw: tuple[int, int]


class ClickSegmenter:
    """Answers clicks with one SAM model.

    Args:
        sam: a loaded model, on its device; its encoder may be of lower precision.
        dtype: arithmetic of the decoder.
        config: how clicks become masks.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype, config: ClicksConfig) -> None:
        self._sam = sam
        self._decoder = PromptDecoder(sam, dtype)
        self._config = config

    @torch.inference_mode()
    def embed(self, image: DecodedImage) -> EmbeddedImage:
        """Run the image encoder: the slow part, once per image; about 2 MB."""
        frame_hw = to_frame_hw(image.size_hw)
        embedding = embed_image(self._sam, image, frame_hw).to(torch.bfloat16)
        return EmbeddedImage(image.sha256, embedding, frame_hw, image.size_hw)

    @torch.inference_mode()
    def answer(self, image: EmbeddedImage, prompt: VisualPrompt) -> list[SourceMask]:
        """Return masks for a prompt, most fitting first, without near-duplicates; at most four.

        With a mask to start from, both ways are tried: changing it, and starting anew. If a
        positive click lies outside its box, another object is probably meant and the new masks
        come first.
        """
        is_ambiguous = len(prompt.points_xy) == 1 and prompt.box_xyxy is None
        outputs = _ALL_LEVELS if is_ambiguous else _SINGLE
        new = self._decode(image, self._embed_prompt(image, prompt), None, outputs)
        start = prompt.start
        if start is None or not start.any():
            return self._without_duplicates(new)
        boxed = replace(prompt, box_xyxy=prompt.box_xyxy or _box_around(start, prompt))
        sparse = self._embed_prompt(image, boxed)
        changed = self._decode(image, sparse, None, _SINGLE)
        changed += self._decode(image, sparse, start, _SINGLE)
        is_elsewhere = self._is_elsewhere(start, prompt)
        return self._without_duplicates(new + changed if is_elsewhere else changed + new)

    def _embed_prompt(self, image: EmbeddedImage, prompt: VisualPrompt) -> Tensor:
        """Sparse embeddings (1, n, 256) of clicks and box."""
        height, width = image.size_hw
        scale = torch.tensor([image.frame_hw[1] / width, image.frame_hw[0] / height])
        points = boxes = None
        device = self._decoder.device
        if prompt.points_xy:
            scaled = torch.tensor(prompt.points_xy)[None] * scale
            labels = torch.tensor(prompt.positive)[None].float()
            points = (scaled.to(device), labels.to(device))
        if prompt.box_xyxy is not None:
            boxes = (torch.tensor(prompt.box_xyxy).view(1, 2, 2) * scale).view(1, 4).to(device)
        sparse: Tensor = self._sam.prompt_encoder(points, boxes, None)[0]
        return sparse

    def _decode(
        self, image: EmbeddedImage, sparse: Tensor, start: Mask | None, outputs: tuple[int, ...]
    ) -> list[SourceMask]:
        """The masks of some of the decoder's four outputs, best predicted IoU first."""
        dense = self._embed_mask(start, image.frame_hw) if start is not None else None
        projected = self._decoder.project(image.embedding.float(), dense=dense)
        decoded = self._decoder.decode(projected, sparse)
        output = torch.tensor(outputs, device=self._decoder.device)
        logits = self._decoder.upscale(projected, decoded, torch.zeros_like(output), output)
        logits = crop_padding(logits, image.frame_hw)
        predicted_iou = decoded.predicted_iou[0, output].clamp(0, 1)
        frame = upsample_to_frame(logits[:, None], image.frame_hw)
        stability = compute_stability(logits, self._config.stability_offset)
        clicked = [
            SourceMask(
                draw_at_original_size(drawn, image.size_hw), float(iou), float(stable),
                CLICKS_SOURCE,
            )
            for drawn, iou, stable in zip(frame[:, 0], predicted_iou, stability, strict=True)
        ]  # fmt: skip
        return sorted((c for c in clicked if c.mask.any()), key=lambda c: -c.probability)

    def _embed_mask(self, mask: Mask, frame_hw: tuple[int, int]) -> Tensor:
        """The dense embedding (1, 256, 64, 64) of a mask to start from."""
        soft = torch.from_numpy(np.array(mask)).float()[None, None].to(self._decoder.device)
        framed = F.interpolate(soft, frame_hw, mode="bilinear", antialias=True)
        padding = (0, IMAGE_SIZE_PX - frame_hw[1], 0, IMAGE_SIZE_PX - frame_hw[0])
        low = F.interpolate(F.pad(framed, padding), (_LOW_SIDE, _LOW_SIDE), mode="area")
        logits = (low * 2 - 1) * self._config.start_logit
        dense: Tensor = self._sam.prompt_encoder(None, None, logits)[1]
        return dense

    def _is_elsewhere(self, start: Mask, prompt: VisualPrompt) -> bool:
        """Whether a positive click lies outside the mask's box."""
        x, y, width, height = compute_box_xywh(start)
        margin = self._config.beside_share
        return any(
            not (
                x - margin * width <= px <= x + (1 + margin) * width
                and y - margin * height <= py <= y + (1 + margin) * height
            )
            for px, py in _positive_points(prompt)
        )

    def _without_duplicates(self, masks: list[SourceMask]) -> list[SourceMask]:
        kept: list[SourceMask] = []
        for clicked in masks:
            ious = (compute_iou(clicked.mask, other.mask) for other in kept)
            if all(iou < self._config.duplicate_iou for iou in ious):
                kept.append(clicked)
        return kept


def _positive_points(prompt: VisualPrompt) -> list[tuple[float, float]]:
    pairs = zip(prompt.points_xy, prompt.positive, strict=True)
    return [point for point, is_positive in pairs if is_positive]


def _box_around(start: Mask, prompt: VisualPrompt) -> tuple[float, float, float, float]:
    """The box of the mask and every positive click."""
    x, y, width, height = compute_box_xywh(start)
    points = _positive_points(prompt)
    xs = [x, x + width, *(px for px, _ in points)]
    ys = [y, y + height, *(py for _, py in points)]
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def check_prompt(prompt: VisualPrompt, size_hw: tuple[int, int]) -> None:
    """Check that a prompt has a click or a box, inside the image.

    Raises:
        InvalidRequest: it has none, one lies outside, or the mask to start from has another size.
    """
    if not prompt.points_xy and prompt.box_xyxy is None:
        raise InvalidRequest("The request has no click and no box.", "Click on what you mean.")
    height, width = size_hw
    corners = prompt.box_xyxy or ()
    xs = [x for x, _ in prompt.points_xy] + list(corners[0::2])
    ys = [y for _, y in prompt.points_xy] + list(corners[1::2])
    if not _are_within(xs, width) or not _are_within(ys, height):
        raise InvalidRequest(f"A click lies outside the photo of {width} x {height} pixels.")
    if prompt.start is not None and prompt.start.shape != size_hw:
        raise InvalidRequest(
            f"The mask to start from is {prompt.start.shape}, the photo {size_hw}."
        )


def _are_within(values: list[float], side: int) -> bool:
    return all(0 <= value <= side for value in values)
