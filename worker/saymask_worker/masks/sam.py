"""Automatic masks from any segment-anything model: a grid of points, then boxes.

Follows Kirillov et al., "Segment Anything" (2023), with the decoder of ``decoder.py`` and two more
changes than ``grid_proposer.py`` has: only the points of the grid that differ become prompts; and
the boxes around masks are used as prompts in turn, because a box asks for the whole object where a
point often yields a part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.decoder import ProjectedImage, PromptDecoder, SelectedMasks
from saymask_worker.masks.filters import SeenMasks, compute_boxes_xyxy, compute_stability
from saymask_worker.masks.frame import (
    LOW_RESOLUTION_STEP,
    choose_image_tokens,
    crop_padding,
    embed_image,
    to_frame_hw,
    upsample_to_frame,
)
from saymask_worker.masks.grid_proposer import GridProposer, MaskBatch
from saymask_worker.masks.point_prompts import PointPrompts, build_grid, choose_points
from saymask_worker.masks.votes import count_votes


class SamProposer(GridProposer):
    """Proposals from one SAM model.

    Args:
        config: grid, thresholds, budget.
        dtype: arithmetic of encoder and decoder.
        batch: prompts decoded at once.
        fingerprint: short hash of the checkpoint.
        between_batches: called before each batch.
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
        super().__init__(config, batch, between_batches)
        self.name = config.generator
        self.fingerprint = fingerprint
        self._sam = sam.to(device)
        self._decoder = PromptDecoder(sam, dtype)
        sam.image_encoder.to(dtype)

    def _find_masks(self, image: DecodedImage) -> MaskBatch:
        config, frame_hw = self._config, to_frame_hw(image.size_hw)
        embedding = embed_image(self._sam, image, frame_hw)
        grid_hw = (embedding.shape[2], embedding.shape[3])
        chosen = choose_image_tokens(grid_hw, frame_hw, config.padding_step, self._sam.device)
        projected = self._decoder.project(embedding, chosen)
        points = choose_points(
            build_grid(config.points_per_side, frame_hw, self._sam.device),
            embedding, frame_hw, config.points_share, config.points_place_weight,
        )  # fmt: skip
        masks, votes = self._decode(projected, self._decoder.embed_points(points.xy), frame_hw)
        masks = self._deduplicate(self._count_votes(masks, votes, points, frame_hw))
        for _ in range(config.box_rounds):
            if len(masks) == 0:
                break
            boxes = compute_boxes_xyxy(masks.logits > 0).float() * LOW_RESOLUTION_STEP
            boxed, _ = self._decode(projected, self._decoder.embed_boxes(boxes), frame_hw)
            boxed = self._count_votes(boxed, votes, points, frame_hw)
            masks = self._deduplicate(MaskBatch.join([masks, boxed]))
        return masks

    def _decode(
        self, image: ProjectedImage, prompts: Tensor, frame_hw: tuple[int, int]
    ) -> tuple[MaskBatch, SelectedMasks]:
        """Masks of all prompts that pass the filters, duplicates upscaled once; and all votes."""
        seen, parts, votes = SeenMasks(self._config), [], []
        for start, batch in self._split(prompts):
            masks, batch_votes = self._decode_batch(image, batch, frame_hw, seen)
            parts.append(masks)
            votes.append(replace(batch_votes, prompt=batch_votes.prompt + start))
        return MaskBatch.join(parts), SelectedMasks.join(votes)

    def _decode_batch(
        self, image: ProjectedImage, prompts: Tensor, frame_hw: tuple[int, int], seen: SeenMasks
    ) -> tuple[MaskBatch, SelectedMasks]:
        config, decoder = self._config, self._decoder
        decoded = decoder.decode(image, prompts)
        iou_min = config.predicted_iou_min
        votes = decoder.select(image, decoded, min(iou_min, config.voter_predicted_iou_min))
        coarse = votes.coarse > 0
        quality = votes.predicted_iou * compute_stability(votes.coarse, config.stability_offset)
        kept = torch.nonzero(votes.predicted_iou > iou_min)[:, 0]
        kept = kept[seen.select_new(coarse[kept], quality[kept])]
        selected = votes.take(kept)
        upscaled = decoder.upscale_outlines(image, decoded, selected, config.outline_logit)
        upscaled = crop_padding(upscaled, frame_hw)
        unknown = torch.zeros_like(selected.predicted_iou)
        stability = compute_stability(upscaled, config.stability_offset)
        masks = MaskBatch(
            upscaled, coarse[kept], selected.predicted_iou, stability, unknown, unknown
        )
        passed = self._pass_filters(masks)
        seen.add(coarse[kept[passed]], quality[kept[passed]])
        return masks.take(passed), votes

    def _count_votes(
        self,
        masks: MaskBatch,
        votes: SelectedMasks,
        points: PointPrompts,
        frame_hw: tuple[int, int],
    ) -> MaskBatch:
        iou_min = self._config.vote_iou_min
        vote_share, granularity = count_votes(masks.coarse, votes, points, frame_hw, iou_min)
        return replace(masks, vote_share=vote_share, granularity=granularity)

    def _upsample(
        self, logits: Tensor, size_hw: tuple[int, int], work_hw: tuple[int, int]
    ) -> Tensor:
        """Upsample to SAM's frame, then reduce to a smaller image."""
        frame = upsample_to_frame(logits, to_frame_hw(size_hw))
        if frame.shape[2:] == work_hw:
            return frame
        return F.interpolate(frame, work_hw, mode="bilinear")
