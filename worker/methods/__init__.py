"""Methods of ranking proposals: what is encoded, and how features become scores."""

from worker.config import MethodName, PipelineConfig
from worker.encoders.base import Encoder
from worker.encoders.vocabulary import EncodedNouns
from worker.language import LanguageParser
from worker.methods.base import Method
from worker.methods.corrected import Corrected
from worker.methods.faithful import Faithful

__all__ = ["Corrected", "Faithful", "Method", "build_method"]

_METHODS: dict[MethodName, type[Corrected | Faithful]] = {
    "corrected": Corrected,
    "faithful": Faithful,
}


def build_method(
    config: PipelineConfig, encoder: Encoder, parser: LanguageParser, vocabulary: EncodedNouns
) -> Method:
    """Build the method that a configuration names."""
    return _METHODS[config.method](config, encoder, parser, vocabulary)
