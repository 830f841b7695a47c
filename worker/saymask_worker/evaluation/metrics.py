"""Metrics of referring segmentation, as pure functions of counts of pixels.

Answer and target of one expression give an intersection and a union in pixels; everything else
follows. oIoU, mIoU and P@X as in LAVT and CRIS; empty targets as in gRefCOCO (Liu et al., "GRES",
CVPR 2023); MC-Acc and CC-oIoU as in Yu et al. (CVPR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saymask.intervals import Counts, Values

EmptyTargets = Literal["one", "zero", "skip"]

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
        count: number of expressions.
        oiou: sum of intersections over sum of unions.
        miou: mean IoU.
        precision: X to P@X.
    """

    count: int
    oiou: float
    miou: float
    precision: dict[float, float]


def count_pixels(answer: NDArray[np.bool_], target: NDArray[np.bool_]) -> tuple[int, int]:
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
