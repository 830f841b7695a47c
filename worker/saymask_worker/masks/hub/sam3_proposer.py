"""SAM 3's interactive half as the generator of proposals: a grid of points, three masks each.

It replaces segment-anything's own models under ``SAYMASK_PROPOSALS=sam3``, with the same
thresholds. How many points agree on a mask is not counted, so terms that use it are neutral.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam3TrackerModel, Sam3TrackerProcessor

from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.images.resize import shrink_hw
from saymask_worker.images.types import DecodedImage, Proposals
from saymask_worker.masks.filters import compute_stability, suppress_duplicates
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.masks.point_prompts import build_grid
from saymask_worker.weights.device import Batched
from saymask_worker.weights.hub import SAM3, compute_fingerprint
from saymask_worker.weights.transformers import load_pretrained


class Sam3Proposer(Batched):
    """Proposals from SAM 3.

    Args:
        folder: with the files of the model and its processor.
        config: grid, thresholds, budget; rounds with boxes are not made.
        device: where to run.
        dtype: of the weights.
        batch: points decoded at once.
        between_batches: called before each batch of points; it may wait.

    Raises:
        WeightsError: the files are those of another model, or damaged.
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
        super().__init__(batch)
        self.fingerprint = compute_fingerprint(folder)
        self._model, self._processor = load_pretrained(
            Sam3TrackerModel, Sam3TrackerProcessor, folder, device, dtype
        )
        self._config, self._device, self._dtype = config, device, dtype
        self._between_batches = between_batches

    @torch.inference_mode()
    def propose(self, image: DecodedImage) -> Proposals:
        """Generate all masks of an image that pass the filters, best first, at working size."""
        encoded = self._processor.image_processor(image.pixels, return_tensors="pt")
        pixels = encoded["pixel_values"].to(self._device, self._dtype)
        embeddings = self._model.get_image_embeddings(pixels)
        # The model sees the image squashed to a square.
        side_px = pixels.shape[-1]
        grid = build_grid(self._config.points_per_side, (side_px, side_px), self._device)
        parts = [self._decode(embeddings, points) for points in torch.split(grid, self._batch)]
        logits, quality = (torch.cat(column) for column in zip(*parts, strict=True))
        stability = compute_stability(logits, self._config.stability_offset)
        kept = self._select(logits, quality, stability)
        return _to_proposals(logits[kept], quality[kept], stability[kept], image.size_hw)

    def _decode(self, embeddings: list[Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, h, w) and predicted IoU (n,) of the masks good enough to look at."""
        self._between_batches()
        outputs = self._model(
            image_embeddings=embeddings,
            input_points=points[None, :, None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int64, device=self._device),
            multimask_output=True,
        )
        logits = outputs.pred_masks[0].flatten(0, 1).float()
        quality = outputs.iou_scores[0].flatten().float()
        kept = quality > self._config.predicted_iou_min
        return logits[kept], quality[kept]

    def _select(self, logits: Tensor, quality: Tensor, stability: Tensor) -> Tensor:
        """Indices of stable masks, without duplicates, the largest within the budget."""
        config = self._config
        masks = logits > 0
        area = masks.flatten(1).float().mean(dim=1)
        passed = torch.nonzero(
            (stability >= config.stability_min) & (area >= config.min_area_share)
        )[:, 0]
        if len(passed) == 0:
            return passed
        order = suppress_duplicates(
            masks[passed], (quality * stability)[passed], config.duplicate_iou_max
        )
        kept = passed[order]
        largest = torch.argsort(area[kept], descending=True, stable=True)[: config.max_count]
        return kept[largest.sort().values]


def _to_proposals(
    logits: Tensor, quality: Tensor, stability: Tensor, size_hw: tuple[int, int]
) -> Proposals:
    """Upsample logits (N, h, w), which cover the whole image, to the working size."""
    work_hw = shrink_hw(size_hw, IMAGE_SIZE_PX)
    masks = [
        (F.interpolate(part[None, None], work_hw, mode="bilinear")[0, 0] > 0).cpu().numpy()
        for part in logits
    ]
    stacked = np.stack(masks) if masks else np.zeros((0, *work_hw), dtype=bool)
    present = stacked.any(axis=(1, 2))
    count = int(present.sum())
    return Proposals(
        masks=stacked[present],
        predicted_iou=quality.clamp(0, 1).cpu().numpy()[present],
        stability_score=stability.cpu().numpy()[present],
        consensus=np.full(count, 0.5, dtype=np.float32),
        level=np.ones(count, dtype=np.float32),
        size_hw=size_hw,
    )
