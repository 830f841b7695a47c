"""Methods of ranking proposals: what is encoded, and how features become scores.

Each method says what it can do: ``supports_first_look``, whether proposals can be encoded in a
fraction of the time; ``has_confidence``, whether scores are calibrated and have weights that can be
fitted; ``needs_all_pixels``, whether images larger than SAM's frame must not be reduced.
"""

from saymask_worker.config.pipeline import MethodName, PipelineConfig
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.vocabulary import EncodedNouns
from saymask_worker.language import LanguageParser
from saymask_worker.ranking.global_local_clip import GlobalLocalClip
from saymask_worker.ranking.published import PublishedGlobalLocalClip

__all__ = ["GlobalLocalClip", "Method", "PublishedGlobalLocalClip", "build_method", "find_method"]

Method = GlobalLocalClip | PublishedGlobalLocalClip


def find_method(name: MethodName) -> type[Method]:
    """Return the class of a method, which says what it can do."""
    return PublishedGlobalLocalClip if name == "faithful" else GlobalLocalClip


def build_method(
    config: PipelineConfig, encoder: Encoder, parser: LanguageParser, vocabulary: EncodedNouns
) -> Method:
    """Build the method that a configuration names."""
    if config.method == "faithful":
        return PublishedGlobalLocalClip(config, encoder, parser)
    return GlobalLocalClip(config, encoder, vocabulary)
