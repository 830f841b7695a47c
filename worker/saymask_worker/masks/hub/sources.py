"""What the entry points of the hub's sources name; transformers is imported when one is built.

Each is ``NAME`` or ``NAME:FOLDER`` in ``SAYMASK_SOURCES``. Building one raises ConfigError where
transformers is not installed, and WeightsError where the weights are missing or damaged.
"""

from __future__ import annotations

from pathlib import Path

from saymask.errors import ConfigError
from saymask_worker.masks.sources.base import CandidateSource, InstanceSource, SourceContext
from saymask_worker.weights.hub import FLORENCE2, GROUNDING_DINO, SAM3, HubModel, HubStore
from saymask_worker.weights.transformers import require_transformers


def build_sam3_source(context: SourceContext) -> InstanceSource:
    """Build the source ``sam3``."""
    folder = _find_folder(SAM3, context)
    from saymask_worker.masks.hub.sam3 import Sam3Source

    return Sam3Source(folder, context.device, context.dtype)


def build_grounding_dino_source(context: SourceContext) -> InstanceSource:
    """Build the source ``grounding-dino``; ConfigError without a model that fills boxes."""
    if context.clicks is None:
        raise ConfigError(
            "The source grounding-dino finds boxes, and there is no model that fills them.",
            "Set SAYMASK_PROPOSALS to another generator than given.",
        )
    folder = _find_folder(GROUNDING_DINO, context)
    from saymask_worker.masks.hub.grounding_dino import GroundingDinoSource

    return GroundingDinoSource(folder, context.clicks, context.device)


def build_florence2_source(context: SourceContext) -> CandidateSource:
    """Build the source ``florence-2``."""
    folder = _find_folder(FLORENCE2, context)
    from saymask_worker.masks.hub.florence2 import Florence2Source

    return Florence2Source(folder, context.device, context.dtype)


def _find_folder(model: HubModel, context: SourceContext) -> Path:
    require_transformers(f"The source {model.name}")
    return HubStore(context.cache_dir).require(model, context.argument)
