"""From scores to the probability of being the referent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.types import Floats, Geometry, Scores


def compute_probabilities(
    scores: Scores, geometry: Geometry, config: ScoringConfig, chosen: Sequence[int]
) -> Floats:
    """Return the probability, 0 to 1, that each of n chosen proposals is the referent: (n,).

    It depends on the lead over the best proposal that is another object, and on whether the image
    shows such a thing at all: the score itself says little about whether rank 1 is right. That of
    a proposal further down, which trails, is read from the same curve; it is never above that of
    a proposal before it.

    Args:
        scores: of all proposals.
        geometry: of the same.
        config: with the curve.
        chosen: indices of proposals, best first.
    """
    leads = np.array([compute_lead(scores, geometry, config, index) for index in chosen])
    logits = config.lead_offset + config.lead_slope * leads
    is_right = np.minimum.accumulate(1 / (1 + np.exp(-logits)))
    return np.asarray(is_right * compute_presence_probability(scores, config), dtype=np.float32)


def compute_presence_probability(scores: Scores, config: ScoringConfig) -> float:
    """Return the probability, 0 to 1, that the image shows what the noun names; 1 if unknown."""
    if scores.presence is None:
        return 1.0
    logit = config.presence_offset + config.presence_slope * scores.presence
    return float(1 / (1 + np.exp(-logit)))


def compute_lead(scores: Scores, geometry: Geometry, config: ScoringConfig, index: int) -> float:
    """Return how far a proposal is ahead of the best other object, nats; negative if it trails."""
    others = geometry.iou[index] < config.same_object_iou
    lead = scores.total[index] - scores.total[others].max() if others.any() else np.inf
    return float(np.clip(lead, -config.lead_max, config.lead_max))
