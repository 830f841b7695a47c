"""From scores to the probability that rank 1 is right."""

from __future__ import annotations

import numpy as np

from worker.config import ScoringConfig
from worker.stages import Geometry, Scores


def compute_confidence(scores: Scores, geometry: Geometry, config: ScoringConfig) -> float | None:
    """Return the probability, 0 to 1, that rank 1 is the referent; None without any proposal.

    It depends only on the lead over the best proposal that is another object: the score itself
    says little about whether rank 1 is right.
    """
    if len(scores.order) == 0:
        return None
    first = scores.order[0]
    others = geometry.iou[first] < config.same_object_iou
    lead = scores.total[first] - scores.total[others].max() if others.any() else np.inf
    logit = config.lead_offset + config.lead_slope * min(float(lead), config.lead_max)
    return float(1 / (1 + np.exp(-logit)))
