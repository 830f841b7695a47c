"""The objects of an image: whole things, told apart from parts, heaps and background, and named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saymask_worker.config.generation import GenerationConfig
from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.types import Floats, Geometry, to_float32
from saymask_worker.pipeline.generation.families import NounFamilies
from saymask_worker.ranking.appearance import DescribedImage

_TINY = 1e-6


@dataclass(frozen=True)
class FoundObject:
    """One thing in an image.

    Attributes:
        noun: what people call it.
        family: index of the noun's family.
        probability: that the proposal shows one of that family, 0 to 1.
        rival: the highest probability that a proposal apart from all objects shows one of that
            family: there may be another object of this noun, which was not found.
    """

    index: int
    noun: str
    family: int
    probability: float
    rival: float


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """The objects of an image, most certain first, none overlapping another.

    Attributes:
        objects: O of them.
        families: (O, F) probability that each shows one of a family.
    """

    objects: tuple[FoundObject, ...]
    families: Floats


def find_objects(
    image: DescribedImage, families: NounFamilies, config: GenerationConfig, scoring: ScoringConfig
) -> ImageObjects:
    """Choose and name the objects of an image; ``scoring`` has the priors of whole objects."""
    proposals, geometry = image.prepared.proposals, image.geometry
    if len(proposals) == 0:
        return ImageObjects((), np.zeros((0, len(families.heads)), dtype=np.float32))
    nouns = _softmax(image.noun_logits / config.noun_temperature)
    things = nouns[:, image.vocabulary.is_thing]
    by_family = families.sum_probabilities(things)
    best = by_family.argmax(axis=1)
    probability = by_family.max(axis=1)
    prior = (
        scoring.consensus_weight * proposals.vote_share
        + scoring.level_weight * proposals.granularity
        + scoring.area_weight * np.log10(np.maximum(geometry.area, _TINY))
    )
    score = to_float32(np.log(np.maximum(probability, _TINY)) + prior)
    is_eligible = (
        (geometry.area >= config.object_area_min)
        & (geometry.area <= scoring.instance_area_max)
        & (proposals.vote_share >= config.consensus_min)
    )
    chosen = _choose_apart(score, is_eligible, geometry.containment, config.overlap_max)
    is_other = _find_others(geometry, chosen, config)
    objects = tuple(
        FoundObject(
            index,
            _name(things[index], int(best[index]), families, config.kind_share_min),
            int(best[index]),
            float(probability[index]),
            float(by_family[is_other, best[index]].max(initial=0.0)),
        )
        for index in chosen
    )
    return ImageObjects(objects, by_family[chosen])


def _choose_apart(
    score: Floats, is_eligible: NDArray[np.bool_], containment: Floats, overlap_max: float
) -> list[int]:
    """Take the best first; one that mostly lies in another, or holds it, is the same object."""
    chosen: list[int] = []
    for index in map(int, np.argsort(-score, kind="stable")):
        is_apart = all(
            max(containment[index, other], containment[other, index]) < overlap_max
            for other in chosen
        )
        if is_eligible[index] and is_apart:
            chosen.append(index)
    return chosen


def _find_others(
    geometry: Geometry, chosen: list[int], config: GenerationConfig
) -> NDArray[np.bool_]:
    """Which proposals (N,) are neither a chosen object nor largely inside one or around one."""
    inside, around = geometry.containment[:, chosen], geometry.containment[chosen].T
    overlap = np.maximum(inside, around).max(axis=1, initial=0.0)
    is_large = geometry.area >= config.rival_area_min
    return np.asarray(is_large & (overlap < config.rival_overlap_max))


def _name(things: Floats, family: int, families: NounFamilies, share_min: float) -> str:
    """The kind where it is sure within its family, else the family."""
    members = np.flatnonzero(families.family == family)
    of_members = things[members]
    best = int(of_members.argmax())
    is_sure = of_members[best] >= share_min * of_members.sum()
    return families.names[members[best]] if is_sure else families.heads[family]


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return to_float32(raised / raised.sum(axis=1, keepdims=True))
