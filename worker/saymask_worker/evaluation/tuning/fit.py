"""Fitting how much each term of the score counts: pure functions of what was observed.

A score is a sum of terms, so the probability of a proposal among all of an image is a softmax of
it, and how much each term should count follows by maximum likelihood, as in conditional logit
models (McFadden, 1974). The weights in use are the prior mean: with few observations they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.types import Floats

# A term of the score to the weights that scale it. The appearance sets the scale of the others.
TERM_WEIGHTS: dict[str, tuple[str, ...]] = {
    "negatives": ("negatives_weight",),
    "thing": ("thing_weight",),
    "coherence": ("coherence_weight",),
    "area": ("area_weight",),
    "consensus": ("consensus_weight",),
    "level": ("level_weight",),
    "pair": ("pair_weight",),
    "excluded": ("excluded_weight",),
    "place": ("place_weight",),
    "comparison": (
        "side_weight", "row_weight", "ordinal_weight", "size_weight", "relation_weight",
    ),
}  # fmt: skip
TERMS = tuple(TERM_WEIGHTS)
# Standard deviation of the prior on the logarithm of a factor: about two thirds to one and a half.
_PRIOR_DEVIATION = 0.4
_FACTOR_MAX = 4.0
# Three digits say all that a few hundred decisions can.
_DIGITS = 3

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """One expression about an image of N proposals, at least one of which is right.

    Attributes:
        fixed: (N,) the part of the score that no factor scales.
        terms: (T, N) the terms of ``TERMS``.
        is_right: (N,) whether a proposal is an answer to it.
    """

    fixed: Floats
    terms: Floats
    is_right: NDArray[np.bool_]


def observe(terms: Mapping[str, Floats], is_right: NDArray[np.bool_]) -> Observation:
    """Split the terms of one score by whether a factor scales them."""
    none = np.zeros(len(is_right), dtype=np.float32)
    scaled = np.stack([terms.get(name, none) for name in TERMS])
    fixed = np.sum([row for name, row in terms.items() if name not in TERMS], axis=0)
    return Observation(np.asarray(fixed + none, dtype=np.float32), scaled, is_right)


def fit_factors(observations: Sequence[Observation]) -> dict[str, float]:
    """Return by which factor each term should count more; with no observation, 1."""

    def loss(parameters: Vector) -> tuple[float, Vector]:
        log_factors, log_scale = parameters[:-1], parameters[-1]
        factors, scale = np.exp(log_factors), np.exp(log_scale)
        total = float(np.sum(log_factors**2) / (2 * _PRIOR_DEVIATION**2) + log_scale**2 / 2)
        gradient = np.append(log_factors / _PRIOR_DEVIATION**2, log_scale)
        for seen in observations:
            value, slope = _compute_surprise(seen, factors, float(scale))
            total += value
            gradient += slope
        return total, gradient

    limit = np.log(_FACTOR_MAX)
    bounds = [(-limit, limit)] * len(TERMS) + [(-3.0, 3.0)]
    start = np.zeros(len(TERMS) + 1)
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return dict(zip(TERMS, np.exp(fitted.x[:-1]).tolist(), strict=True))


def _compute_surprise(seen: Observation, factors: Vector, scale: float) -> tuple[float, Vector]:
    """Minus the log-probability of a right proposal, and its slope in the logarithms."""
    scaled = factors[:, None] * seen.terms
    score = seen.fixed + scaled.sum(axis=0)
    logits = scale * score
    all_of = np.exp(logits - logits.max())
    right = all_of * seen.is_right
    everywhere, among_right = all_of / all_of.sum(), right / max(right.sum(), 1e-300)
    shift = everywhere - among_right
    slope = np.append(scale * (scaled @ shift), scale * float(score @ shift))
    return float(np.log(all_of.sum()) - np.log(max(right.sum(), 1e-300))), slope


def apply_factors(config: ScoringConfig, factors: Mapping[str, float]) -> ScoringConfig:
    """Return a configuration whose weights are scaled."""
    changes: dict[str, Any] = {
        weight: float(f"{getattr(config, weight) * factor:.{_DIGITS}g}")
        for name, factor in factors.items()
        for weight in TERM_WEIGHTS[name]
    }
    return replace(config, **changes)
