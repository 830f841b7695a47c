"""From features to an order. Pure functions of arrays; every term can be read and switched off.

The appearance term is Global-Local CLIP's (CVPR 2023, section 3.1). The others are priors on
what expressions say outright, added in units of cosine similarity: an object rather than its
part or a heap, a place in the photo, and comparisons among objects of the same noun.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.config import ScoringConfig
from worker.language import ParsedExpression, Side
from worker.stages import Floats, Geometry, Masks, PreparedImage, Scores, TextFeatures

_OVERLAP_MAX = 0.6
_SAME_OBJECT_IOU = 0.5
# Logistic curve from the first place's lead to the chance that it is right.
_LEAD_OFFSET, _LEAD_SLOPE, _LEAD_MAX = -0.76, 78.8, 0.15
_FILLS_PHOTO = 0.75
_INSIDE = 0.85
_SAME_EXTENT = 0.9


def compute_geometry(masks: Masks) -> Geometry:
    """Centroids, edges, areas and overlaps of masks (N, h, w)."""
    count, height, width = masks.shape
    if count == 0:
        none, square = np.zeros(0, dtype=np.float32), np.zeros((0, 0), dtype=np.float32)
        return Geometry(none, none, none, none, none, square, square)
    # Overlaps of pairs are measured at about 256 x 256.
    step = max(1, round((height * width / 65_536) ** 0.5))
    flat = masks[:, ::step, ::step].reshape(count, -1).astype(np.float32)
    shared = flat @ flat.T
    small = np.maximum(flat.sum(axis=1), 1)
    rows, columns = masks.sum(axis=2), masks.sum(axis=1)
    areas = rows.sum(axis=1)
    filled = rows > 0
    return Geometry(
        center_x=_f32((columns @ (np.arange(width) + 0.5)) / areas / width),
        center_y=_f32((rows @ (np.arange(height) + 0.5)) / areas / height),
        top=_f32(filled.argmax(axis=1) / height),
        bottom=_f32(1 - filled[:, ::-1].argmax(axis=1) / height),
        area=_f32(areas / (height * width)),
        containment=_f32(shared / small[:, None]),
        iou=_f32(shared / np.maximum(small[:, None] + small[None] - shared, 1)),
    )


def _f32(values: NDArray[np.generic]) -> Floats:
    return np.asarray(values, dtype=np.float32)


def normalise_rows(features: Floats) -> Floats:
    """Unit length along the last axis; zero vectors stay zero."""
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return _f32(features / np.maximum(norms, 1e-12))


def mix(first: Floats, second: Floats, first_weight: float, *, normalise_first: bool) -> Floats:
    """Unit vectors of a weighted sum along the last axis.

    Args:
        normalise_first: bring both to unit length before mixing; the published code mixes them
            as they are.
    """
    if normalise_first:
        first, second = normalise_rows(first), normalise_rows(second)
    return normalise_rows(first_weight * first + (1 - first_weight) * second)


def compute_scores(
    prepared: PreparedImage,
    text: TextFeatures,
    parsed: ParsedExpression,
    config: ScoringConfig,
) -> Scores:
    """Score every proposal of a prepared photo against one expression."""
    features, proposals, geometry = prepared.features, prepared.proposals, prepared.geometry
    visual = mix(
        features.global_context,
        features.local_context,
        config.visual_global_weight,
        normalise_first=config.normalise_first,
    )
    terms = {
        "appearance": _appearance(visual, text, geometry, config),
        "area": _f32(config.area_weight * np.log10(np.maximum(geometry.area, 1e-6))),
        "consensus": _f32(config.consensus_weight * proposals.consensus),
        "level": _f32(config.level_weight * proposals.level),
        "place": _f32(config.place_weight * _place(parsed.sides, geometry)),
    }
    prior = terms["area"] + terms["consensus"] + terms["level"]
    anchor = None
    if text.anchor is not None and len(visual):
        anchor = int(np.argmax(visual @ normalise_rows(text.anchor) + prior))
    named = terms["appearance"] + prior
    if parsed.names_person:
        terms["person"] = _yield_to_whole(named, geometry, config.person_part_margin)
        named = named + terms["person"]
    terms["comparison"] = _compare(named, geometry, parsed, anchor, config)
    total = _f32(np.sum(list(terms.values()), axis=0))
    return Scores(total=total, terms=terms, order=np.argsort(-total, kind="stable"))


def _appearance(
    visual: Floats, text: TextFeatures, geometry: Geometry, config: ScoringConfig
) -> Floats:
    """Cosine to the expression; without a noun, how much each proposal looks like a thing."""
    if text.things is None or text.stuff is None:
        wanted = mix(
            text.sentence,
            text.phrase,
            config.text_global_weight,
            normalise_first=config.normalise_first,
        )
        return _f32(visual @ wanted)
    thing = _soft_maximum(visual @ normalise_rows(text.things).T, config.thing_softness)
    stuff = _soft_maximum(visual @ normalise_rows(text.stuff).T, config.thing_softness)
    size = config.unnamed_area_weight * np.log10(np.maximum(geometry.area, 1e-6))
    # What fills the photo is its background, whatever it looks like.
    return _f32(config.thing_weight * (thing - stuff) + size - (geometry.area > _FILLS_PHOTO))


def _yield_to_whole(scores: Floats, geometry: Geometry, margin: float) -> Floats:
    """A face or a jacket looks as much like "woman" as she does: what lies within a mask that
    scores nearly as well steps back behind it."""
    smaller = geometry.area[:, None] < _SAME_EXTENT * geometry.area[None]
    holds = (geometry.containment > _INSIDE) & smaller & (geometry.area[None] < _FILLS_PHOTO)
    nearly = scores[None] >= scores[:, None] - margin
    return _f32(np.where((holds & nearly).any(axis=1), -margin, 0.0))


def _soft_maximum(values: NDArray[np.floating], softness: float) -> Floats:
    """Log-sum-exp along the last axis, in the units of the values."""
    best = values.max(axis=-1)
    spread = np.exp((values - best[..., None]) / softness).sum(axis=-1)
    return np.asarray(best + softness * np.log(spread), dtype=np.float32)


def _place(sides: tuple[Side, ...], geometry: Geometry) -> Floats:
    """-1 to 1: how well each proposal lies where the words say; 0 without such words."""
    if not sides:
        return np.zeros_like(geometry.area)
    return _f32(np.mean([_place_on_side(side, geometry) for side in sides], axis=0))


def _place_on_side(side: Side, geometry: Geometry) -> Floats:
    if side == "middle":
        off_center = np.hypot(geometry.center_x - 0.5, geometry.center_y - 0.5)
        return _f32(1 - 2 * off_center)
    return _f32(2 * _toward(side, geometry) - 1)


def _toward(side: Side, geometry: Geometry) -> Floats:
    """0 to 1, growing toward a side. Nearer things reach further down in a photo."""
    return {
        "left": 1 - geometry.center_x,
        "right": geometry.center_x,
        "top": 1 - geometry.center_y,
        "bottom": geometry.center_y,
        "front": geometry.bottom,
        "back": 1 - geometry.bottom,
    }[side]


def compute_confidence(scores: Scores, geometry: Geometry) -> float | None:
    """How sure the first place is, 0 to 1; None without any proposal.

    From its lead over the best proposal that is another object (IoU below 0.5) alone: how high a
    score is says little about whether it is right. The curve was fitted to 153 expressions on
    49 photos, with the starter encoder.
    """
    if len(scores.order) == 0:
        return None
    first = scores.order[0]
    others = geometry.iou[first] < _SAME_OBJECT_IOU
    lead = scores.total[first] - scores.total[others].max() if others.any() else np.inf
    return float(1 / (1 + np.exp(-(_LEAD_OFFSET + _LEAD_SLOPE * min(float(lead), _LEAD_MAX)))))


def find_instances(scores: Floats, geometry: Geometry, margin: float) -> NDArray[np.intp]:
    """Proposals that stand for separate objects of the same noun, best first.

    Taken greedily while the score stays within ``margin`` of the best; one that mostly lies in
    another, or holds it, is the same object.
    """
    order = np.argsort(-scores, kind="stable")
    chosen: list[int] = []
    inside = geometry.containment
    for index in order:
        if scores[index] < scores[order[0]] - margin:
            break
        if all(inside[index, j] < _OVERLAP_MAX and inside[j, index] < _OVERLAP_MAX for j in chosen):
            chosen.append(int(index))
    return np.asarray(chosen, dtype=np.intp)


def _compare(
    named: Floats,
    geometry: Geometry,
    parsed: ParsedExpression,
    anchor: int | None,
    config: ScoringConfig,
) -> Floats:
    """Bonus for being the leftmost, second from the left, largest, nearest to the anchor, ..."""
    bonus = np.zeros_like(named)
    wanted = parsed.sides or parsed.ordinal or parsed.size or anchor is not None
    if not wanted or len(named) == 0:
        return bonus
    candidates = find_instances(named, geometry, config.instance_margin)
    if anchor is not None:
        candidates = candidates[geometry.iou[candidates, anchor] < _SAME_OBJECT_IOU]
    if len(candidates) < 2:
        return bonus
    say = np.exp((named[candidates] - named[candidates].max()) / config.instance_softness)
    gains = np.zeros(len(candidates))
    for side in parsed.sides:
        along = _side_among(side, geometry, candidates)
        gains += config.side_weight / len(parsed.sides) * _share_surpassed(along, say)
    if parsed.size:
        sizes = parsed.size * np.log(geometry.area[candidates])
        gains += config.size_weight * _share_surpassed(sizes, say)
    if parsed.ordinal is not None:
        along = _toward(parsed.ordinal.start, geometry)[candidates]
        ranks = 1 + ((along[None] > along[:, None]) * say[None]).sum(axis=1)
        gains += config.ordinal_weight * np.clip(1 - np.abs(ranks - parsed.ordinal.rank), 0, 1)
    if anchor is not None and parsed.relation is not None:
        fit = _relation_fit(parsed.relation.kind, geometry, candidates, anchor)
        gains += config.relation_weight * _share_surpassed(fit, say)
    for candidate, gain in zip(candidates, gains, strict=True):
        # Other masks of the same object share the gain, so that the order among them stays.
        overlap = geometry.iou[candidate]
        same = overlap > _SAME_OBJECT_IOU
        bonus[same] = np.maximum(bonus[same], gain * overlap[same])
    return bonus


def _side_among(side: Side, geometry: Geometry, candidates: NDArray[np.intp]) -> Floats:
    if side == "middle":
        x, y = geometry.center_x[candidates], geometry.center_y[candidates]
        return _f32(-np.hypot(x - x.mean(), y - y.mean()))
    return _toward(side, geometry)[candidates]


def _share_surpassed(
    values: NDArray[np.floating], say: NDArray[np.floating]
) -> NDArray[np.floating]:
    """0 to 1: of the others, weighted by their say, the share each surpasses. A doubtful
    instance that lies further left than the rest hardly takes the place of the leftmost."""
    surpassed = (values[:, None] > values[None]) * say[None]
    others = say.sum() - say
    return np.asarray(surpassed.sum(axis=1) / np.maximum(others, say.max()))


def _relation_fit(
    kind: str, geometry: Geometry, candidates: NDArray[np.intp], anchor: int
) -> Floats:
    """Grows with how well each candidate stands in the relation to the anchor."""
    dx = geometry.center_x[candidates] - geometry.center_x[anchor]
    dy = geometry.center_y[candidates] - geometry.center_y[anchor]
    near = -np.hypot(dx, dy)
    directed = {
        "left_of": -np.sign(dx),
        "right_of": np.sign(dx),
        "above": -np.sign(dy),
        "below": np.sign(dy),
        "on": -np.sign(dy),
        "behind": np.sign(geometry.bottom[anchor] - geometry.bottom[candidates]),
        "in_front_of": np.sign(geometry.bottom[candidates] - geometry.bottom[anchor]),
        "in": geometry.containment[candidates, anchor],
    }.get(kind, np.zeros_like(dx))
    # The direction decides; among those on the right side, the nearer.
    return _f32(2 * directed + near)
