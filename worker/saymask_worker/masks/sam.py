"""Automatic masks from any segment-anything model: a grid of points, then boxes.

Follows Kirillov et al., "Segment Anything" (2023), with the decoder of ``decoder.py`` and three
changes: only the points of the grid that differ become prompts; duplicates are found by mask IoU,
not box IoU; and the boxes around masks are used as prompts in turn, because a box asks for the
whole object where a point often yields a part.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.images.resize import shrink_hw
from saymask_worker.images.types import DecodedImage, Proposals
from saymask_worker.masks.consensus import Votes, count_votes
from saymask_worker.masks.decoder import AttachedImage, PromptDecoder
from saymask_worker.masks.filters import (
    SeenMasks,
    compute_boxes_xyxy,
    compute_stability,
    suppress_duplicates,
)
from saymask_worker.masks.frame import (
    LOW_RESOLUTION_STEP,
    crop_padding,
    embed_image,
    to_frame_hw,
)
from saymask_worker.masks.image_tokens import choose_image_tokens
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.masks.point_prompts import PointPrompts, build_grid, choose_points
from saymask_worker.weights.device import Batched

# More of them do not fit into a processor's cache.
_UPSAMPLED_AT_ONCE = 4


@dataclass(frozen=True)
class _MaskSet:
    """Masks of one image.

    Attributes:
        logits: (N, h, w) low resolution, without padding.
        coarse: (N, h / 4, w / 4) bool.
        predicted_iou: (N,).
        stability: (N,).
        consensus: (N,).
        level: (N,).
    """

    logits: Tensor
    coarse: Tensor
    predicted_iou: Tensor
    stability: Tensor
    consensus: Tensor
    level: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    @staticmethod
    def join(parts: list[_MaskSet]) -> _MaskSet:
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return _MaskSet(*(torch.cat(column) for column in columns))

    def take(self, index: Tensor) -> _MaskSet:
        return _MaskSet(*(column[index] for column in vars(self).values()))

    @property
    def quality(self) -> Tensor:
        """(N,), by which one of two nearly equal masks stays.

        It contains the consensus: the mask that more points agree on comes without the
        neighbour's leaf, or with the cup's handle.
        """
        return self.predicted_iou * self.stability * self.consensus


class SamProposer(Batched):
    """Proposals from one SAM model.

    Args:
        sam: a loaded model.
        config: grid, thresholds, budget.
        device: where to run.
        dtype: arithmetic of encoder and decoder.
        batch: prompts decoded at once.
        fingerprint: short hash of the checkpoint.
        between_batches: called before each batch of prompts; it may wait.
    """

    def __init__(
        self,
        sam: Sam,
        config: ProposalsConfig,
        device: str,
        dtype: torch.dtype,
        batch: int,
        fingerprint: str,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(batch)
        self.name: str = config.generator
        self.fingerprint = fingerprint
        self._config = config
        self._sam = sam.to(device)
        self._decoder = PromptDecoder(sam, dtype)
        sam.image_encoder.to(dtype)
        self._between_batches = between_batches

    def with_config(self, config: ProposalsConfig) -> SamProposer:
        """Return a proposer of the same model with another configuration."""
        other = copy.copy(self)
        other._config = config
        return other

    @torch.inference_mode()
    def propose(self, image: DecodedImage) -> Proposals:
        """Generate all masks of an image that pass the filters, best first, at working size."""
        frame_hw = to_frame_hw(image.size_hw)
        embedding = embed_image(self._sam, image, frame_hw)
        grid_hw = (embedding.shape[2], embedding.shape[3])
        chosen = choose_image_tokens(grid_hw, frame_hw, self._config.padding_step, self._sam.device)
        attached = self._decoder.attach(embedding, chosen)
        points = self._choose_points(embedding, frame_hw)
        masks, votes = self._decode(attached, self._decoder.embed_points(points.xy), frame_hw)
        masks = self._deduplicate(self._count_votes(masks, votes, points, frame_hw))
        for _ in range(self._config.box_rounds):
            if len(masks) == 0:
                break
            boxes = compute_boxes_xyxy(masks.logits > 0).float() * LOW_RESOLUTION_STEP
            boxed, _ = self._decode(attached, self._decoder.embed_boxes(boxes), frame_hw)
            boxed = self._count_votes(boxed, votes, points, frame_hw)
            masks = self._deduplicate(_MaskSet.join([masks, boxed]))
        return _to_proposals(self._within_budget(masks), image.size_hw, frame_hw)

    def _choose_points(self, embedding: Tensor, frame_hw: tuple[int, int]) -> PointPrompts:
        config = self._config
        grid = build_grid(config.points_per_side, frame_hw, self._sam.device)
        return choose_points(
            grid, embedding, frame_hw, config.points_share, config.points_place_weight
        )

    def _decode(
        self, attached: AttachedImage, prompts: Tensor, frame_hw: tuple[int, int]
    ) -> tuple[_MaskSet, Votes]:
        """Masks of all prompts that pass the filters, duplicates upscaled once; and all votes."""
        seen, parts, votes = SeenMasks(self._config), [], []
        for start in range(0, len(prompts), self._batch):
            self._between_batches()
            batch = prompts[start : start + self._batch]
            masks, batch_votes = self._decode_batch(attached, batch, frame_hw, seen)
            parts.append(masks)
            votes.append(replace(batch_votes, point=batch_votes.point + start))
        return _MaskSet.join(parts), Votes.join(votes)

    def _decode_batch(
        self,
        attached: AttachedImage,
        prompts: Tensor,
        frame_hw: tuple[int, int],
        seen: SeenMasks,
    ) -> tuple[_MaskSet, Votes]:
        config, decoder = self._config, self._decoder
        decoded = decoder.decode(attached, prompts)
        answers = decoded.select(min(config.predicted_iou_min, config.voter_predicted_iou_min))
        logits = decoder.upscale_coarse(attached, decoded, answers.prompt, answers.level + 1)
        coarse = logits > 0
        votes = Votes(coarse, answers.prompt, answers.level)
        quality = answers.predicted_iou * compute_stability(logits, config.stability_offset)
        kept = torch.nonzero(answers.predicted_iou > config.predicted_iou_min)[:, 0]
        kept = kept[seen.select_new(coarse[kept], quality[kept])]
        selected = answers.take(kept)
        upscaled = decoder.upscale_outlines(
            attached, decoded, selected.prompt, selected.level + 1, logits[kept],
            config.outline_logit,
        )  # fmt: skip
        upscaled = crop_padding(upscaled, frame_hw)
        unknown = torch.zeros_like(selected.predicted_iou)
        stability = compute_stability(upscaled, config.stability_offset)
        masks = _MaskSet(
            upscaled, coarse[kept], selected.predicted_iou, stability, unknown, unknown
        )
        passed = self._pass_filters(masks)
        seen.add(coarse[kept[passed]], quality[kept[passed]])
        return masks.take(passed), votes

    def _pass_filters(self, masks: _MaskSet) -> Tensor:
        """Indices of masks that are stable and large enough."""
        share = (masks.logits > 0).flatten(1).float().mean(dim=1)
        is_stable = masks.stability >= self._config.stability_min
        return torch.nonzero(is_stable & (share >= self._config.min_area_share))[:, 0]

    def _count_votes(
        self, masks: _MaskSet, votes: Votes, points: PointPrompts, frame_hw: tuple[int, int]
    ) -> _MaskSet:
        consensus, level = count_votes(
            masks.coarse, votes, points, frame_hw, self._config.vote_iou_min
        )
        return replace(masks, consensus=consensus, level=level)

    def _deduplicate(self, masks: _MaskSet) -> _MaskSet:
        if len(masks) == 0:
            return masks
        iou_max = self._config.duplicate_iou_max
        return masks.take(suppress_duplicates(masks.logits > 0, masks.quality, iou_max))

    def _within_budget(self, masks: _MaskSet) -> _MaskSet:
        """Beyond the budget the smallest masks are dropped, whatever their quality.

        SAM's own quality prefers small uniform parts, and people name objects.
        """
        areas = (masks.logits > 0).flatten(1).sum(dim=1)
        largest = torch.argsort(areas, descending=True, stable=True)[: self._config.max_count]
        return masks.take(largest.sort().values)


def _to_proposals(
    masks: _MaskSet, size_hw: tuple[int, int], frame_hw: tuple[int, int]
) -> Proposals:
    """Upsample low resolution to SAM's frame, then reduce to a smaller image."""
    work_hw = shrink_hw(size_hw, IMAGE_SIZE_PX)
    upsampled: list[NDArray[np.bool_]] = []
    for logits in torch.split(masks.logits, _UPSAMPLED_AT_ONCE):
        padded_hw = [side * LOW_RESOLUTION_STEP for side in logits.shape[1:]]
        frame = F.interpolate(logits[:, None], padded_hw, mode="bilinear")
        frame = frame[:, :, : frame_hw[0], : frame_hw[1]]
        if work_hw != frame_hw:
            frame = F.interpolate(frame, work_hw, mode="bilinear")
        upsampled.extend((frame[:, 0] > 0).cpu().numpy())
    stacked = np.stack(upsampled) if upsampled else np.zeros((0, *work_hw), dtype=bool)
    present = stacked.any(axis=(1, 2))
    columns = {
        "predicted_iou": masks.predicted_iou.clamp(0, 1),
        "stability_score": masks.stability,
        "consensus": masks.consensus,
        "level": masks.level,
    }
    return Proposals(
        masks=stacked[present],
        **{name: column.float().cpu().numpy()[present] for name, column in columns.items()},
        size_hw=size_hw,
    )
