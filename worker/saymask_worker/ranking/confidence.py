"""From scores to the probability of being the referent, by logistic curves (Platt, 1999)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.types import Floats, Geometry, Scores

# Weak pull of the slope to 0, so that a few outcomes that can be separated give a finite slope.
_SLOPE_PENALTY = 1e-3


@dataclass(frozen=True)
class Curve:
    """``1 / (1 + exp(-(offset + slope * value)))``."""

    offset: float
    slope: float

    def apply(self, value: float) -> float:
        """Return the probability, 0 to 1."""
        return float(expit(self.offset + self.slope * value))


def fit_curve(values: Sequence[float], is_right: Sequence[bool]) -> Curve:
    """Fit a curve by maximum likelihood, to targets that stay clear of 0 and 1 as in Platt.

    A falling curve is not fitted: where higher values are right less often, it is flat.

    Args:
        values: one number per outcome.
        is_right: whether each outcome was right.
    """
    x, right = np.asarray(values, dtype=float), np.asarray(is_right, dtype=bool)
    positives, negatives = int(right.sum()), int((~right).sum())
    target = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: NDArray[np.float64]) -> float:
        offset, slope = parameters
        logits = offset + slope * x
        # log(1 + exp(z)) - target * z, without overflow.
        return float(np.sum(np.logaddexp(0, logits) - target * logits) + _SLOPE_PENALTY * slope**2)

    start = np.array([np.log((positives + 1) / (negatives + 1)), 0.0])
    fitted = minimize(loss, start, method="L-BFGS-B", bounds=[(None, None), (0.0, None)])
    return Curve(float(fitted.x[0]), float(fitted.x[1]))


def compute_probabilities(
    scores: Scores, geometry: Geometry, config: ScoringConfig, chosen: Sequence[int]
) -> Floats:
    """Return the probability, 0 to 1, that each of n chosen proposals is the referent: (n,).

    It depends on the lead over the best proposal of another object, and on whether the image
    shows such a thing at all; the score itself says little about whether rank 1 is right. A
    proposal further down, which trails, is read from the same curve and is never more probable
    than one before it.

    Args:
        scores: of all proposals.
        geometry: of the same.
        config: with the curve.
        chosen: indices of proposals, best first.
    """
    leads = np.array([compute_lead(scores, geometry, config, index) for index in chosen])
    is_right = np.minimum.accumulate(expit(config.lead_offset + config.lead_slope * leads))
    return np.asarray(is_right * compute_presence_probability(scores, config), dtype=np.float32)


def compute_presence_probability(scores: Scores, config: ScoringConfig) -> float:
    """Return the probability, 0 to 1, that the image shows what the noun names; 1 if unknown."""
    if scores.presence is None:
        return 1.0
    return Curve(config.presence_offset, config.presence_slope).apply(scores.presence)


def compute_lead(scores: Scores, geometry: Geometry, config: ScoringConfig, index: int) -> float:
    """Return how far a proposal is ahead of the best other object, nats; negative if it trails."""
    others = geometry.iou[index] < config.same_object_iou
    lead = scores.total[index] - scores.total[others].max() if others.any() else np.inf
    return float(np.clip(lead, -config.lead_max, config.lead_max))
