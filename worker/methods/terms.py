"""The terms of the corrected method's score: pure functions of arrays.

The appearance term is Global-Local CLIP's (CVPR 2023, section 3.1). The others are priors on what
expressions say outright, added in units of cosine similarity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.config import ScoringConfig
from worker.language import ParsedExpression, Side
from worker.methods.comparison import compute_comparison, toward
from worker.methods.features import mix, normalise_rows, to_float32
from worker.stages import (
    Floats,
    Geometry,
    PreparedImage,
    Scores,
    TextFeatures,
    VisualFeatures,
)

_SMALLEST_AREA = 1e-6


def compute_scores(
    prepared: PreparedImage,
    text: TextFeatures,
    expression: ParsedExpression,
    config: ScoringConfig,
) -> Scores:
    """Score every proposal of a prepared image against one expression."""
    features, proposals, geometry = prepared.features, prepared.proposals, prepared.geometry
    visual = mix_views(features, config)
    terms = {
        "appearance": _appearance(visual, text, geometry, config),
        "negatives": _negatives(visual, text.phrase, text, config),
        "coherence": _coherence(prepared, text, config),
        "area": to_float32(config.area_weight * _log_area(geometry)),
        "consensus": to_float32(config.consensus_weight * proposals.consensus),
        "level": to_float32(config.level_weight * proposals.level),
        "place": to_float32(config.place_weight * _place(expression.sides, geometry)),
    }
    prior = terms["area"] + terms["consensus"] + terms["level"]
    anchor = None
    if text.anchor is not None and len(visual):
        looks = visual @ normalise_rows(text.anchor)
        negatives = _negatives(visual, text.anchor, text, config)
        anchor = int(np.argmax(looks + negatives + prior))
    named = terms["appearance"] + terms["negatives"] + terms["coherence"] + prior
    if expression.names_person:
        terms["person"] = _person_part(named, geometry, config)
        named = named + terms["person"]
    terms["comparison"] = compute_comparison(named, geometry, expression, anchor, config)
    total = to_float32(np.sum(list(terms.values()), axis=0))
    return Scores(total=total, terms=terms, order=np.argsort(-total, kind="stable"))


def mix_views(features: VisualFeatures, config: ScoringConfig) -> Floats:
    """Return the unit vectors (N, D) of the views of each proposal, mixed."""
    views, share = (features.global_context, features.local_context), config.visual_global_weight
    if features.region is None or not config.region_weight:
        return mix(*views, share, normalise_first=config.normalise_first)
    if config.normalise_first:
        first, second = map(normalise_rows, views)
        mixed = share * first + (1 - share) * second
    else:
        mixed = mix(*views, share, normalise_first=False)
    return normalise_rows(
        to_float32(mixed + config.region_weight * normalise_rows(features.region))
    )


def _negatives(visual: Floats, noun: Floats, text: TextFeatures, config: ScoringConfig) -> Floats:
    """How much each proposal looks like something else, below the mean: (N,)."""
    if text.vocabulary is None or not config.negatives_weight or len(visual) == 0:
        return np.zeros(len(visual), dtype=np.float32)
    nearness = normalise_rows(text.vocabulary) @ normalise_rows(noun)
    order = np.argsort(nearness, kind="stable")
    count = max(config.negatives_min, int((nearness < config.negatives_cosine_max).sum()))
    others = normalise_rows(text.vocabulary[order[:count]])
    other = _soft_maximum(visual @ others.T, config.negatives_softness)
    return to_float32(-config.negatives_weight * (other - other.mean()))


def _coherence(prepared: PreparedImage, text: TextFeatures, config: ScoringConfig) -> Floats:
    """How much of the expression's heat lies inside each proposal (HybridGL, CVPR 2025)."""
    places, cells = prepared.features.places, prepared.geometry.cells
    if places is None or cells is None or not config.coherence_weight or len(cells) == 0:
        return np.zeros(len(prepared.proposals), dtype=np.float32)
    query = mix(text.sentence, text.phrase, 0.5, normalise_first=config.normalise_first)
    heat = _to_grid(places.unit_rows @ query, cells.shape[1])
    heat = heat - heat.min()
    heat = heat / max(float(heat.mean()), _SMALLEST_AREA)
    weights = cells.reshape(len(cells), -1)
    inside = weights @ heat / np.maximum(weights.sum(axis=1), _SMALLEST_AREA)
    rest = 1 - weights
    outside = rest @ heat / np.maximum(rest.sum(axis=1), _SMALLEST_AREA)
    return to_float32(config.coherence_weight * (inside - config.coherence_outside * outside))


def _to_grid(heat: Floats, side: int) -> Floats:
    """Spread a square map over a grid of ``side`` x ``side`` cells, flat: encoders differ."""
    own = round(len(heat) ** 0.5)
    nearest = ((np.arange(side) + 0.5) * own / side).astype(int)
    return heat.reshape(own, own)[np.ix_(nearest, nearest)].ravel()


def _log_area(geometry: Geometry) -> Floats:
    return to_float32(np.log10(np.maximum(geometry.area, _SMALLEST_AREA)))


def _appearance(
    visual: Floats, text: TextFeatures, geometry: Geometry, config: ScoringConfig
) -> Floats:
    """Cosine to the expression; without a noun, how much each proposal looks like a thing."""
    if text.things is None or text.stuff is None:
        query = mix(
            text.sentence,
            text.phrase,
            config.text_global_weight,
            normalise_first=config.normalise_first,
        )
        return to_float32(visual @ query)
    thing = _soft_maximum(visual @ normalise_rows(text.things).T, config.thing_softness)
    stuff = _soft_maximum(visual @ normalise_rows(text.stuff).T, config.thing_softness)
    size = config.unnamed_area_weight * np.log10(np.maximum(geometry.area, _SMALLEST_AREA))
    # What fills the image is its background, whatever it looks like.
    is_background = geometry.area > config.background_area_min
    return to_float32(config.thing_weight * (thing - stuff) + size - is_background)


def _soft_maximum(values: NDArray[np.floating], softness: float) -> Floats:
    """Log-sum-exp along the last axis, in the units of the values."""
    best = values.max(axis=-1)
    spread = np.exp((values - best[..., None]) / softness).sum(axis=-1)
    return np.asarray(best + softness * np.log(spread), dtype=np.float32)


def _person_part(scores: Floats, geometry: Geometry, config: ScoringConfig) -> Floats:
    """A malus for parts of a person.

    A face or a jacket looks as much like "woman" as she does, so a mask inside another that
    scores nearly as well is ranked behind it.
    """
    area = geometry.area
    smaller = area[:, None] < config.part_area_max * area[None]
    inside = geometry.containment > config.part_inside_min
    is_part = inside & smaller & (area[None] < config.background_area_min)
    nearly = scores[None] >= scores[:, None] - config.person_part_margin
    malus = np.where((is_part & nearly).any(axis=1), -config.person_part_margin, 0.0)
    return to_float32(malus)


def _place(sides: tuple[Side, ...], geometry: Geometry) -> Floats:
    """-1 to 1: how well each proposal lies where the words say; 0 without such words."""
    if not sides:
        return np.zeros_like(geometry.area)
    return to_float32(np.mean([_place_on_side(side, geometry) for side in sides], axis=0))


def _place_on_side(side: Side, geometry: Geometry) -> Floats:
    if side == "middle":
        off_center = np.hypot(geometry.center_x - 0.5, geometry.center_y - 0.5)
        return to_float32(1 - 2 * off_center)
    return to_float32(2 * toward(side, geometry) - 1)
