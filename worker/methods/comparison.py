"""The comparison term: the leftmost, second from the left, largest, nearest to the anchor, ...

Such words compare objects of the same noun with each other, so they are resolved among the
proposals that score nearly as well as the best and do not overlap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.config import ScoringConfig
from worker.language import ParsedExpression, Side
from worker.methods.features import to_float32
from worker.stages import Floats, Geometry


def compute_comparison(
    named: Floats,
    geometry: Geometry,
    expression: ParsedExpression,
    anchor: int | None,
    config: ScoringConfig,
) -> Floats:
    """Return the bonus (N,) of each proposal.

    Args:
        named: (N,) scores for the noun alone.
        geometry: of the N proposals.
        expression: its words of place, order, size and relation.
        anchor: index of the proposal to which the referent is related, or None.
        config: weights.
    """
    bonus = np.zeros_like(named)
    if len(named) == 0 or not (expression.has_spatial_words or anchor is not None):
        return bonus
    instances = find_instances(named, geometry, config)
    if anchor is not None:
        instances = instances[geometry.iou[instances, anchor] < config.same_object_iou]
    if len(instances) < 2:
        return bonus
    weights = np.exp((named[instances] - named[instances].max()) / config.instance_softness)
    gains = _compute_gains(instances, weights, geometry, expression, anchor, config)
    for instance, gain in zip(instances, gains, strict=True):
        # Other masks of the same object share the gain, so that the order among them stays.
        overlap = geometry.iou[instance]
        same = overlap > config.same_object_iou
        bonus[same] = np.maximum(bonus[same], gain * overlap[same])
    return bonus


def find_instances(scores: Floats, geometry: Geometry, config: ScoringConfig) -> NDArray[np.intp]:
    """Return the indices of proposals that are separate objects of the same noun, best first.

    They are taken greedily while the score stays within ``instance_margin`` of the best; one that
    mostly lies in another, or holds it, is the same object.
    """
    order = np.argsort(-scores, kind="stable")
    instances: list[int] = []
    inside, limit = geometry.containment, config.instance_overlap_max
    for index in order:
        if scores[index] < scores[order[0]] - config.instance_margin:
            break
        if geometry.area[index] > config.instance_area_max:
            continue
        if all(inside[index, j] < limit and inside[j, index] < limit for j in instances):
            instances.append(int(index))
    return np.asarray(instances, dtype=np.intp)


def toward(side: Side, geometry: Geometry) -> Floats:
    """Return (N,) values from 0 to 1 that grow toward a side, which is not the middle.

    Nearer objects reach further down in an image.
    """
    return {
        "left": 1 - geometry.center_x,
        "right": geometry.center_x,
        "top": 1 - geometry.center_y,
        "bottom": geometry.center_y,
        "front": geometry.bottom,
        "back": 1 - geometry.bottom,
    }[side]


def _compute_gains(
    instances: NDArray[np.intp],
    weights: NDArray[np.floating],
    geometry: Geometry,
    expression: ParsedExpression,
    anchor: int | None,
    config: ScoringConfig,
) -> NDArray[np.floating]:
    """The sum of the gains (I,) of each instance from all comparing words."""
    gains = np.zeros(len(instances))
    for side in expression.sides:
        along = _along_side(side, geometry, instances)
        gains += config.side_weight / len(expression.sides) * _share_surpassed(along, weights)
    if expression.size:
        sizes = expression.size * np.log(geometry.area[instances])
        gains += config.size_weight * _share_surpassed(sizes, weights)
    if expression.ordinal is not None:
        along = toward(expression.ordinal.start, geometry)[instances]
        ranks = 1 + ((along[None] > along[:, None]) * weights[None]).sum(axis=1)
        distance = np.abs(ranks - expression.ordinal.rank)
        gains += config.ordinal_weight * np.clip(1 - distance, 0, 1)
    if anchor is not None and expression.relation is not None:
        fit = _relation_fit(expression.relation.kind, geometry, instances, anchor)
        gains += config.relation_weight * _share_surpassed(fit, weights)
    return gains


def _along_side(side: Side, geometry: Geometry, instances: NDArray[np.intp]) -> Floats:
    if side == "middle":
        x, y = geometry.center_x[instances], geometry.center_y[instances]
        return to_float32(-np.hypot(x - x.mean(), y - y.mean()))
    return toward(side, geometry)[instances]


def _share_surpassed(
    values: NDArray[np.floating], weights: NDArray[np.floating]
) -> NDArray[np.floating]:
    """The weighted share, 0 to 1, of the other instances that each surpasses.

    So a doubtful instance that lies further left than the rest hardly replaces the leftmost.
    """
    surpassed = (values[:, None] > values[None]) * weights[None]
    others = weights.sum() - weights
    return np.asarray(surpassed.sum(axis=1) / np.maximum(others, weights.max()))


def _relation_fit(
    kind: str, geometry: Geometry, instances: NDArray[np.intp], anchor: int
) -> Floats:
    """Values that grow with how well each instance stands in the relation to the anchor."""
    dx = geometry.center_x[instances] - geometry.center_x[anchor]
    dy = geometry.center_y[instances] - geometry.center_y[anchor]
    nearness = -np.hypot(dx, dy)
    directed = {
        "left_of": -np.sign(dx),
        "right_of": np.sign(dx),
        "above": -np.sign(dy),
        "below": np.sign(dy),
        "on": -np.sign(dy),
        "behind": np.sign(geometry.bottom[anchor] - geometry.bottom[instances]),
        "in_front_of": np.sign(geometry.bottom[instances] - geometry.bottom[anchor]),
        "in": geometry.containment[instances, anchor],
    }.get(kind, np.zeros_like(dx))
    # The direction decides; among those on the right side, the nearer.
    return to_float32(2 * directed + nearness)
