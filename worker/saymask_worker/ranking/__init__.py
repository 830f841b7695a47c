"""Methods of ranking proposals: what is encoded, and how features become scores."""

from saymask_worker.config.pipeline import MethodName, PipelineConfig
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.vocabulary import EncodedNouns
from saymask_worker.language import LanguageParser
from saymask_worker.ranking.base import Method
from saymask_worker.ranking.corrected import Corrected
from saymask_worker.ranking.faithful import Faithful

__all__ = ["Corrected", "Faithful", "Method", "build_method", "find_method"]

_METHODS: dict[MethodName, type[Corrected | Faithful]] = {
    "corrected": Corrected,
    "faithful": Faithful,
}


def find_method(name: MethodName) -> type[Corrected | Faithful]:
    """Return the class of a method, which says what it can."""
    return _METHODS[name]


def build_method(
    config: PipelineConfig, encoder: Encoder, parser: LanguageParser, vocabulary: EncodedNouns
) -> Method:
    """Build the method that a configuration names."""
    return find_method(config.method)(config, encoder, parser, vocabulary)
