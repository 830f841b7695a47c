"""The temperature of an encoder, and whether its towers fit together: a self-test on photos.

The weights of the score are log-odds, made with the starter encoder. How far cosines spread
differs by a factor of four between encoders, so the temperature of another encoder is measured by
how much the similarity of a noun varies between views of the sample photos.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from saymask_worker.config.scoring import STARTER_SCORING, ScoringConfig
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.crops import resize_whole
from saymask_worker.encoders.vocabulary import EncodedNouns, encode_nouns, load_or_compute

log = logging.getLogger(__name__)

# Of the starter encoder, by this test; its temperature and all weights were chosen together.
REFERENCE_SPREAD = 0.0195
REFERENCE_TEMPERATURE = STARTER_SCORING.temperature
_RATIO_MIN, _RATIO_MAX = 0.67, 1.5
_SAMPLES = {
    "astronaut": "astronaut", "chelsea": "cat", "coffee": "cup of coffee", "rocket": "rocket",
    "flower": "flower", "china": "temple",
}  # fmt: skip
_NAMED_MIN = 4


@dataclass(frozen=True)
class Calibration:
    """Results of the self-test.

    Attributes:
        spread: mean standard deviation of a noun's cosine between views of the sample photos.
        named: how many of the six photos are most similar to their own noun.
    """

    spread: float
    named: int


def load_calibration(
    encoder: Encoder, vocabulary: EncodedNouns, directory: Path | None
) -> Calibration:
    """Read the results of an encoder's self-test, or run it; seconds on a CPU."""
    return load_or_compute(
        directory and directory / f"calibration-{encoder.weights_hash}.json",
        lambda data: Calibration(**json.loads(data)),
        lambda: calibrate(encoder, vocabulary),
        lambda calibration: json.dumps(asdict(calibration)).encode(),
    )


def calibrate(encoder: Encoder, vocabulary: EncodedNouns) -> Calibration:
    """Compare views of the sample photos with the nouns of the worker's own vocabulary."""
    visual = encoder.visual
    views: list[NDArray[np.uint8]] = []
    for name in _SAMPLES:
        path = files("saymask") / "samples" / f"{name}.jpg"
        with path.open("rb") as file, Image.open(file) as image:
            views += _cut(np.asarray(image.convert("RGB")))
    inputs = [resize_whole(view, size_px=visual.image_size_px, device="cpu") for view in views]
    features = F.normalize(visual.encode_images(torch.cat(inputs)), dim=1).cpu().numpy()
    spread = float((features @ vocabulary.rows.T).std(axis=0).mean())
    own = encode_nouns(encoder, list(_SAMPLES.values()))
    first = features[:: len(views) // len(_SAMPLES)] @ own.T
    named = int((first.argmax(axis=1) == np.arange(len(_SAMPLES))).sum())
    return Calibration(round(spread, 5), named)


def adapt_scoring(encoder: Encoder, found: Calibration) -> ScoringConfig:
    """Return the encoder's scoring with its temperature, and warn where the self-test says so."""
    if found.named < _NAMED_MIN:
        log.warning(
            "%s names only %d of %d sample photos: its image and text towers do not seem to fit"
            " together, and suggestions will be poor. Choose another SAYMASK_ENCODER.",
            encoder.description, found.named, len(_SAMPLES),
        )  # fmt: skip
    measured = REFERENCE_TEMPERATURE * found.spread / REFERENCE_SPREAD
    if not encoder.has_own_temperature:
        # Two digits: machines that round differently must not differ in their configuration.
        return replace(encoder.scoring, temperature=float(f"{max(measured, 1e-4):.2g}"))
    ratio = measured / encoder.scoring.temperature
    if not _RATIO_MIN < ratio < _RATIO_MAX:
        log.warning(
            "the similarities of %s spread %.2f times as far as those its weights were made for:"
            " suggestions may be worse than measured",
            encoder.description, ratio,
        )  # fmt: skip
    return encoder.scoring


def _cut(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """An image (h, w, 3) and its quarters."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    quarters = [
        pixels[top : top + height, left : left + width]
        for top in (0, height)
        for left in (0, width)
    ]
    return [pixels, *quarters]
