"""A trained model asked for the mask of one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from saymask.masks import Mask
from worker.training.cris.letterbox import Letterbox, to_mask
from worker.training.models import TrainedCris, load_trained
from worker.weights import WeightStore


class CrisPredictor:
    """Segments photos by sentences with a trained CRIS.

    Args:
        trained: the model.
        device: where it is.
    """

    def __init__(self, trained: TrainedCris, device: str) -> None:
        self._trained = trained
        self._device = torch.device(device)

    @classmethod
    def load(cls, folder: Path, store: WeightStore, device: str) -> CrisPredictor:
        """Load what ``saymask-worker train`` wrote.

        Raises:
            ConfigError: there is no model in the folder.
            WeightsError: the towers' weights are missing.
        """
        return cls(load_trained(folder, store, device), device)

    @torch.inference_mode()
    def segment(self, pixels: NDArray[np.uint8], sentence: str) -> Mask:
        """Return the mask (H, W) of a sentence in an image (H, W, 3); it may be empty."""
        model, config = self._trained.model, self._trained.config
        box = Letterbox((pixels.shape[0], pixels.shape[1]), config.side_px)
        tokens = model.backbone.tokenise([sentence], config.words).to(self._device)
        logits = model(box.apply(pixels)[None].to(self._device), tokens)
        return to_mask(logits[0, 0].cpu(), box)
