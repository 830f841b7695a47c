"""SAM 3's interactive half as the generator of proposals: a grid of points, three masks each.

It replaces segment-anything's own models under ``SAYMASK_PROPOSALS=sam3``, with the same
thresholds. How many points agree on a mask is not counted, so terms that use it are neutral.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam3TrackerModel, Sam3TrackerProcessor

from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.images.types import UNKNOWN_GRANULARITY, UNKNOWN_VOTE_SHARE, DecodedImage
from saymask_worker.masks.filters import compute_stability
from saymask_worker.masks.grid_proposer import GridProposer, MaskBatch
from saymask_worker.masks.point_prompts import build_grid
from saymask_worker.masks.upscaling import to_coarse
from saymask_worker.weights.hub import SAM3, compute_fingerprint
from saymask_worker.weights.transformers import load_pretrained


class Sam3Proposer(GridProposer):
    """Proposals from SAM 3, without rounds of boxes; see ``GridProposer``.

    Args:
        folder: with the files of the model and its processor; others raise WeightsError.
        config: grid, thresholds, budget.
        batch: points decoded at once.
        between_batches: called before each batch.
    """

    name = SAM3.name

    def __init__(
        self,
        folder: Path,
        config: ProposalsConfig,
        device: str,
        dtype: torch.dtype,
        batch: int,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config, batch, between_batches)
        self.fingerprint = compute_fingerprint(folder)
        self._model, self._processor = load_pretrained(
            Sam3TrackerModel, Sam3TrackerProcessor, folder, device, dtype
        )
        self._device, self._dtype = device, dtype

    def _find_masks(self, image: DecodedImage) -> MaskBatch:
        encoded = self._processor.image_processor(image.pixels, return_tensors="pt")
        pixels = encoded["pixel_values"].to(self._device, self._dtype)
        embeddings = self._model.get_image_embeddings(pixels)
        # The model sees the image squashed to a square.
        side_px = pixels.shape[-1]
        grid = build_grid(self._config.points_per_side, (side_px, side_px), self._device)
        masks = MaskBatch.join([self._decode(embeddings, part) for _, part in self._split(grid)])
        return self._deduplicate(masks.take(self._pass_filters(masks)))

    def _decode(self, embeddings: list[Tensor], points: Tensor) -> MaskBatch:
        """The masks of some points whose predicted IoU is high enough."""
        outputs = self._model(
            image_embeddings=embeddings,
            input_points=points[None, :, None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int64, device=self._device),
            multimask_output=True,
        )
        logits = outputs.pred_masks[0].flatten(0, 1).float()
        predicted_iou = outputs.iou_scores[0].flatten().float()
        kept = predicted_iou > self._config.predicted_iou_min
        logits, predicted_iou = logits[kept], predicted_iou[kept]
        return MaskBatch(
            logits=logits,
            coarse=to_coarse(logits) > 0,
            predicted_iou=predicted_iou,
            stability=compute_stability(logits, self._config.stability_offset),
            vote_share=torch.full_like(predicted_iou, UNKNOWN_VOTE_SHARE),
            granularity=torch.full_like(predicted_iou, UNKNOWN_GRANULARITY),
        )

    def _upsample(
        self, logits: Tensor, size_hw: tuple[int, int], work_hw: tuple[int, int]
    ) -> Tensor:
        del size_hw  # the masks cover the whole image
        return F.interpolate(logits, work_hw, mode="bilinear")
