"""From features to an order. Pure functions of arrays; every term can be read and switched off.

The appearance term is Global-Local CLIP's (CVPR 2023, section 3.1). The others are priors on
what expressions say outright, added in units of cosine similarity: a whole rather than its
part, a place in the photo, and comparisons among objects of the same noun.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.config import ScoringConfig
from worker.language import ParsedExpression, Side
from worker.stages import Floats, Geometry, Masks, Scores, TextFeatures, VisualFeatures

_OVERLAP_MAX = 0.6
_SAME_OBJECT_IOU = 0.5


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
    features: VisualFeatures,
    text: TextFeatures,
    geometry: Geometry,
    parsed: ParsedExpression,
    config: ScoringConfig,
) -> Scores:
    """Score every proposal against one expression."""
    visual = mix(
        features.global_context,
        features.local_context,
        config.visual_global_weight,
        normalise_first=config.normalise_first,
    )
    wanted = mix(
        text.sentence,
        text.phrase,
        config.text_global_weight,
        normalise_first=config.normalise_first,
    )
    appearance = _f32(visual @ wanted)
    terms = {
        "appearance": appearance,
        "area": _f32(config.area_weight * np.log10(np.maximum(geometry.area, 1e-6))),
        "place": _f32(config.place_weight * _place(parsed.sides, geometry)),
    }
    named = terms["appearance"] + terms["area"]
    anchor = None
    if text.anchor is not None and len(visual):
        anchor = int(np.argmax(visual @ normalise_rows(text.anchor) + terms["area"]))
    terms["comparison"] = _compare(named, geometry, parsed, anchor, config)
    total = _f32(np.sum(list(terms.values()), axis=0))
    return Scores(total=total, terms=terms, order=np.argsort(-total, kind="stable"))


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
    gains = np.zeros(len(candidates), dtype=np.float32)
    for side in parsed.sides:
        along = _side_among(side, geometry, candidates)
        gains += config.side_weight / len(parsed.sides) * _spread(along)
    if parsed.size:
        gains += config.size_weight * _spread(parsed.size * np.log(geometry.area[candidates]))
    if parsed.ordinal is not None and parsed.ordinal.rank <= len(candidates):
        in_order = np.argsort(-_toward(parsed.ordinal.start, geometry)[candidates], kind="stable")
        gains[in_order[parsed.ordinal.rank - 1]] += config.ordinal_weight
    if anchor is not None and parsed.relation is not None:
        fit = _relation_fit(parsed.relation.kind, geometry, candidates, anchor)
        gains += config.relation_weight * _spread(fit)
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


def _spread(values: NDArray[np.floating]) -> Floats:
    """0 for the least, 1 for the most."""
    width = float(np.ptp(values))
    return _f32((values - values.min()) / width) if width > 1e-9 else np.zeros_like(values)


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
