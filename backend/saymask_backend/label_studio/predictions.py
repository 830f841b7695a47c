"""From masks and expressions to Label Studio's predictions and tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saymask.contract import PROPOSALS_SOURCE, Candidate, SegmentResult
from saymask.runs import RunMask, read_coco_runs
from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.mask_values import build_mask
from saymask_backend.records.types import Verdict, build_region_id

EMPTY_PREDICTION: dict[str, Any] = {"result": [], "score": 0.0}
# Neighbouring objects share some pixels at their border.
_MAX_SHARED = 0.02
# Label Studio draws two marks below the middle of a mask's box, 64 by 32 pixels on the screen: as
# shares of a photo that is 500 pixels wide and 350 high there.
_MARKS_WIDTH, _MARKS_HEIGHT = 0.13, 0.09


def choose_shown(candidates: Sequence[Candidate], config: LabelConfig) -> tuple[int, ...]:
    """Return the ranks that are shown together: the first, and those that cover none of them.

    Two cover each other where they share more than ``_MAX_SHARED`` of the smaller one, or where
    their marks overlap.
    """
    ranks: list[int] = []
    masks: list[RunMask] = []
    for candidate in candidates[:1] if config.shows_one else candidates:
        mask = read_coco_runs(candidate.mask.as_dict())
        if all(_is_separate(mask, other) for other in masks):
            ranks.append(candidate.rank)
            masks.append(mask)
    return tuple(ranks)


def _is_separate(mask: RunMask, other: RunMask) -> bool:
    (x, y), (other_x, other_y) = _find_marks(mask), _find_marks(other)
    if abs(x - other_x) < _MARKS_WIDTH and abs(y - other_y) < _MARKS_HEIGHT:
        return False
    return mask.count_shared(other) <= _MAX_SHARED * min(mask.area, other.area)


def _find_marks(mask: RunMask) -> tuple[float, float]:
    """Where the marks of a mask are, as shares of the image's width and height."""
    height, width = mask.size_hw
    x, y, box_width, box_height = mask.box_xywh
    return (x + box_width / 2) / width, (y + box_height) / height


def to_prediction(
    result: SegmentResult, config: LabelConfig, region_ids: Mapping[int, str], notice: str
) -> dict[str, Any]:
    """Build the answer to the editor: a brush region per shown candidate, and a notice about them.

    Label Studio's editor takes only the first prediction of an interactive answer, so all
    candidates go into one. It draws later regions over earlier ones, so the best comes last. A
    region replaces the one with the same id when it is accepted.

    Args:
        result: the worker's answer.
        config: of the project.
        region_ids: of the candidates that are shown, by rank.
        notice: for the annotator.
    """
    return {
        "result": [*_build_regions(result, config, region_ids), *build_notice(config, notice)],
        "score": result.candidates[0].score if result.candidates else 0.0,
        "model_version": result.model_version,
    }


def _build_regions(
    result: SegmentResult,
    config: LabelConfig,
    region_ids: Mapping[int, str],
    details: str | None = None,
) -> list[dict[str, Any]]:
    """The candidates' regions; ``details`` replace rank and score, and confidence is the score."""
    return [
        entry
        for candidate in reversed(result.candidates)
        if candidate.rank in region_ids
        for entry in build_region(
            config,
            region_id=region_ids[candidate.rank],
            coco_rle=candidate.mask.as_dict(),
            label=config.label_for_rank(candidate.rank),
            expression=result.expression,
            score=candidate.score if details is None else result.confidence,
            meta=details or _describe_candidate(candidate),
        )
    ]


def _describe_candidate(candidate: Candidate) -> str:
    source = "" if candidate.source == PROPOSALS_SOURCE else f", from {candidate.source}"
    return f"rank {candidate.rank}, score {candidate.score:.3f}{source}"


def to_failure(config: LabelConfig, text: str) -> dict[str, Any] | None:
    """Build an answer that shows only a notice; None where the config has no field for it."""
    notice = build_notice(config, text)
    return {"result": notice, "score": 0.0} if notice else None


def to_task_prediction(
    answers: Sequence[tuple[int, SegmentResult]],
    config: LabelConfig,
    notice: str = "",
    details: Sequence[str] = (),
) -> dict[str, Any]:
    """Build the prediction of a task with expressions that are given or proposed.

    Args:
        answers: request id and result of each expression, with its best candidate; at least one.
        config: of the project.
        notice: for the annotator, or empty.
        details: of each expression's region, for proposals.

    Returns:
        One region per expression, scored with the least confidence among them. A single expression
        is in the image's field too, as if it had been typed: the annotator sees it, also in the
        label stream, and may type another.
    """
    regions: list[dict[str, Any]] = []
    for number, (request_id, result) in enumerate(answers):
        text = details[number] if details else None
        ids = {c.rank: build_region_id(request_id, c.rank) for c in result.candidates}
        regions += _build_regions(result, config, ids, text)
    if len(answers) == 1:
        regions.insert(0, build_typed(config, [answers[0][1].expression]))
    return {
        "result": [*regions, *(build_notice(config, notice) if notice else [])],
        "score": min((r.confidence or 0.0) if r.candidates else 0.0 for _, r in answers),
        "model_version": answers[-1][1].model_version,
    }


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
    """Build a brush region and, where the project has a field for it, its expression.

    Args:
        config: of the project.
        region_id: unique within the task.
        coco_rle: mask of the image's size.
        label: one of the config's mask labels.
        expression: of this region.
        score: shown with the region.
        meta: shown in the region's details.
    """
    height, width = coco_rle["size"]
    common = {
        "id": region_id,
        "to_name": config.image,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        # Without this the editor treats suggestions as hand-made, and edits go unnoticed.
        "origin": "prediction",
    }
    brush: dict[str, Any] = {
        **common,
        "from_name": config.mask,
        **build_mask(config.mask_tag, read_coco_runs(coco_rle), label),
    }
    if score is not None:
        brush["score"] = score
    if meta is not None:
        brush["meta"] = {"text": [meta]}
    if config.region_expression is None or not expression:
        return [brush]
    text = {
        **common,
        "from_name": config.region_expression,
        "type": "textarea",
        "value": {"text": [expression]},
    }
    return [brush, text]


def build_typed(
    config: LabelConfig, expressions: Sequence[str], entry_id: str = "expression"
) -> dict[str, Any]:
    """Build the entry of the image's field, as if an annotator had typed into it."""
    value = {"text": list(expressions)}
    return _build_entry(config, entry_id, config.expression, "textarea", value)


def build_verdict(config: LabelConfig, verdict: Verdict) -> dict[str, Any]:
    """Build a choice about the image's expression."""
    chosen = {"choices": [config.choice_for(verdict)]}
    return _build_entry(config, "verdict", config.verdict, "choices", chosen)


def build_notice(config: LabelConfig, text: str) -> list[dict[str, Any]]:
    """Build the entry that shows a text to the annotator; none where the config lacks the field."""
    if config.notice is None:
        return []
    entry = _build_entry(config, "saymask_notice", config.notice, "textarea", {"text": [text]})
    return [{**entry, "origin": "prediction"}]


def _build_entry(
    config: LabelConfig, entry_id: str, from_name: str | None, kind: str, value: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": entry_id,
        "from_name": from_name,
        "to_name": config.image,
        "type": kind,
        "origin": "manual",
        "value": value,
    }
