"""The terms of the default method's score: pure functions of arrays.

The appearance term is Global-Local CLIP's (CVPR 2023, section 3.1). The others are priors on what
expressions say outright, in the same units: log-odds.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.types import Floats, Geometry, Scores, TextFeatures, to_float32
from saymask_worker.language import ParsedExpression, Relation, Side
from saymask_worker.ranking.appearance import (
    DescribedImage,
    compute_appearance,
    compute_coherence,
    compute_negatives,
    compute_noun_odds,
    compute_presence,
    compute_thing,
    compute_unnamed_appearance,
)
from saymask_worker.ranking.comparison import Anchors, compute_comparison, find_instances, toward

_SMALLEST_AREA = 1e-6
# A proposal belongs to another when this share of it lies within a cell of the other.
_CONTACT_MIN = 0.5


def compute_scores(
    image: DescribedImage, text: TextFeatures, expression: ParsedExpression, config: ScoringConfig
) -> Scores:
    """Score every proposal of an image against one expression."""
    prepared, geometry = image.prepared, image.geometry
    proposals, none = prepared.proposals, np.zeros(len(prepared.proposals), dtype=np.float32)
    presence = None
    if expression.appearance is None and expression.has_spatial_words:
        terms = {"appearance": compute_unnamed_appearance(image, config), "negatives": none}
    else:
        # "What the dog has in its mouth" names nothing that could be missing.
        if expression.appearance is not None:
            noun = text.phrase if text.noun is None else text.noun
            presence = compute_presence(image, noun, config)
        terms = {
            "appearance": compute_appearance(image, text, config),
            "negatives": compute_negatives(image, text.phrase, config),
            "thing": compute_thing(image, text.phrase, config),
        }
    terms["coherence"] = compute_coherence(prepared, text, config)
    log_area = np.log10(np.maximum(geometry.area, _SMALLEST_AREA))
    terms["area"] = to_float32(config.area_weight * log_area)
    terms["consensus"] = to_float32(config.consensus_weight * proposals.vote_share)
    terms["level"] = to_float32(config.level_weight * proposals.granularity)
    prior = terms["area"] + terms["consensus"] + terms["level"]
    terms |= _compute_pairs(image, text, expression, config)
    noun_scores = to_float32(np.sum(list(terms.values()), axis=0))
    if expression.names_person:
        terms["person"] = _person_part(noun_scores, geometry, config)
        noun_scores = noun_scores + terms["person"]
    terms["place"] = to_float32(config.place_weight * _place(expression.sides, geometry))
    anchors = _find_anchors(expression, text, image, prior, config)
    terms["comparison"] = compute_comparison(noun_scores, geometry, expression, anchors, config)
    total = to_float32(np.sum(list(terms.values()), axis=0))
    return Scores(total, terms, np.argsort(-total, kind="stable"), presence)


def _compute_pairs(
    image: DescribedImage, text: TextFeatures, expression: ParsedExpression, config: ScoringConfig
) -> dict[str, Floats]:
    """What the referent has ("with", "wearing"), and what it does not have."""
    if len(image.visual) == 0:
        return {}

    def find(noun: Floats) -> Floats:
        odds = compute_noun_odds(image, noun, config)
        return compute_pair_evidence(odds, image.geometry, config.same_object_iou)

    terms = {}
    has = [
        find(row)
        for relation, rows in _rows_of(expression.relations, text)
        if relation.kind == "with"
        for row in rows
    ]
    if has:
        terms["pair"] = to_float32(config.pair_weight * np.mean(has, axis=0))
    if text.excluded is not None:
        terms["excluded"] = to_float32(-config.excluded_weight * find(text.excluded))
    return terms


def compute_pair_evidence(odds: Floats, geometry: Geometry, same_iou: float) -> Floats:
    """Return how sure each proposal (N,) has an object in or at it, relative to the surest.

    Args:
        odds: (N,) log-odds that each proposal is that object.
        geometry: of the proposals.
        same_iou: proposals that overlap more are the same object, and not a pair.
    """
    touches = _find_contacts(geometry)
    touches &= geometry.iou < same_iou
    best = np.where(touches, odds[None], -np.inf).max(axis=1, initial=-np.inf)
    # An object too small for a proposal still shows in the whole.
    evidence = np.maximum(best, odds)
    return to_float32(evidence - evidence.max(initial=-np.inf))


def _find_contacts(geometry: Geometry) -> NDArray[np.bool_]:
    """(N, N) whether column j lies for the most part in row i or within a cell of it."""
    if geometry.cells is None:
        return np.asarray(geometry.containment.T > _CONTACT_MIN)
    cells = torch.from_numpy(geometry.cells)[:, None]
    grown = F.max_pool2d(cells, kernel_size=3, stride=1, padding=1).flatten(1).numpy()
    flat = geometry.cells.reshape(len(geometry.cells), -1)
    covered = grown @ flat.T / np.maximum(flat.sum(axis=1), 1e-6)[None]
    return np.asarray(covered > _CONTACT_MIN)


def _rows_of(
    relations: tuple[Relation, ...], text: TextFeatures
) -> list[tuple[Relation, list[Floats]]]:
    """Each relation with the features of its anchors: one, or two for "between"."""
    if text.anchors is None:
        return []
    rows = iter(text.anchors)
    return [
        (relation, [next(rows) for noun in (relation.anchor, relation.second) if noun])
        for relation in relations
    ]


def _find_anchors(
    expression: ParsedExpression,
    text: TextFeatures,
    image: DescribedImage,
    prior: Floats,
    config: ScoringConfig,
) -> list[Anchors]:
    """The proposals to which each spatial relation refers, found by their own nouns."""
    found = []
    if len(image.visual) == 0:
        return []
    for relation, rows in _rows_of(expression.relations, text):
        if relation.kind == "with":
            continue
        scores = [to_float32(compute_noun_odds(image, row, config) + prior) for row in rows]
        indices = tuple(int(np.argmax(of_one)) for of_one in scores)
        if relation.kind == "between" and len(rows) == 1:
            # One plural names both: the two best that are separate objects.
            several = find_instances(scores[0], image.geometry, config)
            indices = tuple(int(index) for index in several[:2]) or indices
        found.append(Anchors(relation.kind, indices))
    return found


def _person_part(scores: Floats, geometry: Geometry, config: ScoringConfig) -> Floats:
    """A penalty for parts of a person.

    A face or a jacket looks as much like "woman" as she does, so a mask inside another that
    scores nearly as well is ranked behind it.
    """
    area = geometry.area
    smaller = area[:, None] < config.part_area_max * area[None]
    inside = geometry.containment > config.part_inside_min
    is_part = inside & smaller & (area[None] < config.background_area_min)
    nearly = scores[None] >= scores[:, None] - config.person_part_margin
    penalty = np.where((is_part & nearly).any(axis=1), -config.person_part_margin, 0.0)
    return to_float32(penalty)


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
