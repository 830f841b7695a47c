"""What the pipeline does, as data. Its fingerprint is part of every cache key and model version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Self


def _fingerprint(config: Any) -> str:
    body = json.dumps(asdict(config), sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class ProposalsConfig:
    """How class-agnostic masks are made.

    Attributes:
        generator: ``mobile-sam``, ``sam-vit-b``, ``sam-vit-l``, ``sam-vit-h``.
        points_per_side: side of the regular grid of point prompts.
        predicted_iou_min, stability_min: a mask below either is dropped.
        duplicate_iou_max: of two masks that overlap more than this, the better one stays.
        min_area_share: masks smaller than this share of the photo are dropped.
        max_count: at most so many proposals, best first.
        box_rounds: how often the boxes of found masks are fed back as prompts, which turns
            parts into wholes.
    """

    generator: str = "mobile-sam"
    points_per_side: int = 24
    predicted_iou_min: float = 0.80
    stability_min: float = 0.88
    duplicate_iou_max: float = 0.85
    min_area_share: float = 0.0005
    max_count: int = 80
    box_rounds: int = 1


@dataclass(frozen=True)
class ScoringConfig:
    """How features become a score. Defaults suit the starter encoder.

    Attributes:
        visual_global_weight: the paper's alpha.
    """

    visual_global_weight: float = 0.0
