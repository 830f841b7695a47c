"""Asking the sources of candidates beside the proposals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from saymask.errors import SaymaskError
from saymask_worker.config.pipeline import SourcesConfig
from saymask_worker.images.decode import decode_image
from saymask_worker.images.types import DecodedImage, EncodedImage, PreparedImage
from saymask_worker.language import ParsedExpression
from saymask_worker.masks.sources.base import CandidateSource, InstanceSource, Source, SourceMask
from saymask_worker.masks.sources.offers import Offers, collect_offers
from saymask_worker.pipeline.instances import InstanceChooser

log = logging.getLogger(__name__)


class AskedSources:
    """The sources of one pipeline.

    Args:
        sources: in the order in which they are asked.
        chooser: chooses among what instance sources find.
        config: how their masks are cleaned.
        max_megapixels: larger images are refused.
        strict: a source that fails is an error, instead of a notice.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        chooser: InstanceChooser,
        config: SourcesConfig,
        max_megapixels: float,
        *,
        strict: bool,
    ) -> None:
        self._sources = sources
        self._chooser = chooser
        self._config = config
        self._max_megapixels = max_megapixels
        self._strict = strict

    @property
    def active(self) -> tuple[Source, ...]:
        """Those that have a model."""
        return tuple(source for source in self._sources if source.fingerprint)

    def ask(
        self,
        prepared: PreparedImage,
        expression: str,
        parsed: ParsedExpression,
        encoded: EncodedImage | None,
    ) -> Offers | None:
        """Return what the sources offer; None where there is none to ask.

        Args:
            prepared: the image.
            expression: cleaned.
            parsed: the same.
            encoded: the same image, for its pixels; with None no source is asked.
        """
        sources = self.active
        if not sources or encoded is None:
            return None
        try:
            image = encoded.decode(partial(decode_image, max_megapixels=self._max_megapixels))
        except SaymaskError as error:
            log.warning("no source but proposals: %s", error)
            return Offers(notices=(f"Only saymask's own proposals were ranked: {error.cause}",))
        asked: list[CandidateSource] = [
            _Chosen(source, self._chooser, prepared, parsed)
            if isinstance(source, InstanceSource)
            else source
            for source in sources
        ]
        return collect_offers(asked, image, expression, self._config, strict=self._strict)


class _Chosen:
    """An instance source as one that answers a single expression about a prepared image."""

    def __init__(
        self,
        source: InstanceSource,
        chooser: InstanceChooser,
        prepared: PreparedImage,
        parsed: ParsedExpression,
    ) -> None:
        self.name, self.fingerprint = source.name, source.fingerprint
        self._source, self._chooser = source, chooser
        self._prepared, self._parsed = prepared, parsed

    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        """Return the instances, the most probable referent first."""
        del expression  # it is the parsed one
        return self._chooser.choose(self._source, image, self._prepared, self._parsed)
