"""A page about one training run: its numbers, its curves, what it does on held-out photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment

from saymask.drawing import REFERENT_COLOR, color_of_rank, draw_mask, to_data_url
from saymask.masks import Mask, compute_iou, decode_coco_rle
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.history import Epoch
from saymask_worker.training.samples import Sample, load_pixels
from saymask_worker.training.trainer import Outcome, SentencePrediction

_PICTURES = 24
_PICTURE_PX = 360
_CURVE_WH = (340, 180)


@dataclass(frozen=True)
class _Curve:
    """A line in SVG's coordinates, and what its ends mean."""

    title: str
    points: str
    low: float
    high: float
    last: float


def write_report(
    path: Path,
    config: TrainingConfig,
    outcome: Outcome,
    history: Sequence[Epoch],
    predictions: Sequence[SentencePrediction],
) -> None:
    """Write the page; the pictures are those of the worst, the middle and the best."""
    scored = sorted(
        (
            (compute_iou(p.mask, decode_coco_rle(p.sample.target)), p.sample, p.sentence, p.mask)
            for p in predictions
        ),
        key=lambda row: row[0],
    )
    step = max(1, len(scored) // _PICTURES)
    pictures = [_draw(*row) for row in scored[::step][:_PICTURES]]
    curves = [
        _to_curve("loss", [one.loss for one in history]),
        _to_curve("held-out IoU", [one.held_out_iou for one in history]),
    ]
    template = (resources.files("saymask_worker.training") / "report.html").read_text("utf-8")
    page = Environment(autoescape=True).from_string(template).render(
        config=asdict(config), outcome=outcome, curves=curves, pictures=pictures,
        size=_CURVE_WH,
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")


def _to_curve(title: str, values: Sequence[float]) -> _Curve:
    width, height = _CURVE_WH
    low, high = min(values, default=0.0), max(values, default=1.0)
    span, steps = max(high - low, 1e-9), max(len(values) - 1, 1)
    points = " ".join(
        f"{index / steps * width:.1f},{height - (value - low) / span * height:.1f}"
        for index, value in enumerate(values)
    )
    return _Curve(title, points, low, high, values[-1] if values else 0.0)


def _draw(iou: float, sample: Sample, sentence: str, mask: Mask) -> dict[str, object]:
    canvas = load_pixels(sample.image).astype(np.float32)
    draw_mask(canvas, mask, color_of_rank(1))
    draw_mask(canvas, decode_coco_rle(sample.target), REFERENT_COLOR, opacity=0)
    return {"data_url": to_data_url(canvas, _PICTURE_PX), "title": sentence, "iou": iou}
