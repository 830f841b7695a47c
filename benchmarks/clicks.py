"""What a click is worth: IoU of the offered mask with the truth, before and after clicks at the
middle of the largest error, as an annotator makes them."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.measure import Row
from saymask.datasets.load import load_dataset
from saymask.masks import Mask, compute_iou, decode_coco_rle
from worker.pipeline.build import build_pipeline
from worker.pipeline.pipeline import Pipeline
from worker.settings import load_worker_settings
from worker.stages import VisualPrompt

CLICKS = 3
# Nobody clicks on a mask that is as good as this.
_GOOD = 0.95
_K = 3


def find_click(mask: Mask, truth: Mask) -> tuple[float, float, bool]:
    """The deepest pixel of where two masks differ, and whether the truth has it."""
    wrong = torch.from_numpy(mask != truth).float()[None, None]
    while True:
        inner = -F.max_pool2d(-F.pad(wrong, (1, 1, 1, 1)), 3, 1)
        if not inner.any():
            break
        wrong = inner
    y, x = torch.nonzero(wrong[0, 0])[0].tolist()
    return x + 0.5, y + 0.5, bool(truth[y, x])


def _follow(
    pipeline: Pipeline, data: bytes, first: Mask, truth: Mask, times: list[float]
) -> list[float]:
    """IoU before, and of the best of the candidates after each click; it is clicked on next."""
    photo = pipeline.embed(data)
    mask, points, positive = first, [], []
    ious = [compute_iou(mask, truth)]
    for _ in range(CLICKS):
        if ious[-1] <= _GOOD:
            x, y, inside = find_click(mask, truth)
            points.append((x, y))
            positive.append(inside)
            started = time.perf_counter()
            prompt = VisualPrompt(tuple(points), tuple(positive), None, mask)
            found = pipeline.refine(photo, "", prompt, _K, from_cache=True)
            times.append(time.perf_counter() - started)
            masks = [decode_coco_rle(c.mask.as_dict()) for c in found.candidates]
            mask = max([mask, *masks], key=lambda one: compute_iou(one, truth))
        ious.append(compute_iou(mask, truth))
    return ious


def compare(root: Path | None) -> list[Row]:
    """Over the val split of a set in RefCOCO's layout.

    Raises:
        ValueError: no set was named.
    """
    if root is None:
        raise ValueError("clicks needs --photos ROOT, a data set in RefCOCO's layout")
    pipeline = build_pipeline(load_worker_settings())
    histories: list[list[float]] = []
    times: list[float] = []
    for image in load_dataset("refcoco", root, "val").images:
        data = image.path.read_bytes()
        prepared, _ = pipeline.prepare(data)
        for expression in image.expressions:
            truth = decode_coco_rle(expression.target)
            result = pipeline.segment(prepared, expression.text, _K, preparation=None)
            if not truth.any() or not result.candidates:
                continue
            first = decode_coco_rle(result.candidates[0].mask.as_dict())
            histories.append(_follow(pipeline, data, first, truth, times))
    started = [history[0] for history in histories]
    rows = []
    for clicks in range(1, CLICKS + 1):
        after = [history[clicks] for history in histories]
        a, b = statistics.mean(started), statistics.mean(after)
        better = sum(value > 0.5 for value in after) / len(after)
        rows.append(
            Row(
                f"mean IoU over {len(histories)} expressions: first candidate / best offered or"
                f" kept after {clicks} clicks (above .5: {better:.3f})",
                f"{a:.3f}", f"{b:.3f}", f"{a / b:.2f}x",
            )
        )  # fmt: skip
    rows.append(
        Row("answer to a click, photo embedded", "", f"{statistics.median(times):.3f} s", "")
    )
    return rows
