"""Running an evaluation: data in, progress shown, tables out; a killed run continues."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from saymask.command_line import show_progress
from saymask.datasets import load_dataset
from saymask.datasets.model import Dataset
from saymask.errors import DatasetError, counted
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.evaluation.answers import ImageAnswers, open_answers
from saymask_worker.evaluation.processes import (
    BuildEvaluator,
    EvaluationRequest,
    build_evaluator,
    open_processes,
)
from saymask_worker.evaluation.results import Results, build_results
from saymask_worker.evaluation.variants import choose_variants

RESULTS_FILE = "results.json"


def run_evaluation(
    request: EvaluationRequest,
    settings: WorkerSettings,
    out: Path,
    jobs: int,
    console: Console,
    build: BuildEvaluator = build_evaluator,
) -> tuple[Results, Dataset, list[ImageAnswers]]:
    """Evaluate, or continue what an interrupted run left in ``out``.

    Images that cannot be used are left out; the next run tries them again.

    Returns:
        The tables (also in ``out``), the dataset as far as it could be used, and the answers in
        its order.

    Raises:
        DatasetError: something of the dataset is wrong, or ``out`` holds another run.
        ConfigError, WeightsError.
    """
    # Unknown names are reported before models are loaded.
    choose_variants(PipelineConfig(), ScoringConfig(), request.methods)
    dataset = load_dataset(
        request.dataset, request.root, request.split,
        split_by=request.split_by, limit=request.limit,
    )  # fmt: skip
    if request.first_sentence:
        dataset = keep_first_sentences(dataset)
    if request.truth_proposals and not any(image.instances for image in dataset.images):
        raise DatasetError(f"{request.dataset} has no annotated objects to take as proposals.")
    photos = counted(len(dataset.images), "photo")
    console.print(f"{photos}, {counted(dataset.count, 'expression')}")
    with open_processes(request, settings, jobs, build) as processes:
        provenance = processes.describe() | _describe_run(request, dataset)
        log_file = open_answers(out, provenance)
        answered = {image.image: image for image in log_file.read()}
        if answered:
            console.print(f"{counted(len(answered), 'photo')} done before")
        remaining = [image for image in dataset.images if image.path.name not in answered]
        failed = list(dataset.left_out)
        started = time.monotonic()
        with show_progress("photos", target=console) as bar:
            for count, image in enumerate(processes.evaluate(remaining), start=1):
                if image.failure:
                    failed.append(image.failure)
                else:
                    log_file.append(image)
                    answered[image.image] = image
                rate = 60 * count / (time.monotonic() - started)
                bar(count, len(remaining), f"{rate:.1f} a minute")
    used = tuple(image for image in dataset.images if image.path.name in answered)
    if not used:
        raise DatasetError(f"None of {photos} can be used.", failed[0])
    images = [answered[image.path.name] for image in used]
    dataset = replace(dataset, images=used)
    results = build_results(images, provenance, tuple(failed))
    (out / RESULTS_FILE).write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return results, dataset, images


def keep_first_sentences(dataset: Dataset) -> Dataset:
    """Return the dataset with one expression per referent: the first, as CRIS validates."""
    images = []
    for image in dataset.images:
        first = {str(e.target["counts"]): e for e in reversed(image.expressions)}
        kept = tuple(
            e for e in image.expressions if not e.parts or first[str(e.target["counts"])] is e
        )
        images.append(replace(image, expressions=kept))
    return replace(dataset, images=tuple(images))


def _describe_run(request: EvaluationRequest, dataset: Dataset) -> dict[str, Any]:
    content = hashlib.sha256()
    for image in dataset.images:
        content.update(image.path.name.encode())
        content.update(repr((image.expressions, image.instances)).encode())
    return {
        "dataset": request.dataset,
        "split": request.split,
        "photos": len(dataset.images),
        "expressions": dataset.count,
        "content": content.hexdigest()[:16],
        "no_target_below": request.no_target_below,
    }
