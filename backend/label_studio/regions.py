"""From a worker's result to what Label Studio draws."""

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
    height, width = result.size_hw
    frame = {
        "id": build_region_id(request_id, candidate.rank),
        "to_name": config.image,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        # Without this the editor books suggestions as hand-made, and edits go unnoticed.
        "origin": "prediction",
    }
    label = config.label_for_rank(candidate.rank)
    brush = {
        **frame,
        "from_name": config.mask,
        "type": "brushlabels",
        "score": candidate.score,
        "meta": {"text": [f"rank {candidate.rank}, score {candidate.score:.3f}"]},
        "value": {
            "format": "rle",
            "rle": encode_brush_rle(decode_coco_rle(candidate.mask.as_dict())),
            "brushlabels": [label],
        },
    }
    if config.region_expression is None:
        return [brush]
    text = {
        **frame,
        "from_name": config.region_expression,
        "type": "textarea",
        "value": {"text": [result.expression]},
    }
    return [brush, text]
