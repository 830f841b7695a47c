"""A logistic curve through a few outcomes: from one number to a probability (Platt, 1999)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

# Weak pull of the slope to 0, so that a few outcomes that can be separated give a finite slope.
_SLOPE_PENALTY = 1e-3


@dataclass(frozen=True)
class Curve:
    """``1 / (1 + exp(-(offset + slope * value)))``."""

    offset: float
    slope: float

    def apply(self, value: float) -> float:
        """Return the probability, 0 to 1."""
        return float(1 / (1 + np.exp(-(self.offset + self.slope * value))))


def fit_curve(values: Sequence[float], is_right: Sequence[bool]) -> Curve:
    """Fit a curve by maximum likelihood, to targets that stay clear of 0 and 1 as in Platt.

    A falling curve is not fitted: where higher values are right less often, it is flat.

    Args:
        values: one number per outcome.
        is_right: what came of each.
    """
    x, right = np.asarray(values, dtype=float), np.asarray(is_right, dtype=bool)
    positives, negatives = int(right.sum()), int((~right).sum())
    target = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        offset, slope = parameters
        logits = offset + slope * x
        # log(1 + exp(z)) - target * z, without overflow.
        return float(np.sum(np.logaddexp(0, logits) - target * logits) + _SLOPE_PENALTY * slope**2)

    start = np.array([np.log((positives + 1) / (negatives + 1)), 0.0])
    fitted = minimize(loss, start, method="L-BFGS-B", bounds=[(None, None), (0.0, None)])
    return Curve(float(fitted.x[0]), float(fitted.x[1]))
