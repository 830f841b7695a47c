"""Automatic masks from any segment-anything model: a grid of points, then boxes.

Follows Kirillov et al., "Segment Anything" (2023), with the decoder of ``decoder.py`` and two
changes: duplicates are found by mask IoU, not box IoU; and the boxes around found masks are
fed back as prompts, because a box asks for the whole object where a point often yields a part.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from backend.errors import WeightsError
from worker.config import ProposalsConfig
from worker.courtesy import between_batches
from worker.proposals.consensus import VOTER_PREDICTED_IOU, Votes, count_votes
from worker.proposals.decoder import SKETCH_STEP, AttachedImage, PromptDecoder
from worker.proposals.filters import (
    Drawn,
    compute_boxes_xyxy,
    compute_stability,
    suppress_duplicates,
)
from worker.proposals.mobile_sam import EMBEDDING_DIM, IMAGE_SIZE_PX, build_tiny_vit_encoder
from worker.stages import Photo, Proposals

_REGISTRY_NAMES = {"sam-vit-b": "vit_b", "sam-vit-l": "vit_l", "sam-vit-h": "vit_h"}
GENERATORS = ("mobile-sam", *_REGISTRY_NAMES)


def load_sam(generator: str, checkpoint: Path) -> Sam:
    """Build a model and load its checkpoint, tensors only.

    Raises:
        WeightsError: unknown generator, or the file holds another model.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if generator == "mobile-sam":
            return _build_mobile_sam(state)
        sam: Sam = sam_model_registry[_REGISTRY_NAMES[generator]](checkpoint=None)
        sam.load_state_dict(state)
    except KeyError as error:
        raise WeightsError(
            f"There is no proposal generator {generator!r}.", f"Use one of {', '.join(GENERATORS)}."
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{checkpoint} is no checkpoint of {generator}: {error}",
            "Pull it again: saymask-worker models pull " + generator,
        ) from error
    return sam.eval()


def _build_mobile_sam(state: dict[str, Tensor]) -> Sam:
    prefix = "image_encoder."
    encoder = build_tiny_vit_encoder(
        {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    )
    grid = IMAGE_SIZE_PX // 16
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING_DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(IMAGE_SIZE_PX, IMAGE_SIZE_PX),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING_DIM, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=EMBEDDING_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
    rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
    incompatible = sam.load_state_dict(rest, strict=False)
    missing = [
        key
        for key in incompatible.missing_keys
        if not key.startswith((prefix, "pixel_mean", "pixel_std"))
    ]
    if missing or incompatible.unexpected_keys:
        raise ValueError(f"missing {missing[:3]}, unexpected {incompatible.unexpected_keys[:3]}")
    return sam.eval()


@dataclass(frozen=True)
class _Found:
    """Masks found so far: low-resolution logits (N, h, w) without padding, their sketches, bool,
    and what is known."""

    logits: Tensor
    sketches: Tensor
    predicted_iou: Tensor
    stability: Tensor
    consensus: Tensor
    level: Tensor

    @staticmethod
    def join(parts: list[_Found]) -> _Found:
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return _Found(*(torch.cat(column) for column in columns))

    def take(self, index: Tensor) -> _Found:
        return _Found(*(column[index] for column in vars(self).values()))

    @property
    def quality(self) -> Tensor:
        """Of two masks that are almost the same, the one more points agree on stays: without
        the neighbour's leaf, with the cup's handle."""
        return self.predicted_iou * self.stability * self.consensus


class SamProposer:
    """Proposals from one SAM model.

    Args:
        sam: a loaded model.
        config: grid, thresholds, budget.
        device: where to run.
        dtype: arithmetic of encoder and decoder.
        batch: prompts decoded at once.
        fingerprint: short hash of the checkpoint.
    """

    def __init__(
        self,
        sam: Sam,
        config: ProposalsConfig,
        device: str,
        dtype: torch.dtype,
        batch: int,
        fingerprint: str,
    ) -> None:
        self.name: str = config.generator
        self.fingerprint = fingerprint
        self._config = config
        self._sam = sam.to(device)
        self._decoder = PromptDecoder(sam, dtype)
        sam.image_encoder.to(dtype)
        self._batch = batch

    @torch.inference_mode()
    def propose(self, photo: Photo) -> Proposals:
        """All masks of a photo that pass the filters, best first, at working size."""
        frame_hw = to_frame_hw(photo.size_hw)
        image = self._decoder.attach(embed_photo(self._sam, photo, frame_hw))
        points = self._grid(frame_hw)
        found, votes = self._from_points(image, points, frame_hw)
        for _ in range(self._config.box_rounds):
            if len(found.logits) == 0:
                break
            boxes = self._decoder.embed_boxes(self._boxes(found))
            more, _ = self._ask(image, boxes, frame_hw)
            more = _count(more, votes, points, frame_hw)
            found = self._deduplicate(_Found.join([found, more]))
        return self._to_proposals(self._within_budget(found), photo.size_hw, frame_hw)

    def _within_budget(self, found: _Found) -> _Found:
        """Beyond the budget the smallest masks go, whatever their quality: SAM's own quality
        prefers small uniform parts, and people name objects."""
        areas = (found.logits > 0).flatten(1).sum(dim=1)
        largest = torch.argsort(areas, descending=True, stable=True)[: self._config.max_count]
        return found.take(largest.sort().values)

    def _grid(self, frame_hw: tuple[int, int]) -> Tensor:
        side = self._config.points_per_side
        steps = (torch.arange(side, device=self._sam.device) + 0.5) / side
        y, x = torch.meshgrid(steps * frame_hw[0], steps * frame_hw[1], indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=1)

    def _boxes(self, found: _Found) -> Tensor:
        """Boxes of found masks in SAM's frame; a low-resolution pixel is four of its pixels."""
        return compute_boxes_xyxy(found.logits > 0).float() * 4

    def _from_points(
        self, image: AttachedImage, points: Tensor, frame_hw: tuple[int, int]
    ) -> tuple[_Found, Votes]:
        """Masks that pass the filters, counted and without duplicates; and every answer's vote."""
        found, votes = self._ask(image, self._decoder.embed_points(points), frame_hw)
        return self._deduplicate(_count(found, votes, points, frame_hw)), votes

    def _ask(
        self, image: AttachedImage, prompts: Tensor, frame_hw: tuple[int, int]
    ) -> tuple[_Found, Votes]:
        """Masks that pass the filters, what is the same drawn once; and every answer's vote."""
        least = min(self._config.predicted_iou_min, VOTER_PREDICTED_IOU)
        drawn, parts, votes = Drawn(), [], []
        for start in range(0, len(prompts), self._batch):
            between_batches()
            decoded = self._decoder.decode(image, prompts[start : start + self._batch])
            answers = decoded.answers(least)
            sketches = self._decoder.sketch(image, decoded, answers.prompt, answers.level + 1)
            inside = crop_sketch(sketches, frame_hw)
            masks = inside > 0
            votes.append(Votes(masks, answers.prompt + start, answers.level))
            good = torch.nonzero(answers.predicted_iou > self._config.predicted_iou_min)[:, 0]
            quality = answers.predicted_iou * compute_stability(inside)
            good = good[drawn.choose_new(masks[good], quality[good])]
            few = answers.take(good)
            logits = self._decoder.draw_sketched(
                image, decoded, few.prompt, few.level + 1, sketches[good]
            )
            logits = crop_padding(logits, frame_hw)
            unknown = torch.zeros_like(few.predicted_iou)
            found = _Found(
                logits, masks[good], few.predicted_iou, compute_stability(logits), unknown, unknown
            )
            passed = self._passes(found)
            drawn.add(masks[good[passed]], quality[good[passed]])
            parts.append(found.take(passed))
        return _Found.join(parts), Votes.join(votes)

    def _passes(self, found: _Found) -> Tensor:
        """Indices of what is stable and large enough."""
        share = (found.logits > 0).flatten(1).float().mean(dim=1)
        stable = found.stability >= self._config.stability_min
        return torch.nonzero(stable & (share >= self._config.min_area_share))[:, 0]

    def _deduplicate(self, found: _Found) -> _Found:
        if len(found.logits) == 0:
            return found
        return found.take(
            suppress_duplicates(found.logits > 0, found.quality, self._config.duplicate_iou_max)
        )

    def _to_proposals(
        self, found: _Found, size_hw: tuple[int, int], frame_hw: tuple[int, int]
    ) -> Proposals:
        """Upsample survivors: low resolution to SAM's frame, then down to a smaller photo."""
        work_hw = size_hw if max(size_hw) <= IMAGE_SIZE_PX else frame_hw
        masks: list[NDArray[np.bool_]] = []
        for logits in found.logits.split(16):
            low_hw = (logits.shape[1], logits.shape[2])
            frame = F.interpolate(logits[:, None], (low_hw[0] * 4, low_hw[1] * 4), mode="bilinear")[
                :, :, : frame_hw[0], : frame_hw[1]
            ]
            if work_hw != frame_hw:
                frame = F.interpolate(frame, work_hw, mode="bilinear")
            masks.extend((frame[:, 0] > 0).cpu().numpy())
        stacked = np.stack(masks) if masks else np.zeros((0, *work_hw), dtype=bool)
        present = stacked.any(axis=(1, 2))
        columns = {
            "predicted_iou": found.predicted_iou.clamp(0, 1),
            "stability_score": found.stability,
            "consensus": found.consensus,
            "level": found.level,
        }
        return Proposals(
            masks=stacked[present],
            **{name: column.float().cpu().numpy()[present] for name, column in columns.items()},
            size_hw=size_hw,
        )


def to_frame_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a photo in SAM's frame, its longer side 1024."""
    height, width = size_hw
    scale = IMAGE_SIZE_PX / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def embed_photo(sam: Sam, photo: Photo, frame_hw: tuple[int, int]) -> Tensor:
    """The encoder's (1, 256, 64, 64) float32, in whatever precision its weights are."""
    pixels = torch.from_numpy(np.array(photo.pixels)).to(sam.device)
    image = pixels.permute(2, 0, 1)[None].float()
    resized = F.interpolate(image, frame_hw, mode="bilinear", antialias=True).round()
    dtype = next(sam.image_encoder.parameters()).dtype
    prepared = sam.preprocess(resized[0])[None].to(dtype)
    embedding: Tensor = sam.image_encoder(prepared.to(memory_format=torch.channels_last))
    return embedding.float()


def crop_padding(logits: Tensor, frame_hw: tuple[int, int]) -> Tensor:
    """Low-resolution logits (N, 256, 256) without what lies outside the photo."""
    return logits[:, : -(-frame_hw[0] // 4), : -(-frame_hw[1] // 4)]


def crop_sketch(sketches: Tensor, frame_hw: tuple[int, int]) -> Tensor:
    """Sketches (N, 64, 64) without what lies outside the photo."""
    step = 4 * SKETCH_STEP
    return sketches[:, : -(-frame_hw[0] // step), : -(-frame_hw[1] // step)]


def _count(found: _Found, votes: Votes, points: Tensor, frame_hw: tuple[int, int]) -> _Found:
    """The same masks with their votes counted. ``points`` lie in SAM's frame."""
    consensus, level = count_votes(found.sketches, votes, points, frame_hw)
    return replace(found, consensus=consensus, level=level)
