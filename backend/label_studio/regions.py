"""From masks and expressions to what Label Studio draws."""

from __future__ import annotations

from typing import Any

from backend.contract import Candidate, SegmentResult
from backend.label_studio.label_config import LabelConfig
from backend.masks import decode_coco_rle, encode_brush_rle

EMPTY_PREDICTION: dict[str, Any] = {"result": [], "score": 0.0}


def build_region_id(request_id: int, rank: int) -> str:
    """Region ids survive accept, edit and submit, so this is how a mask is found again."""
    return f"sm{request_id}_{rank}"


def to_prediction(result: SegmentResult, config: LabelConfig, request_id: int) -> dict[str, Any]:
    """One prediction with a brush region per candidate: Label Studio's editor takes only the
    first prediction of an interactive answer, so all candidates go into one. The editor draws
    later regions over earlier ones, so the best comes last."""
    regions: list[dict[str, Any]] = []
    for candidate in reversed(result.candidates):
        regions.extend(_to_regions(candidate, result, config, request_id))
    return {
        "result": regions,
        "score": result.candidates[0].score if result.candidates else 0.0,
        "model_version": result.model_version,
    }


def _to_regions(
    candidate: Candidate, result: SegmentResult, config: LabelConfig, request_id: int
) -> list[dict[str, Any]]:
    return build_region(
        config,
        region_id=build_region_id(request_id, candidate.rank),
        coco_rle=candidate.mask.as_dict(),
        label=config.label_for_rank(candidate.rank),
        expression=result.expression,
        score=candidate.score,
        meta=f"rank {candidate.rank}, score {candidate.score:.3f}",
    )


def build_region(
    config: LabelConfig,
    *,
    region_id: str,
    coco_rle: dict[str, Any],
    label: str,
    expression: str,
    score: float | None = None,
    meta: str | None = None,
) -> list[dict[str, Any]]:
    """A brush region and, where the project has a field for it, its expression.

    Args:
        coco_rle: mask of the photo's size.
        meta: shown in the region's details.
    """
    height, width = coco_rle["size"]
    frame = {
        "id": region_id,
        "to_name": config.image,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        # Without this the editor books suggestions as hand-made, and edits go unnoticed.
        "origin": "prediction",
    }
    brush: dict[str, Any] = {
        **frame,
        "from_name": config.mask,
        "type": "brushlabels",
        "value": {
            "format": "rle",
            "rle": encode_brush_rle(decode_coco_rle(coco_rle)),
            "brushlabels": [label],
        },
    }
    if score is not None:
        brush["score"] = score
    if meta is not None:
        brush["meta"] = {"text": [meta]}
    if config.region_expression is None or not expression:
        return [brush]
    text = {
        **frame,
        "from_name": config.region_expression,
        "type": "textarea",
        "value": {"text": [expression]},
    }
    return [brush, text]


def build_typed(config: LabelConfig, expression: str) -> dict[str, Any]:
    """The photo's expression, as if someone had typed it."""
    return {
        "id": "expression",
        "from_name": config.expression,
        "to_name": config.image,
        "type": "textarea",
        "origin": "manual",
        "value": {"text": [expression]},
    }


def build_verdict(config: LabelConfig, verdict: str) -> dict[str, Any]:
    """A choice about the photo's expression."""
    return {
        "id": "verdict",
        "from_name": config.verdict,
        "to_name": config.image,
        "type": "choices",
        "origin": "manual",
        "value": {"choices": [verdict]},
    }
