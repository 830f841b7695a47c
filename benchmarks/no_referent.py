"""Expressions that name nothing in their photo: how many are recognised, and how sure answers are.

For a set in RefCOCO's layout with a file ``no_target.json`` beside it: a list of objects with
``file_name``, ``sent`` and ``split``. N-acc is the share of these about which people are told that
perhaps nothing is meant, T-acc the share of expressions with a referent about which they are not
(gRefCOCO's names, Liu et al., CVPR 2023). The calibration error is over both.

Example: python -m benchmarks.no_referent --root ROOT --split val
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import show_share
from saymask.contract import NOTHING_MEANT
from saymask.datasets import load_dataset
from saymask.masks import Mask, compute_iou, decode_coco_rle
from worker.pipeline.build import build_pipeline
from worker.pipeline.opening import open_image
from worker.pipeline.pipeline import Pipeline
from worker.settings import load_worker_settings
from worker.stages import PreparedImage
from worker.tuning.tune import compute_calibration_error

_RIGHT_IOU = 0.5


@dataclass(frozen=True)
class _Answer:
    """What came of one expression; ``is_meant`` where it has a referent."""

    image: str
    is_meant: bool
    is_withheld: bool
    confidence: float
    is_right: bool


def _ask(
    pipeline: Pipeline, prepared: PreparedImage, name: str, text: str, target: Mask | None
) -> _Answer:
    result = pipeline.segment(prepared, text, 1, preparation=None)
    is_right = False
    if target is not None and result.candidates:
        first = decode_coco_rle(result.candidates[0].mask.as_dict())
        is_right = bool(compute_iou(first, target) > _RIGHT_IOU)
    return _Answer(
        name,
        target is not None,
        NOTHING_MEANT in result.notices,
        result.confidence or 0.0,
        is_right,
    )


def measure(pipeline: Pipeline, root: Path, split: str) -> list[_Answer]:
    """Ask every expression of a split, with a referent or without."""
    dataset = load_dataset("refcoco", root, split)
    absent: dict[str, list[str]] = defaultdict(list)
    path = root / "no_target.json"
    for item in json.loads(path.read_text("utf-8")) if path.is_file() else ():
        if item["split"] == split:
            absent[item["file_name"]].append(item["sent"])
    answers = []
    for number, image in enumerate(dataset.images, start=1):
        data = image.path.read_bytes()
        prepared, _ = open_image(pipeline, data)
        name = image.path.name
        asked: list[tuple[str, Mask | None]] = [
            (e.text, decode_coco_rle(e.target)) for e in image.expressions
        ]
        asked += [(text, None) for text in absent[name]]
        answers += [_ask(pipeline, prepared, name, text, target) for text, target in asked]
        print(f"{number} of {len(dataset.images)} photos", end="\r", file=sys.stderr, flush=True)
    return answers


def summarise(answers: Sequence[_Answer]) -> str:
    """The table, with 95 % intervals over images."""
    meant = [(a.image, not a.is_withheld) for a in answers if a.is_meant]
    absent = [(a.image, a.is_withheld) for a in answers if not a.is_meant]
    right = np.array([a.is_right for a in answers])
    confidence = np.array([a.confidence for a in answers])
    has_referent = np.array([a.is_meant for a in answers])
    lines = [
        "| what | expressions | value |", "|---|---|---|",
        f"| N-acc | {len(absent)} | {show_share(absent)} |",
        f"| T-acc | {len(meant)} | {show_share(meant)} |",
    ]  # fmt: skip
    for name, chosen in (("all", right >= 0), ("with a referent", has_referent)):
        error = compute_calibration_error(confidence[chosen], right[chosen])
        lines.append(f"| calibration error, {name} | {int(chosen.sum())} | {error:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="a set in RefCOCO's layout")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    pipeline = build_pipeline(load_worker_settings())
    answers = measure(pipeline, arguments.root, arguments.split)
    print(pipeline.model_version)
    print(summarise(answers))


if __name__ == "__main__":
    main()
