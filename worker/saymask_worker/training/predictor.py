"""Asks a trained model for the mask of one sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from saymask.errors import ConfigError
from saymask.masks import Mask
from saymask_worker.images.types import Derived
from saymask_worker.ranking.confidence import Curve
from saymask_worker.training.checkpoint import load_trained_state
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.cris import Cris
from saymask_worker.training.cris.backbone import Maps
from saymask_worker.training.cris.letterbox import Letterbox, to_mask
from saymask_worker.training.models import DESCRIPTION_FILE, MODEL_FILE, build_cris
from saymask_worker.weights import WeightStore


@dataclass(frozen=True)
class Prediction:
    """A model's answer.

    Attributes:
        mask: (H, W) bool; it may be empty.
        probability: that its IoU with the referent is above .5, 0 to 1.
    """

    mask: Mask
    probability: float


class CrisPredictor:
    """Segments photos by sentences with a trained CRIS.

    Args:
        model: on its device.
        config: it was trained with.
        curve: from a mask's certainty to the probability that its IoU is above .5.
    """

    def __init__(self, model: Cris, config: TrainingConfig, curve: Curve) -> None:
        self._model, self._config, self._curve = model, config, curve
        self._device = next(model.parameters()).device

    @classmethod
    def load(cls, folder: Path, store: WeightStore, device: str) -> CrisPredictor:
        """Load what ``saymask-worker train`` wrote.

        Raises:
            ConfigError: there is no model in the folder, or it is damaged.
            WeightsError: the towers' weights are missing.
        """
        try:
            described = json.loads((folder / DESCRIPTION_FILE).read_text("utf-8"))
            training = described["training"]
            config = TrainingConfig(**{**training, "milestones": tuple(training["milestones"])})
            curve = Curve(**described["metrics"]["curve"])
            weights = load_file(folder / MODEL_FILE)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"There is no trained model in {folder}: {error}.",
                "Train one: saymask-worker train --data EXPORT_DIR --out DIR",
            ) from error
        model = build_cris(config.backbone, store)
        load_trained_state(model, weights, folder)
        return cls(model.to(torch.device(device)).eval(), config, curve)

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
        model, config = self._model, self._config
        box = Letterbox((pixels.shape[0], pixels.shape[1]), config.side_px)
        maps: Maps | None = None if derived is None else derived.get(self)
        if maps is None:
            maps = model.backbone.encode_maps(box.apply(pixels)[None].to(self._device))
            if derived is not None:
                derived[self] = maps
        tokens = model.backbone.tokenise([sentence], config.words).to(self._device)
        logits = model(None, tokens, maps)
        mask, certainty = to_mask(logits[0, 0].cpu(), box)
        return Prediction(mask, self._curve.apply(certainty) if mask.any() else 0.0)
