"""Other ways to choose among the same proposals: what the method is compared with.

The first four are the baselines of Yu et al. (CVPR 2023, section 4.2), the rest need no network.
Each gives every proposal one number for one expression.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saymask_worker.config.pipeline import FeaturesConfig
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.crops import resize_token_masks, resize_whole
from saymask_worker.evaluation.clip_maps import compute_grad_cam, encode_own_values
from saymask_worker.images.types import Floats, PreparedImage, normalise_rows


@dataclass(frozen=True)
class BaselineInputs:
    """What the baselines look at; each part is computed when first asked for.

    Attributes:
        visual: the image tower.
        pixels: (h, w, 3) uint8 at the proposals' working size.
        prepared: proposals and their features.
    """

    visual: ClipVisual
    pixels: NDArray[np.uint8]
    prepared: PreparedImage

    @cached_property
    def image(self) -> Tensor:
        """(1, 3, S, S), normalised."""
        size_px = self.visual.image_size_px
        return resize_whole(self.pixels, size_px=size_px, device=self.visual.device)

    @cached_property
    def dense(self) -> Floats:
        """(g, g, D), unit length."""
        return normalise_rows(encode_own_values(self.visual, self.image).cpu().numpy())

    @cached_property
    def region_tokens(self) -> Floats:
        """(N, D): the class token that sees only the proposal, in every block."""
        masks = resize_token_masks(
            self.prepared.proposals.masks, self.visual.grid_side, FeaturesConfig.token_floor
        )
        blocks = len(self.visual.blocks)
        features = self.visual.encode_global(self.image, masks, "attention", blocks)
        return np.asarray(features.cpu().numpy(), dtype=np.float32)

    def average_over_proposals(self, values: Floats) -> Floats:
        """Mean of a map (g, g) over each proposal: (N,)."""
        # As published: a mask is covered by its share of every place, small masks as they are.
        masks = resize_token_masks(self.prepared.proposals.masks, len(values), floor=0.0).numpy()
        weights = masks.sum(axis=(1, 2))
        return _f32((masks * values).sum(axis=(1, 2)) / np.maximum(weights, 1e-6))


Baseline = Callable[[BaselineInputs, Floats, str], Floats]


def _f32(values: NDArray[np.generic]) -> Floats:
    return np.asarray(values, dtype=np.float32)


def score_grad_cam(inputs: BaselineInputs, sentence: Floats, _key: str) -> Floats:
    """Mean of Grad-CAM over the mask."""
    cam = compute_grad_cam(inputs.visual, inputs.image, torch.from_numpy(sentence))
    return inputs.average_over_proposals(cam.cpu().numpy())


def score_map(inputs: BaselineInputs, sentence: Floats, _key: str) -> Floats:
    """Mean similarity of dense features over the mask."""
    return inputs.average_over_proposals(_f32(inputs.dense @ normalise_rows(sentence)))


def score_region_token(inputs: BaselineInputs, sentence: Floats, _key: str) -> Floats:
    """A class token confined to the mask from the first block on."""
    return _f32(normalise_rows(inputs.region_tokens) @ normalise_rows(sentence))


def score_cropping(inputs: BaselineInputs, sentence: Floats, _key: str) -> Floats:
    """The masked crop against the sentence."""
    local = inputs.prepared.features.local_context
    return _f32(normalise_rows(local) @ normalise_rows(sentence))


def score_random(inputs: BaselineInputs, _sentence: Floats, key: str) -> Floats:
    """A draw that depends only on the image and the expression."""
    digest = hashlib.sha256(f"{inputs.prepared.sha256} {key}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return _f32(rng.random(len(inputs.prepared.proposals)))


def score_largest(inputs: BaselineInputs, _sentence: Floats, _key: str) -> Floats:
    """The largest mask."""
    return inputs.prepared.geometry.area


def score_first(inputs: BaselineInputs, _sentence: Floats, _key: str) -> Floats:
    """The generator's own first mask."""
    return -np.arange(len(inputs.prepared.proposals), dtype=np.float32)


BASELINES: dict[str, Baseline] = {
    "grad-cam": score_grad_cam,
    "score-map": score_map,
    "region-token": score_region_token,
    "cropping": score_cropping,
    "random": score_random,
    "largest": score_largest,
    "first": score_first,
}
