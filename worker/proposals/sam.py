"""Automatic masks from any segment-anything model: a grid of points, then boxes.

Follows Kirillov et al., "Segment Anything" (2023), with the decoder of ``decoder.py`` and two
changes: duplicates are found by mask IoU, not box IoU; and the boxes around found masks are
fed back as prompts, because a box asks for the whole object where a point often yields a part.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
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
from worker.proposals.consensus import VOTER_PREDICTED_IOU, Votes, count_votes, shrink
from worker.proposals.decoder import AttachedImage, PromptDecoder
from worker.proposals.filters import compute_boxes_xyxy, compute_stability, suppress_duplicates
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
    """Masks found so far: low-resolution logits (N, h, w) without padding, and their quality."""

    logits: Tensor
    predicted_iou: Tensor
    stability: Tensor

    @staticmethod
    def join(parts: list[_Found]) -> _Found:
        return _Found(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.predicted_iou for part in parts]),
            torch.cat([part.stability for part in parts]),
        )

    def take(self, index: Tensor) -> _Found:
        return _Found(self.logits[index], self.predicted_iou[index], self.stability[index])

    @property
    def quality(self) -> Tensor:
        return self.predicted_iou * self.stability


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
        self._encoder = sam.image_encoder.to(dtype)
        self._dtype = dtype
        self._batch = batch

    @torch.inference_mode()
    def propose(self, photo: Photo) -> Proposals:
        """All masks of a photo that pass the filters, best first, at working size."""
        height, width = photo.size_hw
        scale = IMAGE_SIZE_PX / max(height, width)
        frame_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = self._decoder.attach(self._embed(photo, frame_hw))
        points = self._grid(frame_hw)
        found, votes = self._from_prompts(image, points, frame_hw, points=True)
        for _ in range(self._config.box_rounds):
            if len(found.logits) == 0:
                break
            boxes = self._boxes(found)
            more, _ = self._from_prompts(image, boxes, frame_hw, points=False)
            found = self._deduplicate(_Found.join([found, more]))
        found = self._within_budget(found)
        small = shrink(found.logits > 0)
        in_small = points * small.new_tensor([small.shape[2], small.shape[1]], dtype=torch.float32)
        in_small = in_small / in_small.new_tensor([frame_hw[1], frame_hw[0]])
        consensus, level = count_votes(small, votes, in_small)
        return self._to_proposals(found, consensus, level, photo.size_hw, frame_hw)

    def _within_budget(self, found: _Found) -> _Found:
        """Beyond the budget the smallest masks go, whatever their quality: SAM's own quality
        prefers small uniform parts, and people name objects."""
        areas = (found.logits > 0).flatten(1).sum(dim=1)
        largest = torch.argsort(areas, descending=True, stable=True)[: self._config.max_count]
        return found.take(largest.sort().values)

    def _embed(self, photo: Photo, frame_hw: tuple[int, int]) -> Tensor:
        pixels = torch.from_numpy(np.array(photo.pixels)).to(self._sam.device)
        image = pixels.permute(2, 0, 1)[None].float()
        resized = F.interpolate(image, frame_hw, mode="bilinear", antialias=True).round()
        prepared = self._sam.preprocess(resized[0])[None].to(self._dtype)
        embedding: Tensor = self._encoder(prepared.to(memory_format=torch.channels_last))
        return embedding.float()

    def _grid(self, frame_hw: tuple[int, int]) -> Tensor:
        side = self._config.points_per_side
        steps = (torch.arange(side, device=self._sam.device) + 0.5) / side
        y, x = torch.meshgrid(steps * frame_hw[0], steps * frame_hw[1], indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=1)

    def _boxes(self, found: _Found) -> Tensor:
        """Boxes of found masks in SAM's frame; a low-resolution pixel is four of its pixels."""
        return compute_boxes_xyxy(found.logits > 0).float() * 4

    def _from_prompts(
        self, image: AttachedImage, prompts: Tensor, frame_hw: tuple[int, int], *, points: bool
    ) -> tuple[_Found, Votes]:
        """Masks of all prompts that pass the filters, and every answer's vote (points only)."""
        valid_hw = (-(-frame_hw[0] // 4), -(-frame_hw[1] // 4))
        parts, votes = [], []
        for first, chunk in enumerate(prompts.split(self._batch)):
            part, vote = self._decode_batch(image, chunk, valid_hw, points=points)
            parts.append(part)
            votes.append(Votes(vote.masks, vote.point + first * self._batch, vote.level))
        return self._deduplicate(_Found.join(parts)), Votes.join(votes)

    def _decode_batch(
        self, image: AttachedImage, prompts: Tensor, valid_hw: tuple[int, int], *, points: bool
    ) -> tuple[_Found, Votes]:
        embed = self._decoder.embed_points if points else self._decoder.embed_boxes
        decoded = self._decoder.decode(image, embed(prompts))
        multimask = decoded.predicted_iou[:, 1:]
        least = self._config.predicted_iou_min
        drawn = multimask > (min(least, VOTER_PREDICTED_IOU) if points else least)
        prompt, output = torch.nonzero(drawn, as_tuple=True)
        if prompt.numel() == 0:
            empty = multimask.new_zeros(0)
            none = shrink(multimask.new_zeros(0, *valid_hw, dtype=torch.bool))
            return _Found(multimask.new_zeros(0, *valid_hw), empty, empty), Votes(
                none, prompt, output
            )
        logits = self._decoder.draw(image, decoded, prompt, output + 1)
        logits = logits[:, : valid_hw[0], : valid_hw[1]]
        votes = Votes(shrink(logits > 0), prompt, output)
        good = multimask[prompt, output] > least
        logits, prompt, output = logits[good], prompt[good], output[good]
        stability = compute_stability(logits)
        area_share = (logits > 0).flatten(1).float().mean(dim=1)
        keep = (stability >= self._config.stability_min) & (
            area_share >= self._config.min_area_share
        )
        found = _Found(logits[keep], multimask[prompt, output][keep], stability[keep])
        return found, votes

    def _deduplicate(self, found: _Found) -> _Found:
        if len(found.logits) == 0:
            return found
        return found.take(
            suppress_duplicates(found.logits > 0, found.quality, self._config.duplicate_iou_max)
        )

    def _to_proposals(
        self,
        found: _Found,
        consensus: Tensor,
        level: Tensor,
        size_hw: tuple[int, int],
        frame_hw: tuple[int, int],
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
        return Proposals(
            masks=stacked[present],
            predicted_iou=found.predicted_iou.cpu().numpy().astype(np.float32)[present].clip(0, 1),
            stability_score=found.stability.cpu().numpy().astype(np.float32)[present],
            consensus=consensus.cpu().numpy().astype(np.float32)[present],
            level=level.cpu().numpy().astype(np.float32)[present],
            size_hw=size_hw,
        )
