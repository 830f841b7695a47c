"""Expressions with the masks they mean, kept only where the ranking finds the mask by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saymask_worker.config.generation import GenerationConfig
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.types import PreparedImage
from saymask_worker.pipeline.generation.colors import measure_colors
from saymask_worker.pipeline.generation.families import build_families
from saymask_worker.pipeline.generation.generation import Scene, describe, word
from saymask_worker.pipeline.generation.objects import FoundObject, ImageObjects, find_objects
from saymask_worker.ranking.appearance import DescribedImage

_TINY = 1e-3

FindFirst = Callable[[str], tuple[int, float]]
"""Returns for an expression the proposal that ranks first, and the probability that it is right."""

WriteExpressions = Callable[[Sequence[FoundObject]], Sequence[Sequence[str]]]
"""Returns wordings for each of an image's objects; none for those that it cannot single out."""


@dataclass(frozen=True)
class ProposedExpression:
    """One object with expressions that mean it.

    Attributes:
        object: whose mask is meant.
        expressions: wordings by which the object is found, the usual one first.
        confidence: probability that the first of them means the object, 0 to 1.
    """

    object: FoundObject
    expressions: tuple[str, ...]
    confidence: float


def propose_expressions(
    image: DescribedImage,
    pixels: NDArray[np.uint8],
    find_first: FindFirst,
    config: PipelineConfig,
    seed: int,
    write: WriteExpressions | None = None,
) -> tuple[ProposedExpression, ...]:
    """Propose expressions for the objects of an image, the most certain first.

    Args:
        image: compared with the vocabulary.
        pixels: (h, w, 3), at the size of the proposals' masks.
        find_first: ranks the proposals for an expression.
        config: what counts as an object, and how clear a description must be.
        seed: for the choice among usual wordings.
        write: writes expressions instead of the rules.
    """
    own = config.generation
    families = build_families(image.vocabulary.things)
    things = find_objects(image, families, own, config.scoring)
    if not things.objects:
        return ()
    if write is None:
        texts: Sequence[Sequence[str]] = _word_all(
            things, _build_scene(image.prepared, things, pixels, own), own, seed
        )
    else:
        texts = write(things.objects)
    proposed = []
    for item, wordings in zip(things.objects, texts, strict=True):
        is_same = image.geometry.iou[item.index] >= config.suggestions.same_answer_iou
        kept = [
            (confidence, text)
            for text in wordings
            for first, confidence in [find_first(text)]
            if is_same[first]
        ]
        if kept:
            confidence = _compute_confidence(item, kept[0][0], own)
            expressions = tuple(text for _, text in kept)
            proposed.append(ProposedExpression(item, expressions, confidence))
    return tuple(sorted(proposed, key=lambda item: -item.confidence))


def _word_all(
    things: ImageObjects, scene: Scene, config: GenerationConfig, seed: int
) -> list[Sequence[str]]:
    """The wordings of each object by rules."""
    texts: list[Sequence[str]] = []
    for index, item in enumerate(things.objects):
        others = _find_distractors(things, index, config)
        description = describe(scene, index, item.noun, others, config)
        texts.append(word(description, config.wordings, seed) if description else ())
    return texts


def _build_scene(
    prepared: PreparedImage,
    things: ImageObjects,
    pixels: NDArray[np.uint8],
    config: GenerationConfig,
) -> Scene:
    masks = prepared.proposals.masks[[item.index for item in things.objects]]
    landmarks = {
        index: item.noun
        for index, item in enumerate(things.objects)
        if item.probability >= config.landmark_probability_min
        and not _find_distractors(things, index, config)
    }
    return Scene(compute_geometry(masks), measure_colors(pixels, masks), landmarks)


def _find_distractors(things: ImageObjects, target: int, config: GenerationConfig) -> Sequence[int]:
    """The other objects that the target's noun could mean."""
    item = things.objects[target]
    could_be = things.families[:, item.family] >= config.distractor_share_min * item.probability
    could_be |= np.array([other.family == item.family for other in things.objects])
    return [index for index in np.flatnonzero(could_be).tolist() if index != target]


def _compute_confidence(item: FoundObject, ranking: float, config: GenerationConfig) -> float:
    """The probability, 0 to 1, that an expression means its object alone.

    ``ranking`` is the probability that the ranking gives the object for the expression.
    """
    probability = min(max(ranking, _TINY), 1 - _TINY)
    logit = (
        config.confidence_offset
        + config.confidence_noun * math.log(max(item.probability, _TINY))
        + config.confidence_ranking * math.log(probability / (1 - probability))
        + config.confidence_rival * min(1.0, item.rival / max(item.probability, _TINY))
    )
    return 1 / (1 + math.exp(-logit))
