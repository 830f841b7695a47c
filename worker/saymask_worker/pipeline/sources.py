"""The sources of one pipeline: asked in turn, instances ranked by the terms of the score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from saymask.errors import SaymaskError
from saymask_worker.config.pipeline import SourcesConfig
from saymask_worker.images.decode import decode_image
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.types import (
    DecodedImage,
    Derived,
    EncodedImage,
    PreparedImage,
    Proposals,
    Scores,
    VisualFeatures,
)
from saymask_worker.language import ParsedExpression
from saymask_worker.masks.given import to_proposals
from saymask_worker.masks.sources.base import InstanceSource, Source, SourceMask
from saymask_worker.masks.sources.offers import Offers, collect_offers
from saymask_worker.ranking import Method

log = logging.getLogger(__name__)

T = TypeVar("T")

_Instances: TypeAlias = tuple[Sequence[SourceMask], PreparedImage, PreparedImage]
"""The n instances of one phrase in one image: masks as the source gave them, without those that
vanish at working size; an image whose first n proposals are the instances, followed by the image's
own, which relations need ("the cat on the scooter"); and an image of the instances alone.
"""


@dataclass(frozen=True)
class SourceSet:
    """The sources of one pipeline.

    Attributes:
        sources: in the order in which they are asked.
        chooser: chooses among what instance sources find.
        config: how their masks are cleaned.
        strict: a source that fails is an error, instead of a notice.
    """

    sources: Sequence[Source]
    chooser: InstanceChooser
    config: SourcesConfig
    strict: bool

    @property
    def active(self) -> tuple[Source, ...]:
        """Those that have a model."""
        return tuple(source for source in self.sources if source.fingerprint)

    def ask(
        self,
        prepared: PreparedImage,
        expression: str,
        parsed: ParsedExpression,
        encoded: EncodedImage | None,
    ) -> Offers | None:
        """Return what the sources offer; None without a source, or without the image's bytes."""
        sources = self.active
        if not sources or encoded is None:
            return None
        try:
            image = encoded.decode(decode_image)
        except SaymaskError as error:
            log.warning("no source but proposals: %s", error)
            return Offers(notices=(f"Only saymask's own proposals were ranked: {error.cause}",))

        def ask(source: Source) -> Sequence[SourceMask]:
            if isinstance(source, InstanceSource):
                return self.chooser.choose(source, image, prepared, parsed)
            return source.segment(image, expression)

        return collect_offers(sources, ask, image.size_hw, self.config, strict=self.strict)


class InstanceChooser:
    """Scores the instances that sources find as if they were proposals.

    Each image keeps those of the last phrase, by source: masks at the image's size are large.
    """

    def __init__(self, method: Method) -> None:
        self._method = method

    def choose(
        self,
        source: InstanceSource,
        image: DecodedImage,
        prepared: PreparedImage,
        expression: ParsedExpression,
    ) -> Sequence[SourceMask]:
        """Return a source's instances, each with the probability that it is the referent.

        That is the source's own probability that the noun phrase names it, times the probability,
        by the terms of the score, that it is the one meant among these.

        Args:
            source: gets the noun phrase alone, without words of place, order and size; it is not
                asked where there is no noun.
            image: decoded.
            prepared: the same image.
            expression: parsed.
        """
        noun_phrase = expression.appearance or expression.head_noun_phrase
        if noun_phrase is None:
            return []
        instances = self._find(source, image, prepared, noun_phrase)
        if instances is None:
            return []
        masks, with_proposals, instances_only = instances
        text = self._method.encode_text(expression)
        scores = _take_first(self._method.score(with_proposals, text, expression), len(masks))
        order = [int(index) for index in scores.order]
        probabilities = self._method.compute_probabilities(scores, instances_only, order)
        if probabilities is None:
            return []
        return [
            replace(masks[index], probability=masks[index].probability * float(probability))
            for index, probability in zip(order, probabilities, strict=True)
        ]

    def _find(
        self, source: InstanceSource, image: DecodedImage, prepared: PreparedImage, noun_phrase: str
    ) -> _Instances | None:
        def look() -> Sequence[SourceMask]:
            return source.find_instances(image, noun_phrase)

        def encode() -> _Instances | None:
            # A first look becomes a prepared image: what was found in its pixels is the same.
            masks = self._keep_last(image.derived, source, noun_phrase, look)
            return self._encode(image, prepared, masks) if masks else None

        return self._keep_last(prepared.derived, source, noun_phrase, encode)

    def _keep_last(
        self, derived: Derived, source: InstanceSource, noun_phrase: str, compute: Callable[[], T]
    ) -> T:
        """Return what was computed for a source's last phrase, or compute it for this one."""
        kept: dict[str, tuple[str, T]] = derived.setdefault(self, {})
        if source.name not in kept or kept[source.name][0] != noun_phrase:
            kept[source.name] = noun_phrase, compute()
        return kept[source.name][1]

    def _encode(
        self, image: DecodedImage, prepared: PreparedImage, masks: Sequence[SourceMask]
    ) -> _Instances | None:
        work_hw = (prepared.proposals.masks.shape[1], prepared.proposals.masks.shape[2])
        parts = [to_proposals([m.mask], [m.probability], image.size_hw, work_hw) for m in masks]
        visible = tuple(mask for mask, part in zip(masks, parts, strict=True) if len(part))
        if not visible:
            return None
        proposals = Proposals.join(parts)
        features = self._method.encode_proposals(image, proposals).rounded()
        instances_only = PreparedImage(
            image.sha256, proposals, compute_geometry(proposals.masks), features, ()
        )
        # A first look's proposals were encoded in another way: they cannot be compared.
        if len(prepared.proposals) == 0 or prepared.is_first_look:
            return visible, instances_only, instances_only
        return visible, _join(instances_only, prepared), instances_only


def _take_first(scores: Scores, count: int) -> Scores:
    """The scores of the first proposals alone; whether the noun is there, the source has said."""
    order: NDArray[np.intp] = scores.order[scores.order < count]
    terms = {name: values[:count] for name, values in scores.terms.items()}
    return Scores(scores.total[:count], terms, order)


def _join(instances: PreparedImage, own: PreparedImage) -> PreparedImage:
    """An image with the instances before its own proposals."""
    proposals = Proposals.join([instances.proposals, own.proposals])
    first, second = instances.features, own.features
    has_regions = first.region is not None and second.region is not None
    return replace(
        own,
        proposals=proposals,
        geometry=compute_geometry(proposals.masks),
        features=VisualFeatures(
            np.concatenate([first.global_context, second.global_context]),
            np.concatenate([first.local_context, second.local_context]),
            np.concatenate([first.region, second.region]) if has_regions else None,
            second.places,
        ),
    )
