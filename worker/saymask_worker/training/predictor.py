"""A trained model asked for the mask of one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from saymask.errors import ConfigError
from saymask.masks import Mask
from saymask_worker.images.types import Derived
from saymask_worker.ranking.confidence import Curve
from saymask_worker.training.cris.backbone import Maps
from saymask_worker.training.cris.letterbox import (
    Letterbox,
    threshold_probabilities,
    to_probabilities,
)
from saymask_worker.training.models import TrainedCris, load_trained
from saymask_worker.weights import WeightStore


@dataclass(frozen=True)
class Prediction:
    """A model's answer.

    Attributes:
        mask: (H, W) bool; it may be empty.
        certainty: mean probability of the mask's pixels, 0 to 1; 0 for an empty mask.
        probability: that its IoU with the referent is above .5, 0 to 1.
    """

    mask: Mask
    certainty: float
    probability: float


class CrisPredictor:
    """Segments photos by sentences with a trained CRIS.

    Args:
        trained: the model.
        device: where it is.

    Raises:
        ConfigError: the model's description is damaged.
    """

    def __init__(self, trained: TrainedCris, device: str) -> None:
        self._trained = trained
        self._device = torch.device(device)
        try:
            self._curve = Curve(**trained.metrics["curve"])
        except (KeyError, TypeError) as error:
            raise ConfigError(
                "The model's description has no curve of its confidence.", "Train it again."
            ) from error

    @classmethod
    def load(cls, folder: Path, store: WeightStore, device: str) -> CrisPredictor:
        """Load what ``saymask-worker train`` wrote.

        Raises:
            ConfigError: there is no model in the folder.
            WeightsError: the towers' weights are missing.
        """
        return cls(load_trained(folder, store, device), device)

    def segment(self, pixels: NDArray[np.uint8], sentence: str) -> Mask:
        """Return the mask (H, W) of a sentence in an image (H, W, 3); it may be empty."""
        return self.predict(pixels, sentence).mask

    @torch.inference_mode()
    def predict(
        self, pixels: NDArray[np.uint8], sentence: str, derived: Derived | None = None
    ) -> Prediction:
        """Return the mask of a sentence, and how sure the model is of it.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            sentence: of any length; what the model does not read is cut.
            derived: of the image, where its maps are kept for the next sentence.
        """
        model, config = self._trained.model, self._trained.config
        box = Letterbox((pixels.shape[0], pixels.shape[1]), config.side_px)
        maps: Maps | None = None if derived is None else derived.get(self)
        if maps is None:
            maps = model.backbone.encode_maps(box.apply(pixels)[None].to(self._device))
            if derived is not None:
                derived[self] = maps
        tokens = model.backbone.tokenise([sentence], config.words).to(self._device)
        logits = model(None, tokens, maps)
        probabilities = to_probabilities(logits[0, 0].cpu(), box)
        mask = threshold_probabilities(probabilities)
        certainty = compute_certainty(probabilities.numpy(), mask)
        return Prediction(mask, certainty, self._curve.apply(certainty) if mask.any() else 0.0)


def compute_certainty(probabilities: NDArray[np.float32], mask: Mask) -> float:
    """Return the mean probability inside a mask, 0 to 1; 0 for an empty mask."""
    return float(np.clip(probabilities[mask].mean(), 0, 1)) if mask.any() else 0.0
