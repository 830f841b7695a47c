"""Asking the sources of candidates beside the proposals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from cachetools import LRUCache

from saymask.errors import SaymaskError
from worker.config import SourcesConfig
from worker.pipeline.images import decode_image
from worker.sources.base import CandidateSource
from worker.sources.offers import Offers, collect_offers
from worker.stages import DecodedImage

log = logging.getLogger(__name__)

# Of open tasks: sources look at pixels.
_MAX_DECODED_IMAGES = 2

ReadImage = Callable[[], bytes]


class AskedSources:
    """The sources of one pipeline, and the images they looked at last.

    Args:
        sources: in the order in which they are asked.
        config: how their masks are cleaned.
        max_megapixels: larger images are refused.
        strict: a source that fails is an error, instead of a notice.
    """

    def __init__(
        self,
        sources: Sequence[CandidateSource],
        config: SourcesConfig,
        max_megapixels: float,
        *,
        strict: bool,
    ) -> None:
        self._sources = sources
        self._config = config
        self._max_megapixels = max_megapixels
        self._strict = strict
        self._decoded: LRUCache[str, DecodedImage] = LRUCache(_MAX_DECODED_IMAGES)

    @property
    def active(self) -> tuple[CandidateSource, ...]:
        """Those that have a model."""
        return tuple(source for source in self._sources if source.fingerprint)

    def ask(self, sha256: str, expression: str, read_image: ReadImage | None) -> Offers | None:
        """Return what the sources offer; None where there is none to ask."""
        sources = self.active
        if not sources or read_image is None:
            return None
        image = self._decoded.get(sha256)
        if image is None:
            try:
                image = decode_image(read_image(), self._max_megapixels)
            except SaymaskError as error:
                log.warning("no source but proposals: %s", error)
                return Offers(notices=(f"Only proposals were ranked: {error.cause}",))
            self._decoded[sha256] = image
        return collect_offers(sources, image, expression, self._config, strict=self._strict)
