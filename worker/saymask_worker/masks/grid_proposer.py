"""From a grid of prompts to proposals: what the proposers of all models have in common.

Masks that are unstable, tiny or nearly equal to a better one are dropped, as in Kirillov et al.,
"Segment Anything" (2023); but duplicates are found by the IoU of masks, not of boxes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.images.resize import cap_longest_side
from saymask_worker.images.types import DecodedImage, Proposals
from saymask_worker.masks.filters import suppress_duplicates
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.weights.device import Batched

# More of them do not fit into a processor's cache.
_UPSAMPLED_AT_ONCE = 4


@dataclass(frozen=True)
class MaskBatch:
    """Masks of one image, on the device.

    Attributes:
        logits: (N, h, w) low resolution, without padding.
        coarse: (N, h', w') bool, fewer pixels of the same.
        predicted_iou: (N,).
        stability: (N,).
        vote_share: (N,), see ``Proposals``.
        granularity: (N,), see ``Proposals``.
    """

    logits: Tensor
    coarse: Tensor
    predicted_iou: Tensor
    stability: Tensor
    vote_share: Tensor
    granularity: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    @staticmethod
    def join(parts: Sequence[MaskBatch]) -> MaskBatch:
        """Concatenate masks of one image."""
        return MaskBatch(*map(torch.cat, zip(*(vars(p).values() for p in parts), strict=True)))

    def take(self, index: Tensor) -> MaskBatch:
        """Return a selection."""
        return MaskBatch(*(column[index] for column in vars(self).values()))

    @property
    def quality(self) -> Tensor:
        """(N,), by which one of two nearly equal masks stays.

        It contains the share of votes: the mask that more points agree on comes without the
        neighbour's leaf, or with the cup's handle.
        """
        return self.predicted_iou * self.stability * self.vote_share


class GridProposer(Batched, ABC):
    """Proposals from a grid of prompts, which a subclass decodes.

    Args:
        config: grid, thresholds, budget.
        batch: prompts decoded at once.
        between_batches: called before each batch of prompts; it may wait.
    """

    name: str
    fingerprint: str

    def __init__(
        self, config: ProposalsConfig, batch: int, between_batches: Callable[[], None]
    ) -> None:
        super().__init__(batch)
        self._config = config
        self._between_batches = between_batches

    def replace_config(self, config: ProposalsConfig) -> Self:
        """Return a proposer of the same model, on the same device, with another configuration."""
        other = copy.copy(self)
        other._config = config
        return other

    @torch.inference_mode()
    def propose(self, image: DecodedImage) -> Proposals:
        """Generate all masks of an image that pass the filters, best first, at working size."""
        masks = self._within_budget(self._find_masks(image))
        work_hw = cap_longest_side(image.size_hw, IMAGE_SIZE_PX)
        upsampled: list[NDArray[np.bool_]] = []
        for logits in torch.split(masks.logits, _UPSAMPLED_AT_ONCE):
            resized = self._upsample(logits[:, None], image.size_hw, work_hw)
            upsampled.extend((resized[:, 0] > 0).cpu().numpy())
        stacked = np.stack(upsampled) if upsampled else np.zeros((0, *work_hw), dtype=bool)
        present = stacked.any(axis=(1, 2))
        columns = {
            "predicted_iou": masks.predicted_iou.clamp(0, 1),
            "stability_score": masks.stability,
            "vote_share": masks.vote_share,
            "granularity": masks.granularity,
        }
        return Proposals(
            masks=stacked[present],
            **{name: column.float().cpu().numpy()[present] for name, column in columns.items()},
            size_hw=image.size_hw,
        )

    @abstractmethod
    def _find_masks(self, image: DecodedImage) -> MaskBatch:
        """Decode the prompts; return masks that pass the filters, without duplicates."""

    @abstractmethod
    def _upsample(
        self, logits: Tensor, size_hw: tuple[int, int], work_hw: tuple[int, int]
    ) -> Tensor:
        """Resize logits (n, 1, h, w) of an image of ``size_hw`` to (n, 1, *work_hw)."""

    def _split(self, prompts: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of each batch's first prompt, and the batch."""
        for start in range(0, len(prompts), self._batch):
            self._between_batches()
            yield start, prompts[start : start + self._batch]

    def _pass_filters(self, masks: MaskBatch) -> Tensor:
        """Indices of masks that are stable and large enough."""
        share = (masks.logits > 0).flatten(1).float().mean(dim=1)
        is_stable = masks.stability >= self._config.stability_min
        return torch.nonzero(is_stable & (share >= self._config.min_area_share))[:, 0]

    def _deduplicate(self, masks: MaskBatch) -> MaskBatch:
        if len(masks) == 0:
            return masks
        iou_max = self._config.duplicate_iou_max
        return masks.take(suppress_duplicates(masks.logits > 0, masks.quality, iou_max))

    def _within_budget(self, masks: MaskBatch) -> MaskBatch:
        """Beyond the budget the smallest masks are dropped, whatever their quality.

        SAM's own quality prefers small uniform parts, and people name objects.
        """
        areas = (masks.logits > 0).flatten(1).sum(dim=1)
        largest = torch.argsort(areas, descending=True, stable=True)[: self._config.max_count]
        return masks.take(largest.sort().values)
