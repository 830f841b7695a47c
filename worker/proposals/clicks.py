"""Masks from clicks and boxes: segment-anything's prompts, on an embedding that is kept.

Kirillov et al., "Segment Anything" (2023): one click is ambiguous, so the decoder's three masks are
all offered; with more to go by its single mask is taken. A mask to start from enters as its box,
and once more as the dense prompt too: alone the dense prompt is all but overruled by a click.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from backend.masks import compute_box_xywh, compute_iou
from worker.proposals.decoder import PromptDecoder
from worker.proposals.filters import compute_stability
from worker.proposals.mobile_sam import IMAGE_SIZE_PX
from worker.proposals.sam import crop_padding, embed_photo, to_frame_hw
from worker.stages import Masks, Photo, Prompt

# Logits of a mask one is sure of.
_SURE = 20.0
# A click this share of the box's sides beside it is still taken to be about the mask.
_BESIDE = 0.1
_LOW_SIDE = IMAGE_SIZE_PX // 4
_SINGLE, _ALL_LEVELS = (0,), (1, 2, 3)
_SAME_IOU = 0.9


@dataclass(frozen=True)
class EmbeddedPhoto:
    """A photo as the decoder needs it: (1, 256, 64, 64), and its sizes."""

    sha256: str
    embedding: Tensor
    frame_hw: tuple[int, int]
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class ClickedMask:
    """A mask (H, W) bool at the photo's size, and the decoder's opinion of it."""

    mask: Masks
    predicted_iou: float
    stability: float


class ClickSegmenter:
    """Answers clicks with one SAM model.

    Args:
        sam: a loaded model, on its device; its encoder may be of lower precision.
        dtype: arithmetic of the decoder.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        self._sam = sam
        self._decoder = PromptDecoder(sam, dtype)

    @torch.inference_mode()
    def embed(self, photo: Photo) -> EmbeddedPhoto:
        """The slow half, once per photo; about 2 MB."""
        frame_hw = to_frame_hw(photo.size_hw)
        embedding = embed_photo(self._sam, photo, frame_hw).to(torch.bfloat16)
        return EmbeddedPhoto(photo.sha256, embedding, frame_hw, photo.size_hw)

    @torch.inference_mode()
    def answer(self, photo: EmbeddedPhoto, prompt: Prompt) -> list[ClickedMask]:
        """Masks for a prompt, most fitting first, without near-equals; at most four.

        With a mask to start from, both ways are tried: changing it, and forgetting it. If a
        positive click lies outside its box, another object is probably meant and forgetting
        comes first.
        """
        is_ambiguous = len(prompt.points_xy) == 1 and prompt.box_xyxy is None
        levels = _ALL_LEVELS if is_ambiguous else _SINGLE
        anew = self._draw(photo, self._embed_prompt(photo, prompt), None, levels)
        if prompt.start is None or not prompt.start.any():
            return _without_equals(anew)
        boxed = replace(prompt, box_xyxy=prompt.box_xyxy or _box_around(prompt.start, prompt))
        sparse = self._embed_prompt(photo, boxed)
        changed = self._draw(photo, sparse, None, _SINGLE)
        changed += self._draw(photo, sparse, prompt.start, _SINGLE)
        leaves = _leaves(prompt.start, prompt)
        return _without_equals(anew + changed if leaves else changed + anew)

    def _embed_prompt(self, photo: EmbeddedPhoto, prompt: Prompt) -> Tensor:
        height, width = photo.size_hw
        scale = torch.tensor([photo.frame_hw[1] / width, photo.frame_hw[0] / height])
        points = boxes = None
        device = self._decoder.device
        if prompt.points_xy:
            places = torch.tensor(prompt.points_xy)[None] * scale
            labels = torch.tensor(prompt.positive)[None].float()
            points = (places.to(device), labels.to(device))
        if prompt.box_xyxy is not None:
            boxes = (torch.tensor(prompt.box_xyxy).view(1, 2, 2) * scale).view(1, 4).to(device)
        sparse, _ = self._sam.prompt_encoder(points, boxes, None)
        result: Tensor = sparse
        return result

    def _draw(
        self, photo: EmbeddedPhoto, sparse: Tensor, start: Masks | None, outputs: tuple[int, ...]
    ) -> list[ClickedMask]:
        dense = self._embed_mask(start, photo.frame_hw) if start is not None else None
        image = self._decoder.attach(photo.embedding.float(), dense)
        decoded = self._decoder.decode(image, sparse)
        chosen = torch.tensor(outputs, device=self._decoder.device)
        logits = self._decoder.draw(image, decoded, torch.zeros_like(chosen), chosen)
        logits = crop_padding(logits, photo.frame_hw)
        quality = decoded.predicted_iou[0, chosen].clamp(0, 1)
        low_hw = (logits.shape[1] * 4, logits.shape[2] * 4)
        frame = F.interpolate(logits[:, None], low_hw, mode="bilinear")
        frame = frame[:, :, : photo.frame_hw[0], : photo.frame_hw[1]]
        whole = F.interpolate(frame, photo.size_hw, mode="bilinear")[:, 0] > 0
        stability = compute_stability(logits)
        found = [
            ClickedMask(mask.cpu().numpy(), float(iou), float(stable))
            for mask, iou, stable in zip(whole, quality, stability, strict=True)
        ]
        return sorted((f for f in found if f.mask.any()), key=lambda f: -f.predicted_iou)

    def _embed_mask(self, mask: Masks, frame_hw: tuple[int, int]) -> Tensor:
        soft = torch.from_numpy(np.array(mask)).float()[None, None].to(self._decoder.device)
        framed = F.interpolate(soft, frame_hw, mode="bilinear", antialias=True)
        padding = (0, IMAGE_SIZE_PX - frame_hw[1], 0, IMAGE_SIZE_PX - frame_hw[0])
        low = F.interpolate(F.pad(framed, padding), (_LOW_SIDE, _LOW_SIDE), mode="area")
        _, dense = self._sam.prompt_encoder(None, None, (low * 2 - 1) * _SURE)
        result: Tensor = dense
        return result


def _positives(prompt: Prompt) -> list[tuple[float, float]]:
    return [place for place, p in zip(prompt.points_xy, prompt.positive, strict=True) if p]


def _box_around(start: Masks, prompt: Prompt) -> tuple[float, float, float, float]:
    """Of the mask and every positive click."""
    x, y, width, height = compute_box_xywh(start)
    xs = [x, x + width, *(x for x, _ in _positives(prompt))]
    ys = [y, y + height, *(y for _, y in _positives(prompt))]
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def _leaves(start: Masks, prompt: Prompt) -> bool:
    """Whether a positive click lies outside the mask's box."""
    x, y, width, height = compute_box_xywh(start)
    return any(
        not (
            x - _BESIDE * width <= px <= x + (1 + _BESIDE) * width
            and y - _BESIDE * height <= py <= y + (1 + _BESIDE) * height
        )
        for px, py in _positives(prompt)
    )


def _without_equals(found: list[ClickedMask]) -> list[ClickedMask]:
    kept: list[ClickedMask] = []
    for one in found:
        if all(compute_iou(one.mask, other.mask) < _SAME_IOU for other in kept):
            kept.append(one)
    return kept
