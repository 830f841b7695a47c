"""Metrics of referring segmentation, as pure functions of counts of pixels.

Answer and target of one expression give an intersection and a union in pixels; everything else
follows. oIoU, mIoU and P@X as in LAVT and CRIS; empty targets as in gRefCOCO (Liu et al., "GRES",
CVPR 2023); MC-Acc and CC-oIoU as in Yu et al. (CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from saymask.intervals import Counts, Values
from saymask.masks import Mask, compute_ious

EmptyTargets = Literal["one", "zero", "skip"]

ErrorKind = Literal[
    "right", "no proposal", "part", "too much", "wrong one of the same noun", "wrong noun",
    "no target",
]  # fmt: skip
KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)

HIT_IOU = 0.5
# The share of the smaller of two masks inside the other from which it counts as its part.
_INSIDE = 0.7
PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Pixels:
    """Counts of pixels, one per expression.

    Attributes:
        intersection: (E,) int64, of answer and target.
        union: (E,) int64, of answer and target.
        target: (E,) int64, the target's area.
    """

    intersection: Counts
    union: Counts
    target: Counts


@dataclass(frozen=True)
class Summary:
    """Shares, 0 to 1, over ``count`` expressions.

    Attributes:
        oiou: sum of intersections over sum of unions.
        precision: X to P@X.
    """

    count: int
    oiou: float
    miou: float
    precision: dict[float, float]


def count_pixels(answer: Mask, target: Mask) -> tuple[int, int]:
    """Return intersection and union of two masks (H, W), pixels."""
    return int((answer & target).sum()), int((answer | target).sum())


def compute_expression_ious(pixels: Pixels, empty: EmptyTargets) -> Values:
    """Return the IoU per expression (E,); with ``skip``, only of expressions that have a target.

    Args:
        pixels: of E expressions.
        empty: an empty answer to an empty target is worth ``one`` (GRES) or ``zero`` (CRIS);
            any other answer to it is worth 0.
    """
    kept = pixels.target > 0 if empty == "skip" else np.ones(len(pixels.union), dtype=bool)
    intersection, union = pixels.intersection[kept], pixels.union[kept]
    both_empty = 1.0 if empty == "one" else 0.0
    return np.where(union > 0, intersection / np.maximum(union, 1), both_empty)


def compute_oiou(pixels: Pixels, empty: EmptyTargets) -> float:
    """Return sum of intersections over sum of unions.

    An answer to an empty target adds to the union.
    """
    kept = pixels.target > 0 if empty == "skip" else np.ones(len(pixels.union), dtype=bool)
    total = int(pixels.union[kept].sum())
    return float(pixels.intersection[kept].sum() / total) if total else 0.0


def compute_precision(ious: Values, threshold: float, *, strict: bool) -> float:
    """Return the share of expressions with IoU above the threshold: ``>`` (CRIS) or ``>=`` (LAVT).

    Exact: a quotient of whole numbers and the threshold's literal round to the same float64.
    """
    if len(ious) == 0:
        return 0.0
    return float((ious > threshold if strict else ious >= threshold).mean())


def compute_summary(pixels: Pixels, *, strict: bool = True, empty: EmptyTargets = "one") -> Summary:
    """Return oIoU, mIoU and P@.5 to P@.9."""
    ious = compute_expression_ious(pixels, empty)
    return Summary(
        count=len(ious),
        oiou=compute_oiou(pixels, empty),
        miou=float(ious.mean()) if len(ious) else 0.0,
        precision={x: compute_precision(ious, x, strict=strict) for x in PRECISION_AT},
    )


def compute_no_target_accuracy(
    has_target: NDArray[np.bool_], answered: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """Return N-acc and T-acc of gRefCOCO; None where there is no such expression.

    N-acc is the share of no-target expressions left unanswered, T-acc of expressions with a
    target that were answered.
    """
    n_acc = float((~answered[~has_target]).mean()) if (~has_target).any() else None
    t_acc = float(answered[has_target].mean()) if has_target.any() else None
    return n_acc, t_acc


def classify_answer(
    answer: Mask | None,
    target: Mask,
    category: str | None,
    instances: Sequence[tuple[str, Mask]],
    oracle_iou: float,
) -> ErrorKind:
    """Return the kind of error of one answer.

    Args:
        answer: the first mask, or None when there is none.
        target: ground truth; empty when nothing is meant.
        category: of the target.
        instances: category and mask of every annotated object of the image.
        oracle_iou: the best IoU any proposal reaches.

    Returns:
        ``right`` above IoU 0.5, else the first that holds: no proposal above 0.5; the answer is
        part of the target; the target is part of the answer; the answer lies on another object of
        the same category; anything else is the wrong noun. ``no target`` for an empty target.
    """
    if not target.any():
        return "no target"
    if answer is None or not answer.any():
        return "no proposal"
    shared = int((answer & target).sum())
    answer_px, target_px = int(answer.sum()), int(target.sum())
    if shared / (answer_px + target_px - shared) > HIT_IOU:
        return "right"
    if oracle_iou <= HIT_IOU:
        return "no proposal"
    if shared / answer_px >= _INSIDE:
        return "part"
    if shared / target_px >= _INSIDE:
        return "too much"
    if category is not None and find_category(answer, instances) == category:
        return "wrong one of the same noun"
    return "wrong noun"


def find_category(answer: Mask, instances: Sequence[tuple[str, Mask]]) -> str | None:
    """Return the category of the annotated object that the answer mostly lies on.

    The object whose IoU with the answer is largest; among objects that hold the whole answer
    that is the smallest. None when the answer touches none.
    """
    if not instances:
        return None
    ious = compute_ious(answer, np.stack([mask for _, mask in instances]))
    best = int(ious.argmax())
    return instances[best][0] if ious[best] > 0 else None
