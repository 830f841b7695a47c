"""The stock automatic mask generator's masks, pixel for pixel, several times faster.

Same prompts, thresholds, full-resolution filters and suppression by box as
``SamAutomaticMaskGenerator`` with one crop (Kirillov et al., 2023). Only the order of work
differs: the decoder of ``decoder.py`` in float32, masks upscaled only when their predicted quality
passes, and no run-length coding before duplicates are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torchvision.ops import nms

from worker.batch_size import Batched
from worker.config import ProposalsConfig
from worker.proposals.consensus import Votes, count_votes
from worker.proposals.decoder import AttachedImage, PromptDecoder
from worker.proposals.filters import compute_stability
from worker.proposals.frame import crop_coarse
from worker.proposals.point_prompts import prompt_every
from worker.proposals.upscaling import to_coarse
from worker.stages import DecodedImage, Proposals

# Of segment-anything's own generator.
STOCK_BOX_IOU_MAX = 0.7
_FULL_SIZE_AT_ONCE_PX = 64_000_000


class ExactProposer(Batched):
    """Proposals as segment-anything's own generator makes them, at the image's size.

    Args:
        sam: a loaded model, float32.
        config: grid, thresholds and budget; duplicates are dropped by box IoU above 0.7, as in
            stock.
        device: where to run.
        batch: prompts decoded at once; it does not change the masks.
        fingerprint: short hash of the checkpoint.
        between_batches: called before each batch of prompts; it may wait.
    """

    def __init__(
        self,
        sam: Sam,
        config: ProposalsConfig,
        device: str,
        batch: int,
        fingerprint: str,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(batch)
        self.name = f"{config.generator}-exact"
        self.fingerprint = fingerprint
        self._config = config
        self._sam = sam.to(device)
        self._decoder = PromptDecoder(sam, torch.float32)
        self._between_batches = between_batches

    @torch.inference_mode()
    def propose(self, image: DecodedImage) -> Proposals:
        """Generate all masks, by predicted quality; over budget the smallest are dropped."""
        sam, size_hw = self._sam, image.size_hw
        transform = ResizeLongestSide(sam.image_encoder.img_size)
        resized = torch.as_tensor(transform.apply_image(image.pixels), device=sam.device)
        frame_hw = (resized.shape[0], resized.shape[1])
        pixels = sam.preprocess(resized.permute(2, 0, 1).contiguous()[None])
        attached = self._decoder.attach(sam.image_encoder(pixels))
        grid = build_point_grid(self._config.points_per_side) * np.array(size_hw)[None, ::-1]
        points = torch.as_tensor(transform.apply_coords(grid, size_hw), device=sam.device)
        parts: list[_FullMasks] = []
        votes: list[Votes] = []
        for start in range(0, len(points), self._batch):
            self._between_batches()
            batch = points[start : start + self._batch]
            masks, batch_votes = self._decode_batch(attached, batch, frame_hw, size_hw)
            parts += masks
            votes.append(Votes(batch_votes.masks, batch_votes.point + start, batch_votes.level))
        full = _FullMasks.join(parts)
        kept = nms(full.boxes.float(), full.predicted_iou, STOCK_BOX_IOU_MAX)
        kept = self._within_budget(full, kept)
        consensus, level = count_votes(
            full.coarse[kept],
            Votes.join(votes),
            prompt_every(points),
            frame_hw,
            self._config.vote_iou_min,
        )
        return full.to_proposals(kept, consensus, level, size_hw)

    def _decode_batch(
        self,
        attached: AttachedImage,
        points: Tensor,
        frame_hw: tuple[int, int],
        size_hw: tuple[int, int],
    ) -> tuple[list[_FullMasks], Votes]:
        config, decoder = self._config, self._decoder
        decoded = decoder.decode(attached, decoder.embed_points(points))
        answers = decoded.select(min(config.predicted_iou_min, config.voter_predicted_iou_min))
        logits = decoder.upscale(attached, decoded, answers.prompt, answers.level + 1)
        coarse = crop_coarse(to_coarse(logits), frame_hw) > 0
        passed = torch.nonzero(answers.predicted_iou > config.predicted_iou_min)[:, 0]
        at_once = max(1, _FULL_SIZE_AT_ONCE_PX // (size_hw[0] * size_hw[1]))
        masks = [
            self._to_full_size(
                logits[index], answers.predicted_iou[index], coarse[index], frame_hw, size_hw
            )
            for index in torch.split(passed, at_once)
        ]
        return masks, Votes(coarse, answers.prompt, answers.level)

    def _to_full_size(
        self,
        logits: Tensor,
        predicted_iou: Tensor,
        coarse: Tensor,
        frame_hw: tuple[int, int],
        size_hw: tuple[int, int],
    ) -> _FullMasks:
        """Filter at full resolution; what passes is kept as bits."""
        full = self._sam.postprocess_masks(logits[:, None], frame_hw, size_hw)[:, 0]
        stability = compute_stability(full, self._config.stability_offset)
        keep = stability >= self._config.stability_min
        masks = full[keep] > self._sam.mask_threshold
        return _FullMasks(
            bits=np.packbits(masks.flatten(1).cpu().numpy(), axis=1),
            boxes=batched_mask_to_box(masks),
            areas=masks.flatten(1).sum(dim=1),
            predicted_iou=predicted_iou[keep],
            stability=stability[keep],
            coarse=coarse[keep],
        )

    def _within_budget(self, full: _FullMasks, kept: Tensor) -> Tensor:
        largest = torch.argsort(full.areas[kept], descending=True, stable=True)
        return kept[largest[: self._config.max_count].sort().values]


@dataclass(frozen=True)
class _FullMasks:
    """Masks that passed every filter.

    Attributes:
        bits: (N, ceil(H * W / 8)) uint8, masks at image size, packed.
        boxes: (N, 4) xyxy, as stock has them.
        areas: (N,) pixels.
        predicted_iou: (N,).
        stability: (N,).
        coarse: (N, h, w) bool, for votes.
    """

    bits: NDArray[np.uint8]
    boxes: Tensor
    areas: Tensor
    predicted_iou: Tensor
    stability: Tensor
    coarse: Tensor

    @staticmethod
    def join(parts: list[_FullMasks]) -> _FullMasks:
        """Concatenate masks."""
        return _FullMasks(
            np.concatenate([part.bits for part in parts]),
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("boxes", "areas", "predicted_iou", "stability", "coarse")
            ),
        )

    def to_proposals(
        self, kept: Tensor, consensus: Tensor, level: Tensor, size_hw: tuple[int, int]
    ) -> Proposals:
        """Unpack the kept masks (N,), with their consensus (N,) and level (N,)."""
        index = kept.cpu().numpy()
        pixels = size_hw[0] * size_hw[1]
        masks = np.unpackbits(self.bits[index], axis=1, count=pixels).view(np.bool_)
        masks = masks.reshape(-1, *size_hw)
        present = masks.any(axis=(1, 2))
        columns = {
            "predicted_iou": self.predicted_iou[kept].clamp(0, 1),
            "stability_score": self.stability[kept],
            "consensus": consensus,
            "level": level,
        }
        return Proposals(
            masks=masks[present],
            **{name: column.float().cpu().numpy()[present] for name, column in columns.items()},
            size_hw=size_hw,
        )
