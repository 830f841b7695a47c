"""From how many annotated photos on does training beat the zero-shot pipeline?

CRIS is trained on 1, 2, 4, ... photos of the training split, several times on other photos, and
each model is measured on another split beside the pipeline that needs no training.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from pydantic import BaseModel, ConfigDict

from saymask.datasets import Dataset
from saymask.errors import DatasetError, InvalidRequest
from saymask.intervals import Counts, Interval, Values, bootstrap_mean
from saymask.left_out import LeftOut
from saymask.masks import Mask, compute_iou, decode_coco_rle
from saymask_worker.images.jsonl_log import ResumableLog
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.samples import Sample, load_pixels, read_samples

LOG_FILE = "few_sample.jsonl"
PLOT_FILE = "few_sample.svg"
TABLE_FILE = "few_sample.md"
RIGHT_IOU = 0.5
# An epoch holds so many steps, whatever the number of photos: a checkpoint follows each.
_STEPS_PER_EPOCH = 20
_PLOT_WH = (480, 280)

Segment = Callable[[Any, str], Mask]
"""From pixels (H, W, 3) and a sentence to a mask (H, W)."""


class Run(BaseModel):
    """One trained model, measured.

    Attributes:
        images: how many photos it was trained on, and ``refs`` on them.
        seed: which photos those were.
        miou: mean IoU over the expressions of the other split.
        right: share of them above IoU .5.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    refs: int
    seed: int
    miou: float
    right: float


@dataclass(frozen=True)
class FewSampleRequest:
    """What to compare.

    Attributes:
        sizes: numbers of photos.
        seeds: how often each.
        steps: of the optimiser, at least; equal for all that have no more refs than an epoch.
        config: of training; epochs and patience follow from the steps.
    """

    sizes: tuple[int, ...]
    seeds: int
    steps: int
    config: TrainingConfig

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise InvalidRequest("--few-sample needs numbers of photos, for example 1,2,4,8.")


@dataclass(frozen=True)
class ZeroShot:
    """The pipeline on the same expressions."""

    miou: Interval
    right: Interval


@dataclass(frozen=True)
class Point:
    """All models trained on one number of photos: means, and the lowest and highest seed."""

    images: int
    refs: float
    miou: float
    low: float
    high: float
    right: float


TrainAndLoad = Callable[[Sequence[Sample], TrainingConfig, Path], Segment]


def run_few_sample(
    request: FewSampleRequest,
    pool: Dataset,
    test: Dataset,
    out: Path,
    train: TrainAndLoad,
    progress: Callable[[int, int], None],
    left_out: LeftOut,
) -> list[Run]:
    """Train and measure every model that an earlier, interrupted comparison did not.

    Args:
        request: how many photos, how often.
        pool: whose photos are trained on.
        test: whose expressions are measured.
        out: folder of models and the log.
        train: trains on samples in a folder, and returns what segments with the model.
        progress: called with the number of finished models and of all.
        left_out: gets the photos of the pool that cannot be read.

    Raises:
        DatasetError: there are fewer photos than asked for, or ``out`` belongs to a comparison
            with other data or settings.
    """
    samples = read_samples(pool, left_out)
    photos = sorted({sample.image for sample in samples})
    if max(request.sizes) > len(photos):
        raise DatasetError(
            f"There are {len(photos)} photos to train on, fewer than {max(request.sizes)}.",
            "Ask for smaller numbers.",
        )
    log = ResumableLog(out / LOG_FILE, Run, _describe(request, pool, test))
    finished = {(run.images, run.seed): run for run in log.read()}
    runs: list[Run] = []
    wanted = [(size, seed) for size in request.sizes for seed in range(request.seeds)]
    for size, seed in wanted:
        run = finished.get((size, seed))
        if run is None:
            chosen = set(random.Random(seed).sample(photos, len(photos))[:size])
            own = [sample for sample in samples if sample.image in chosen]
            config = replace(request.config, seed=seed)
            repeated = _repeat(own, config.batch * _STEPS_PER_EPOCH)
            epochs = math.ceil(request.steps / (len(repeated) // config.batch))
            config = replace(config, epochs=epochs, patience=epochs)
            segment = train(repeated, config, out / f"models/{size}-{seed}")
            miou, right = _measure(segment, test)
            run = Run(images=size, refs=len(own), seed=seed, miou=miou, right=right)
            log.append(run)
        runs.append(run)
        progress(len(runs), len(wanted))
    return runs


def summarise_runs(runs: Sequence[Run]) -> list[Point]:
    """Return one point per number of photos, the smallest first."""
    points = []
    for images in sorted({run.images for run in runs}):
        group = [run for run in runs if run.images == images]
        ious = [run.miou for run in group]
        points.append(
            Point(
                images,
                float(np.mean([run.refs for run in group])),
                float(np.mean(ious)),
                min(ious),
                max(ious),
                float(np.mean([run.right for run in group])),
            )
        )
    return points


def find_crossing(points: Sequence[Point], zero_shot: ZeroShot) -> int | None:
    """Return the smallest number of photos from which on every mean is above zero-shot's."""
    crossing = None
    for point in reversed(points):
        if point.miou <= zero_shot.miou.mean:
            break
        crossing = point.images
    return crossing


def write_few_sample(out: Path, points: Sequence[Point], zero_shot: ZeroShot) -> str:
    """Write a table and a plot; returns the table."""
    table = _to_table(points, zero_shot)
    (out / TABLE_FILE).write_text(table, encoding="utf-8")
    (out / PLOT_FILE).write_text(_to_plot(points, zero_shot), encoding="utf-8")
    return table


def compute_zero_shot(ious: Values, images: Counts) -> ZeroShot:
    """Return the intervals of the pipeline over expressions (E,), photos drawn whole."""
    is_right = (ious > RIGHT_IOU).astype(float)
    return ZeroShot(bootstrap_mean(ious, images), bootstrap_mean(is_right, images))


def _repeat(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The samples over and over to ``count``, or all where there are more."""
    rounds = (replace(s, id=f"{s.id}#{number}") for number in itertools.count() for s in samples)
    return list(itertools.islice(rounds, max(count, len(samples))))


def _measure(segment: Segment, test: Dataset) -> tuple[float, float]:
    ious = []
    for image in test.images:
        pixels = load_pixels(image.path)
        for expression in image.expressions:
            if expression.parts:
                mask = segment(pixels, expression.text)
                ious.append(compute_iou(mask, decode_coco_rle(expression.target)))
    return float(np.mean(ious)), float(np.mean([iou > RIGHT_IOU for iou in ious]))


def _describe(request: FewSampleRequest, pool: Dataset, test: Dataset) -> dict[str, Any]:
    return {
        "dataset": pool.name,
        "content": hashlib.sha256(repr((pool.images, test.images)).encode()).hexdigest()[:16],
        "steps": request.steps,
        "config": asdict(replace(request.config, seed=0)),
    }


def _to_table(points: Sequence[Point], zero_shot: ZeroShot) -> str:
    lines = [
        "| trained on | refs | mIoU (lowest to highest seed) | right |",
        "|---|--:|--:|--:|",
        f"| nothing (the pipeline) | | {zero_shot.miou} | {zero_shot.right} |",
    ]
    lines += [
        f"| {p.images} photos | {p.refs:.0f} | {p.miou:.3f} ({p.low:.3f} to {p.high:.3f})"
        f" | {p.right:.3f} |"
        for p in points
    ]
    crossing = find_crossing(points, zero_shot)
    if crossing is None:
        most = points[-1].images
        lines += ["", f"With {most} photos the mean of the seeds is not above the pipeline's."]
    else:
        lines += ["", f"From {crossing} photos on the mean of the seeds is above the pipeline's."]
    return "\n".join(lines) + "\n"


def _to_plot(points: Sequence[Point], zero_shot: ZeroShot) -> str:
    """A picture as SVG: number of photos on a logarithmic axis, mIoU from 0 to 1."""
    width, height = _PLOT_WH
    last = math.log2(max(points[-1].images, 2))

    def x(images: int) -> float:
        return round(math.log2(images) / last * width, 1)

    def y(share: float) -> float:
        return round((1 - share) * height, 1)

    template = (resources.files("saymask_worker.evaluation") / "few_sample.svg").read_text("utf-8")
    return Environment(autoescape=True).from_string(template).render(
        width=width, height=height,
        points=[
            {"x": x(p.images), "y": y(p.miou), "low": y(p.low), "high": y(p.high),
             "images": p.images}
            for p in points
        ],
        ticks=[(y(share / 10), f"{share / 10:.1f}") for share in range(0, 11, 2)],
        zero={"y": y(zero_shot.miou.mean), "low": y(zero_shot.miou.low),
              "high": y(zero_shot.miou.high)},
    )  # fmt: skip
