"""How many annotated photos does training need to beat the pipeline, which needs none?

CRIS is trained on 1, 2, 4, ... photos of the training split, several times on other photos, and
each model is measured on another split, like the pipeline.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console

from saymask.command_line import show_progress
from saymask.datasets import Dataset, load_dataset
from saymask.errors import DatasetError, InvalidRequest, counted
from saymask.intervals import Counts, Interval, Values, bootstrap_mean
from saymask.left_out import LeftOut, OnProgress
from saymask.masks import compute_iou, decode_coco_rle
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.evaluation.evaluator import Segment
from saymask_worker.evaluation.metrics import HIT_IOU, compute_expression_ious
from saymask_worker.evaluation.processes import EvaluationRequest
from saymask_worker.evaluation.report import to_table
from saymask_worker.evaluation.results import AnswerTable
from saymask_worker.evaluation.run import run_evaluation
from saymask_worker.images.jsonl_log import ResumableLog
from saymask_worker.training.config import TrainingConfig, require_training_packages
from saymask_worker.training.samples import Sample, load_pixels, read_samples

TABLE_FILE = "few_sample.md"
LOG_FILE = "few_sample.jsonl"
_TRAIN_SPLIT = "train"
_PIPELINE = "corrected"
# An epoch has this many steps, whatever the number of photos: a checkpoint follows each.
_STEPS_PER_EPOCH = 20

TrainAndLoad = Callable[[Sequence[Sample], TrainingConfig, Path], Segment]


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


def compare_few_sample(
    request: EvaluationRequest,
    few: FewSampleRequest,
    settings: WorkerSettings,
    out: Path,
    jobs: int,
    console: Console,
) -> tuple[str, list[Run], ZeroShot, tuple[str, ...]]:
    """Measure the pipeline, and models trained on a few photos.

    Returns:
        Table and figures, and why photos were left out.

    Raises:
        DatasetError, ConfigError, WeightsError.
    """
    with require_training_packages():
        from saymask_worker.training.command import train_and_load

    pool = load_dataset(request.dataset, request.root, _TRAIN_SPLIT, split_by=request.split_by)
    results, test, images = run_evaluation(request, settings, out, jobs, console)
    if _PIPELINE not in [method.name for method in results.methods]:
        raise InvalidRequest(f"--methods {request.methods} lacks {_PIPELINE}.", "Leave it out.")
    measured = {image.path.name for image in test.images}
    apart = tuple(image for image in pool.images if image.path.name not in measured)
    if len(apart) < len(pool.images):
        console.print(f"Photos of both splits, not trained on: {len(pool.images) - len(apart)}")
        pool = replace(pool, images=apart)
    answers = AnswerTable(images)
    ious = compute_expression_ious(answers.pixels(_PIPELINE), "skip")
    zero_shot = compute_zero_shot(ious, answers.images[answers.target > 0])
    left_out = LeftOut()
    train = partial(train_and_load, settings=settings)
    with show_progress("models") as progress:
        runs = run_few_sample(few, pool, test, out, train, progress, left_out)
    table = write_few_sample(out, summarise_runs(runs), zero_shot)
    return table, runs, zero_shot, (*results.failed, *left_out.lines)


def run_few_sample(
    request: FewSampleRequest,
    pool: Dataset,
    test: Dataset,
    out: Path,
    train: TrainAndLoad,
    progress: OnProgress,
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
            f"Photos to train on: {len(photos)}, fewer than {max(request.sizes)}.",
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
            repeated = _repeat(own, request.config.batch * _STEPS_PER_EPOCH)
            epochs = math.ceil(request.steps / (len(repeated) // request.config.batch))
            config = replace(request.config, seed=seed, epochs=epochs, patience=epochs)
            miou, right = _measure(train(repeated, config, out / f"models/{size}-{seed}"), test)
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
    """Write the table, and return it."""
    table = _to_table(points, zero_shot)
    (out / TABLE_FILE).write_text(table, encoding="utf-8")
    return table


def compute_zero_shot(ious: Values, images: Counts) -> ZeroShot:
    """Return the intervals of the pipeline over expressions (E,), photos drawn whole."""
    is_right = (ious > HIT_IOU).astype(float)
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
    return float(np.mean(ious)), float(np.mean([iou > HIT_IOU for iou in ious]))


def _describe(request: FewSampleRequest, pool: Dataset, test: Dataset) -> dict[str, Any]:
    return {
        "dataset": pool.name,
        "content": hashlib.sha256(repr((pool.images, test.images)).encode()).hexdigest()[:16],
        "steps": request.steps,
        "config": asdict(replace(request.config, seed=0)),
    }


def _to_table(points: Sequence[Point], zero_shot: ZeroShot) -> str:
    rows = [
        ["nothing (the pipeline)", "", str(zero_shot.miou), str(zero_shot.right)],
        *(
            [counted(p.images, "photo"), f"{p.refs:.0f}",
             f"{p.miou:.3f} ({p.low:.3f} to {p.high:.3f})", f"{p.right:.3f}"]
            for p in points
        ),
    ]  # fmt: skip
    lines = to_table(["trained on", "refs", "mIoU (lowest to highest seed)", "right"], rows)
    crossing = find_crossing(points, zero_shot)
    if crossing is None:
        where = f"With {counted(points[-1].images, 'photo')} the mean of the seeds is not"
    else:
        where = f"From {counted(crossing, 'photo')} on the mean of the seeds is"
    lines += ["", f"{where} above the pipeline's."]
    return "\n".join(lines) + "\n"
