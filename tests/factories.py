"""Making requests, candidates and annotations for tests of records, without a worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from saymask.contract import Candidate, CocoRle, SegmentResult, Timings
from saymask.masks import Mask, compute_box_xywh, encode_brush_rle, encode_coco_rle
from saymask.runs import RunMask, read_coco_runs
from saymask_backend.label_studio.label_config import default_label_config
from saymask_backend.records.requests import NewRequest, RequestKind
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import ProjectKey, build_region_id

HEIGHT, WIDTH = 48, 64
KEY = ProjectKey(7, 1795224562)
PROJECT = {
    "id": KEY.id, "label_config": default_label_config(),
    "created_at": "2026-11-21T01:29:22.900539Z",
}  # fmt: skip
SAVED_AT = datetime.now(UTC) - timedelta(hours=1)


def square(x: int, y: int = 4, side: int = 12) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def to_runs(mask: Mask) -> RunMask:
    return read_coco_runs(encode_coco_rle(mask))


def offer(
    stores: Stores,
    task_id: int,
    expression: str,
    masks: list[Mask],
    project: ProjectKey = KEY,
    source: str = "proposals",
    kind: RequestKind = "typed",
    model_version: str = "saymask-test",
) -> list[str]:
    """A request that was answered with these candidates; returns their region ids."""
    request_id = stores.requests.add_request(
        NewRequest(
            project, task_id, expression, max(1, len(masks)), f"/data/upload/{task_id}.png", kind
        )
    )
    candidates = tuple(
        Candidate(
            rank=rank, score=1 / rank, mask=CocoRle.model_validate(encode_coco_rle(mask)),
            box_xywh=compute_box_xywh(mask), predicted_iou=0.9, stability_score=0.9,
            source=source,
        )
        for rank, mask in enumerate(masks, 1)
    )  # fmt: skip
    result = SegmentResult(
        image_sha256=f"{task_id:064x}", expression=expression, size_hw=(HEIGHT, WIDTH),
        candidates=candidates, head_noun_phrase=None, proposals_count=9,
        model_version=model_version, from_cache=True, timings=Timings(),
    )  # fmt: skip
    stores.requests.save_answer(request_id, result, 40.0)
    return [build_region_id(request_id, c.rank) for c in candidates]


def brush(
    region_id: str, mask: Mask, label: str, origin: str, expression: str | None = None
) -> list[dict[str, Any]]:
    frame = {
        "id": region_id, "to_name": "image", "original_width": mask.shape[1],
        "original_height": mask.shape[0], "image_rotation": 0, "origin": origin,
    }  # fmt: skip
    value = {"format": "rle", "rle": encode_brush_rle(mask), "brushlabels": [label]}
    entries = [{**frame, "from_name": "mask", "type": "brushlabels", "value": value}]
    if expression is not None:
        text = {"text": [expression]}
        entries.append(
            {**frame, "from_name": "region_expression", "type": "textarea", "value": text}
        )
    return entries


def typed(expression: str) -> dict[str, Any]:
    return {
        "id": "typed", "from_name": "expression", "to_name": "image", "type": "textarea",
        "origin": "manual", "value": {"text": [expression]},
    }  # fmt: skip


def verdict(choice: str) -> dict[str, Any]:
    return {
        "id": "verdict", "from_name": "verdict", "to_name": "image", "type": "choices",
        "origin": "manual", "value": {"choices": [choice]},
    }  # fmt: skip


def annotation(
    annotation_id: int, result: list[dict[str, Any]], *, after_s: float = 0, **fields: Any
) -> dict[str, Any]:
    return {
        "id": annotation_id, "result": result, "was_cancelled": False, "lead_time": 12.0,
        "completed_by": 1, "updated_at": (SAVED_AT + timedelta(seconds=after_s)).isoformat(),
        **fields,
    }  # fmt: skip


def task(task_id: int) -> dict[str, Any]:
    return {"id": task_id, "data": {"image": f"/data/upload/{task_id}.png"}}


def event(task_id: int, body: dict[str, Any], action: str = "ANNOTATION_CREATED") -> dict[str, Any]:
    return {"action": action, "project": PROJECT, "task": task(task_id), "annotation": body}


def deletion(*annotation_ids: int) -> dict[str, Any]:
    return {
        "action": "ANNOTATIONS_DELETED", "project": PROJECT,
        "annotations": [{"id": number} for number in annotation_ids],
    }  # fmt: skip
