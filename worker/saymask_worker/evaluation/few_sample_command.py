"""``saymask-worker evaluate --few-sample``: the parts that load models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saymask.datasets import load_dataset
from saymask.errors import InvalidRequest
from saymask.left_out import LeftOut
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.evaluation.few_sample import (
    FewSampleRequest,
    Run,
    Segment,
    ZeroShot,
    compute_zero_shot,
    run_few_sample,
    summarise_runs,
    write_few_sample,
)
from saymask_worker.evaluation.metrics import compute_expression_ious
from saymask_worker.evaluation.request import EvaluationRequest
from saymask_worker.evaluation.results import AnswerTable
from saymask_worker.evaluation.run import run_evaluation
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.load import load_training
from saymask_worker.training.samples import Sample

TRAIN_SPLIT = "train"
PIPELINE = "corrected"


def compare_few_sample(
    request: EvaluationRequest,
    few: FewSampleRequest,
    settings: WorkerSettings,
    out: Path,
    jobs: int,
    console: Console,
) -> tuple[str, list[Run], ZeroShot, tuple[str, ...]]:
    """Measure the pipeline and models trained on a few photos.

    Returns:
        Table and figures, and why photos were left out.

    Raises:
        DatasetError, ConfigError, WeightsError.
    """
    command = load_training()
    pool = load_dataset(request.dataset, request.root, TRAIN_SPLIT, split_by=request.split_by)
    results, test, images = run_evaluation(request, settings, out, jobs, console)
    names = [method.name for method in results.methods]
    if PIPELINE not in names:
        raise InvalidRequest(f"--methods {request.methods} lacks {PIPELINE}.", "Leave it out.")
    measured = {image.path.name for image in test.images}
    apart = tuple(image for image in pool.images if image.path.name not in measured)
    if len(apart) < len(pool.images):
        console.print(f"{len(pool.images) - len(apart)} photos of both splits are not trained on")
        pool = replace(pool, images=apart)
    answers = AnswerTable(images)
    ious = compute_expression_ious(answers.pixels(PIPELINE), "skip")
    zero_shot = compute_zero_shot(ious, answers.images[answers.target > 0])

    def train(samples: Sequence[Sample], config: TrainingConfig, folder: Path) -> Segment:
        segment: Segment = command.train_and_load(samples, config, folder, settings)
        return segment

    left_out = LeftOut()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("models", total=None)
        runs = run_few_sample(
            few, pool, test, out, train,
            lambda done, total: progress.update(task, completed=done, total=total), left_out,
        )  # fmt: skip
    table = write_few_sample(out, summarise_runs(runs), zero_shot)
    return table, runs, zero_shot, (*results.failed, *pool.left_out, *left_out.lines)
