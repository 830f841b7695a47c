"""The stock automatic mask generator's masks, pixel for pixel, several times faster.

Same prompts, thresholds, full-resolution filters and suppression by box as
``SamAutomaticMaskGenerator`` with one crop (Kirillov et al., 2023). What differs is only order of
work: the decoder of ``decoder.py`` in float32, masks drawn and enlarged only when their predicted
quality passes, and no run-length coding before duplicates are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid
from segment_anything.utils.amg import calculate_stability_score as compute_full_stability
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torchvision.ops import nms

from worker.config import ProposalsConfig
from worker.courtesy import between_batches
from worker.proposals.consensus import VOTER_PREDICTED_IOU, Votes, count_votes
from worker.proposals.decoder import PromptDecoder, to_sketch
from worker.proposals.sam import crop_sketch
from worker.stages import Photo, Proposals

STOCK_BOX_IOU_MAX = 0.7
_STOCK_STABILITY_OFFSET = 1.0
_ENLARGED_AT_ONCE_PX = 64_000_000


class ExactProposer:
    """Proposals as segment-anything's own generator makes them, at the photo's size.

    Args:
        sam: a loaded model, float32.
        config: grid, thresholds and budget; duplicates go by box IoU above 0.7, as in stock.
        batch: prompts decoded at once; it does not change the masks.
        fingerprint: short hash of the checkpoint.
    """

    def __init__(
        self, sam: Sam, config: ProposalsConfig, device: str, batch: int, fingerprint: str
    ) -> None:
        self.name = f"{config.generator}-exact"
        self.fingerprint = fingerprint
        self._config = config
        self._sam = sam.to(device)
        self._decoder = PromptDecoder(sam, torch.float32)
        self._batch = batch

    @torch.inference_mode()
    def propose(self, photo: Photo) -> Proposals:
        """All masks of a photo, by predicted quality; over budget the smallest go."""
        sam, size_hw = self._sam, photo.size_hw
        transform = ResizeLongestSide(sam.image_encoder.img_size)
        resized = torch.as_tensor(transform.apply_image(photo.pixels), device=sam.device)
        frame_hw = (resized.shape[0], resized.shape[1])
        pixels = sam.preprocess(resized.permute(2, 0, 1).contiguous()[None])
        image = self._decoder.attach(sam.image_encoder(pixels))
        grid = build_point_grid(self._config.points_per_side) * np.array(size_hw)[None, ::-1]
        points = torch.as_tensor(transform.apply_coords(grid, size_hw), device=sam.device)
        least = min(self._config.predicted_iou_min, VOTER_PREDICTED_IOU)
        parts, votes = [], []
        for start in range(0, len(points), self._batch):
            between_batches()
            sparse = self._decoder.embed_points(points[start : start + self._batch])
            decoded = self._decoder.decode(image, sparse)
            answers = decoded.answers(least)
            drawn = self._decoder.draw(image, decoded, answers.prompt, answers.level + 1)
            sketches = crop_sketch(to_sketch(drawn), frame_hw) > 0
            votes.append(Votes(sketches, answers.prompt + start, answers.level))
            good = torch.nonzero(answers.predicted_iou > self._config.predicted_iou_min)[:, 0]
            for few in good.split(max(1, _ENLARGED_AT_ONCE_PX // (size_hw[0] * size_hw[1]))):
                logits, quality = drawn[few], answers.predicted_iou[few]
                parts.append(self._enlarge(logits, quality, sketches[few], frame_hw, size_hw))
        found = _Enlarged.join(parts)
        kept = nms(found.boxes.float(), found.predicted_iou, STOCK_BOX_IOU_MAX)
        kept = self._within_budget(found, kept)
        consensus, level = count_votes(found.sketches[kept], Votes.join(votes), points, frame_hw)
        return found.to_proposals(kept, consensus, level, size_hw)

    def _enlarge(
        self,
        logits: Tensor,
        predicted_iou: Tensor,
        sketches: Tensor,
        frame_hw: tuple[int, int],
        size_hw: tuple[int, int],
    ) -> _Enlarged:
        """Filter at full resolution; what passes is kept as bits."""
        full = self._sam.postprocess_masks(logits[:, None], frame_hw, size_hw)[:, 0]
        stability = compute_full_stability(full, self._sam.mask_threshold, _STOCK_STABILITY_OFFSET)
        keep = stability >= self._config.stability_min
        masks = full[keep] > self._sam.mask_threshold
        return _Enlarged(
            bits=np.packbits(masks.flatten(1).cpu().numpy(), axis=1),
            boxes=batched_mask_to_box(masks),
            areas=masks.flatten(1).sum(dim=1),
            predicted_iou=predicted_iou[keep],
            stability=stability[keep],
            sketches=sketches[keep],
        )

    def _within_budget(self, found: _Enlarged, kept: Tensor) -> Tensor:
        largest = torch.argsort(found.areas[kept], descending=True, stable=True)
        return kept[largest[: self._config.max_count].sort().values]


@dataclass(frozen=True)
class _Enlarged:
    """Masks that passed every filter.

    Attributes:
        bits: (N, ceil(H * W / 8)) uint8, masks at photo size, packed.
        boxes: (N, 4) xyxy; ``areas``: (N,) pixels; ``sketches``: (N, h, w) bool, for votes.
    """

    bits: NDArray[np.uint8]
    boxes: Tensor
    areas: Tensor
    predicted_iou: Tensor
    stability: Tensor
    sketches: Tensor

    @staticmethod
    def join(parts: list[_Enlarged]) -> _Enlarged:
        return _Enlarged(
            np.concatenate([part.bits for part in parts]),
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("boxes", "areas", "predicted_iou", "stability", "sketches")
            ),
        )

    def to_proposals(
        self, kept: Tensor, consensus: Tensor, level: Tensor, size_hw: tuple[int, int]
    ) -> Proposals:
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
