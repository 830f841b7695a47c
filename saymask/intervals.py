"""Bootstrap intervals of means and ratios over expressions, drawn by image.

Expressions about one image are not independent, so whole images are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

_BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return mean and interval with three decimals."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(values: Values, images: Counts, seed: int = 0) -> Interval:
    """Return the interval of a mean over expressions, drawing whole images: theirs go together.

    Args:
        values: (E,) one number per expression; NaN where it does not apply.
        images: (E,) which image each belongs to.
        seed: of the draws.
    """
    applies = ~np.isnan(values)
    return bootstrap_ratio(np.where(applies, values, 0.0), applies.astype(float), images, seed)


def bootstrap_ratio(above: Values, below: Values, images: Counts, seed: int = 0) -> Interval:
    """Return the interval of ``sum(above) / sum(below)``, drawing whole images.

    oIoU is such a ratio. The draws depend only on the images and the seed, so two results on the
    same images are paired.
    """
    if len(images) == 0:
        return Interval(0.0, 0.0, 0.0)
    names, group = np.unique(images, return_inverse=True)
    tops = np.bincount(group, weights=above, minlength=len(names))
    bottoms = np.bincount(group, weights=below, minlength=len(names))
    draws = np.random.default_rng(seed).integers(0, len(names), (_BOOTSTRAP_SAMPLES, len(names)))
    ratios = tops[draws].sum(axis=1) / np.maximum(bottoms[draws].sum(axis=1), 1e-12)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Interval(float(tops.sum() / max(bottoms.sum(), 1e-12)), float(low), float(high))


def bootstrap_difference(first: Values, second: Values, images: Counts, seed: int = 0) -> Interval:
    """Return the interval of the mean paired difference ``first - second`` per expression."""
    return bootstrap_mean(first - second, images, seed)
