"""What the entry points of the hub's sources name; transformers is imported when one is built."""

from __future__ import annotations

from saymask.errors import ConfigError
from saymask_worker.masks.sources.base import CandidateSource, InstanceSource, SourceContext
from saymask_worker.weights.hub import FLORENCE2, GROUNDING_DINO, SAM3, HubStore
from saymask_worker.weights.transformers import require_transformers


def build_sam3_source(context: SourceContext) -> InstanceSource:
    """Build the source ``sam3``, or ``sam3:FOLDER``.

    Raises:
        ConfigError: transformers is not installed.
        WeightsError: the weights are missing or damaged.
    """
    require_transformers("The source sam3")
    from saymask_worker.masks.hub.sam3 import Sam3Source

    folder = HubStore(context.cache_dir).require(SAM3, context.argument)
    return Sam3Source(folder, context.device, context.dtype)


def build_grounding_dino_source(context: SourceContext) -> InstanceSource:
    """Build the source ``grounding-dino``, or ``grounding-dino:FOLDER``.

    Raises:
        ConfigError: transformers is not installed, or there is no model that fills boxes.
        WeightsError: the weights are missing or damaged.
    """
    require_transformers("The source grounding-dino")
    from saymask_worker.masks.hub.grounding_dino import GroundingDinoSource

    if context.clicks is None:
        raise ConfigError(
            "The source grounding-dino finds boxes, and there is no model that fills them.",
            "Set SAYMASK_PROPOSALS to another generator than given.",
        )
    folder = HubStore(context.cache_dir).require(GROUNDING_DINO, context.argument)
    return GroundingDinoSource(folder, context.clicks, context.device)


def build_florence2_source(context: SourceContext) -> CandidateSource:
    """Build the source ``florence-2``, or ``florence-2:FOLDER``.

    Raises:
        ConfigError: transformers is not installed.
        WeightsError: the weights are missing or damaged.
    """
    require_transformers("The source florence-2")
    from saymask_worker.masks.hub.florence2 import Florence2Source

    folder = HubStore(context.cache_dir).require(FLORENCE2, context.argument)
    return Florence2Source(folder, context.device, context.dtype)
