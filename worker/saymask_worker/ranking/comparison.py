"""The comparison term: the leftmost, second from the left, largest, nearest to the anchor, ...

Such words compare objects of the same noun with each other, so they are resolved among the
proposals that score nearly as well as the best and do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.types import Floats, Geometry, to_float32
from saymask_worker.language import ParsedExpression, RelationKind, Side, Size

_TINY = 1e-6


@dataclass(frozen=True)
class Anchors:
    """The anchors of a relation, as indices of proposals: one, or two for "between"."""

    kind: RelationKind
    indices: tuple[int, ...]


def compute_comparison(
    noun_scores: Floats,
    geometry: Geometry,
    expression: ParsedExpression,
    anchors: Sequence[Anchors],
    config: ScoringConfig,
) -> Floats:
    """Return the bonus (N,) of each proposal.

    Args:
        noun_scores: (N,) for the noun alone.
        geometry: of the N proposals.
        expression: with words of place, order, size and relation.
        anchors: of each relation; non-spatial ones ("holding") do not count here.
        config: weights.
    """
    bonus = np.zeros_like(noun_scores)
    anchors = [found for found in anchors if found.kind != "with"]
    if len(noun_scores) == 0 or not (expression.has_spatial_words or anchors):
        return bonus
    instances = find_instances(noun_scores, geometry, config)
    for index in (index for found in anchors for index in found.indices):
        instances = instances[geometry.iou[instances, index] < config.same_object_iou]
    if len(instances) < 2:
        return bonus
    weights = np.exp(
        (noun_scores[instances] - noun_scores[instances].max()) / config.instance_softness
    )
    gains = _compute_gains(instances, weights, geometry, expression, anchors, config)
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
    anchors: Sequence[Anchors],
    config: ScoringConfig,
) -> NDArray[np.floating]:
    """The sum of the gains (I,) of each instance from all comparing words."""
    gains = np.zeros(len(instances))
    if expression.row is not None:
        in_row = find_row(expression.row, geometry, instances)
        gains += config.row_weight * in_row
        # Objects of other rows still count a little for sides and orders.
        weights = weights * np.where(in_row, 1, config.other_row_share)
    for side in expression.sides:
        along = _along_side(side, geometry, instances)
        gains += config.side_weight / len(expression.sides) * _share_surpassed(along, weights)
    if expression.size is not None:
        sizes = _measure(expression.size, geometry, instances)
        gains += config.size_weight * _share_surpassed(sizes, weights)
    if expression.ordinal is not None:
        size, start = expression.ordinal.size, expression.ordinal.start
        along = (
            toward(start, geometry)[instances]
            if size is None
            else _measure(size, geometry, instances)
        )
        ranks = 1 + ((along[None] > along[:, None]) * weights[None]).sum(axis=1)
        distance = np.abs(ranks - expression.ordinal.rank)
        gains += config.ordinal_weight * np.clip(1 - distance, 0, 1)
    for found in anchors:
        fit = _relation_fit(found, geometry, instances)
        gains += config.relation_weight / len(anchors) * _share_surpassed(fit, weights)
    return gains


def find_row(side: Side, geometry: Geometry, instances: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which instances (I,) are in the row of a side; nearer rows are lower.

    A new row begins where the next lower object's centre is more than half an object's height
    below the centre of the one before.
    """
    y = geometry.center_y[instances]
    height = float(np.median((geometry.bottom - geometry.top)[instances]))
    order = np.argsort(y, kind="stable")
    begins = np.diff(y[order], prepend=y[order[0]]) > height / 2
    rows = np.empty(len(y), dtype=np.intp)
    rows[order] = np.cumsum(begins)
    last = int(rows.max())
    wanted = {"top": 0, "back": 0, "middle": last // 2}.get(side, last)
    return np.asarray(rows == wanted)


def _measure(size: Size, geometry: Geometry, instances: NDArray[np.intp]) -> Floats:
    """Values (I,) that grow with what a word of size asks for."""
    height = (geometry.bottom - geometry.top)[instances]
    area = geometry.area[instances]
    # A mask's own width, not its box's: a leaning board is narrow.
    width = area / np.maximum(height, _TINY)
    measures: dict[Size, Floats] = {
        "large": np.log(area),
        "small": -np.log(area),
        "tall": height,
        "short": -height,
        "long": np.maximum(height, width),
        "wide": width,
        "narrow": -np.minimum(height, width),
    }
    return measures[size]


def _along_side(side: Side, geometry: Geometry, instances: NDArray[np.intp]) -> Floats:
    if side == "middle":
        x, y = geometry.center_x[instances], geometry.center_y[instances]
        return to_float32(-np.hypot(x - x.mean(), y - y.mean()))
    return toward(side, geometry)[instances]


def _share_surpassed(
    values: NDArray[np.floating], weights: NDArray[np.floating]
) -> NDArray[np.floating]:
    """The weighted share, 0 to 1, of the other instances that each surpasses.

    A doubtful instance further left than the rest therefore hardly replaces the leftmost.
    """
    surpassed = (values[:, None] > values[None]) * weights[None]
    others = weights.sum() - weights
    return np.asarray(surpassed.sum(axis=1) / np.maximum(others, weights.max()))


def _relation_fit(found: Anchors, geometry: Geometry, instances: NDArray[np.intp]) -> Floats:
    """Values that grow with how well each instance stands in the relation to its anchors."""
    anchor = found.indices[0]
    x, y = geometry.center_x[list(found.indices)].mean(), geometry.center_y[list(found.indices)]
    dx, dy = geometry.center_x[instances] - x, geometry.center_y[instances] - y.mean()
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
        # The distance itself, without the nearness that is added below.
        "far_from": -nearness,
    }.get(found.kind, np.zeros_like(dx))
    # The direction decides; among those on the right side, the nearer.
    return to_float32(2 * directed + nearness)
