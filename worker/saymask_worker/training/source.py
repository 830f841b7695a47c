"""A trained CRIS as a source of candidates: named by its folder, or the served one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from saymask.errors import ConfigError
from saymask.model_registry import ModelRegistry
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.sources.base import CandidateSource, SourceContext, SourceMask
from saymask_worker.training.models import MODEL_FILE
from saymask_worker.training.predictor import CrisPredictor
from saymask_worker.weights import WeightStore
from saymask_worker.weights.checkpoints import hash_file

log = logging.getLogger(__name__)

_FINGERPRINT_CHARS = 8


class CrisSource:
    """Offers the one mask of a trained model.

    Raises:
        ConfigError: there is no model in the folder.
        WeightsError: the towers' weights are missing.
    """

    def __init__(self, folder: Path, store: WeightStore, device: str, name: str = "cris") -> None:
        self.name = name
        self._predictor = CrisPredictor.load(folder, store, device)
        self.fingerprint = hash_file(folder / MODEL_FILE)[:_FINGERPRINT_CHARS]

    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        """Return the model's mask with the probability that its IoU is above .5."""
        answer = self._predictor.predict(image.pixels, expression, image.derived)
        if not answer.mask.any():
            return []
        return [SourceMask(answer.mask, answer.probability)]


class ServedSource:
    """Offers the mask of whichever model is served, and follows when another one is."""

    name = "trained"

    def __init__(self, registry: ModelRegistry | None, store: WeightStore, device: str) -> None:
        self._registry, self._store, self._device = registry, store, device
        self._loaded: tuple[str, CrisSource] | None = None
        self._logged = ""

    @property
    def fingerprint(self) -> str:
        """The name of the model that is served; empty for none."""
        if self._registry is None:
            return ""
        try:
            served = self._registry.read_served()
        except ConfigError as error:
            # Read with every heartbeat, logged once; proposals are still offered.
            if str(error) != self._logged:
                log.error("no trained model is offered: %s", error)
            self._logged = str(error)
            return ""
        self._logged = ""
        return served

    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        """Return the served model's mask; loads it where it was not served before."""
        served = self.fingerprint
        if self._registry is None or not served:
            self._loaded = None
            return []
        if self._loaded is None or self._loaded[0] != served:
            self._loaded = None
            folder = self._registry.model_folder(served)
            self._loaded = served, CrisSource(folder, self._store, self._device, self.name)
            log.info("model %s is loaded", served)
        return self._loaded[1].segment(image, expression)


def build_cris_source(context: SourceContext) -> CandidateSource:
    """Build the source ``cris:FOLDER``.

    Raises:
        ConfigError: no folder is named, or there is no model in it.
        WeightsError: the towers' weights are missing.
    """
    if not context.argument:
        raise ConfigError(
            "The source cris needs a folder.", "Write SAYMASK_SOURCES=proposals,cris:FOLDER."
        )
    return CrisSource(Path(context.argument), WeightStore(context.cache_dir), context.device)


def build_served_source(context: SourceContext) -> CandidateSource:
    """Build the source ``trained``."""
    registry = ModelRegistry(context.models_dir) if context.models_dir else None
    return ServedSource(registry, WeightStore(context.cache_dir), context.device)
