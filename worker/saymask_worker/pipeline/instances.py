"""Choosing the referent among the instances of a noun phrase that a source found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.types import (
    DecodedImage,
    Derived,
    PreparedImage,
    Proposals,
    Scores,
    VisualFeatures,
)
from saymask_worker.language import ParsedExpression
from saymask_worker.masks.given import to_proposals
from saymask_worker.masks.sources.base import InstanceSource, SourceMask
from saymask_worker.ranking import Method

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Found:
    """The instances of one phrase in one image.

    Attributes:
        masks: n as the source gave them, without those that vanish at working size.
        together: an image whose first n proposals are the instances; the others, if any, are the
            image's own, which relations need: "the cat on the scooter".
        alone: the same with the instances alone.
    """

    masks: tuple[SourceMask, ...]
    together: PreparedImage
    alone: PreparedImage


class InstanceChooser:
    """Scores the instances that sources find as if they were proposals.

    Each image keeps those of the last phrase, by source: masks at the image's size are large.

    Args:
        method: that scores them.
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
            source: is asked for the noun phrase alone, without words of place, order and size; not
                at all where there is no noun.
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
        text = self._method.encode_text(expression)
        count = len(instances.masks)
        scores = _take_first(self._method.score(instances.together, text, expression), count)
        order = [int(index) for index in scores.order]
        probabilities = self._method.compute_probabilities(scores, instances.alone, order)
        if probabilities is None:
            return []
        return [
            SourceMask(mask.mask, mask.probability * float(probability))
            for mask, probability in zip(
                (instances.masks[index] for index in order), probabilities, strict=True
            )
        ]

    def _find(
        self,
        source: InstanceSource,
        image: DecodedImage,
        prepared: PreparedImage,
        noun_phrase: str,
    ) -> _Found | None:
        def look() -> Sequence[SourceMask]:
            return source.find_instances(image, noun_phrase)

        def encode() -> _Found | None:
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
    ) -> _Found | None:
        work_hw = (prepared.proposals.masks.shape[1], prepared.proposals.masks.shape[2])
        visible, parts = [], []
        for mask in masks:
            part = to_proposals([mask.mask], [mask.probability], image.size_hw, work_hw)
            if len(part):
                visible.append(mask)
                parts.append(part)
        if not parts:
            return None
        proposals = _concatenate(parts)
        features = self._method.encode_proposals(image, proposals).rounded()
        alone = PreparedImage(
            image.sha256, proposals, compute_geometry(proposals.masks), features, ()
        )
        # A first look's proposals were encoded in another way: they cannot be compared.
        is_comparable = len(prepared.proposals) > 0 and not prepared.is_first_look
        return _Found(tuple(visible), _join(alone, prepared) if is_comparable else alone, alone)


def _take_first(scores: Scores, count: int) -> Scores:
    """The scores of the first proposals alone; whether the noun is there, the source has said."""
    order: NDArray[np.intp] = scores.order[scores.order < count]
    terms = {name: values[:count] for name, values in scores.terms.items()}
    return Scores(scores.total[:count], terms, order)


def _join(instances: PreparedImage, own: PreparedImage) -> PreparedImage:
    """An image with the instances before its own proposals."""
    proposals = _concatenate([instances.proposals, own.proposals])
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


def _concatenate(parts: Sequence[Proposals]) -> Proposals:
    columns = ("masks", "predicted_iou", "stability_score", "consensus", "level")
    return Proposals(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns},
        size_hw=parts[0].size_hw,
    )
