"""Evaluators in this process or in several others, each with its own models."""

from __future__ import annotations

import json
import multiprocessing
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from saymask.datasets.model import DatasetImage
from saymask.errors import ConfigError, DatasetError
from saymask.image_decoding import MAX_MEGAPIXELS
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.evaluation.answers import ImageAnswers
from saymask_worker.evaluation.evaluator import Evaluator, TrainedModel
from saymask_worker.evaluation.request import EvaluationRequest
from saymask_worker.evaluation.truth import TruthProposer
from saymask_worker.evaluation.variants import choose_variants
from saymask_worker.pipeline.build import build_first_look_pipeline, build_pipeline
from saymask_worker.weights import WeightStore, default_cache_dir


class EvaluationProcesses(Protocol):
    """Where the models are."""

    def describe(self) -> dict[str, Any]:
        """Return what runs: versions, weights, configuration, hardware."""
        ...

    def evaluate(self, images: list[DatasetImage]) -> Iterator[ImageAnswers]:
        """Evaluate every image, in any order."""
        ...


BuildEvaluator = Callable[[EvaluationRequest, WorkerSettings], Evaluator]


@contextmanager
def open_processes(
    request: EvaluationRequest, settings: WorkerSettings, jobs: int, build: BuildEvaluator
) -> Iterator[EvaluationProcesses]:
    """Load the models in this process, or with ``jobs`` > 1 in so many others."""
    if jobs == 1:
        yield _ThisProcess(build(request, settings))
        return
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, torch.set_num_threads, (threads,))
    try:
        yield _Pool(pool, _Build(build, request, settings))
    finally:
        pool.shutdown(cancel_futures=True)


def build_evaluator(request: EvaluationRequest, settings: WorkerSettings) -> Evaluator:
    """Load the models of one process.

    Raises:
        ConfigError: first looks are asked for, and the settings allow none.
    """
    if request.first_look:
        pipeline = build_first_look_pipeline(settings)
    else:
        pipeline = build_pipeline(settings)
    return Evaluator(
        pipeline=pipeline,
        variants=choose_variants(pipeline.config, pipeline.encoder.scoring, request.methods),
        no_target_below=request.no_target_below,
        max_megapixels=MAX_MEGAPIXELS,
        truth=TruthProposer() if request.truth_proposals else None,
        models={name: load_model(name, settings, pipeline.device) for name in request.models},
    )


def load_model(name: str, settings: WorkerSettings, device: str) -> TrainedModel:
    """Load a trained model by ``cris:FOLDER``.

    Raises:
        ConfigError: it is unknown, or training's packages are missing.
        WeightsError: its towers' weights are missing.
    """
    kind, _, folder = name.partition(":")
    if kind != "cris" or not folder:
        raise ConfigError(f"There is no model {name!r}.", "Give --model cris:FOLDER.")
    from saymask_worker.training.predictor import CrisPredictor

    store = WeightStore(settings.cache_dir or default_cache_dir())
    return CrisPredictor.load(Path(folder), store, device)


@dataclass(frozen=True)
class _Build:
    """How a process of the pool loads its models."""

    function: BuildEvaluator
    request: EvaluationRequest
    settings: WorkerSettings


class _ThisProcess:
    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def describe(self) -> dict[str, Any]:
        return _describe(self._evaluator)

    def evaluate(self, images: list[DatasetImage]) -> Iterator[ImageAnswers]:
        return map(self._evaluator.evaluate, images)


class _Pool:
    def __init__(self, pool: ProcessPoolExecutor, build: _Build) -> None:
        self._pool = pool
        self._build = build

    def describe(self) -> dict[str, Any]:
        with _explain_death():
            return self._pool.submit(_describe_in_pool, self._build).result()

    def evaluate(self, images: list[DatasetImage]) -> Iterator[ImageAnswers]:
        with _explain_death():
            futures = [self._pool.submit(_evaluate_in_pool, self._build, i) for i in images]
            for future in as_completed(futures):
                yield future.result()


@contextmanager
def _explain_death() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise DatasetError(
            "A process died: its models could not be loaded, or memory ran out.",
            "Run with --jobs 1 to see why; it continues where this run stopped.",
        ) from error


@cache
def _load_in_pool(build: _Build) -> Evaluator:
    """Load the models of a process of the pool, once."""
    return build.function(build.request, build.settings)


def _describe_in_pool(build: _Build) -> dict[str, Any]:
    return _describe(_load_in_pool(build))


def _evaluate_in_pool(build: _Build, image: DatasetImage) -> ImageAnswers:
    return _load_in_pool(build).evaluate(image)


def _describe(evaluator: Evaluator) -> dict[str, Any]:
    pipeline = evaluator.pipeline
    return {
        "saymask": version("saymask"),
        "model_version": pipeline.model_version,
        "proposals": "truth" if evaluator.truth else pipeline.proposer.name,
        "encoder": pipeline.encoder.description,
        "device": _name_device(pipeline.device),
        "precision": str(pipeline.encoder.visual.dtype),
        "torch": torch.__version__,
        "methods": [*(variant.name for variant in evaluator.variants), *evaluator.models],
        # As it is read again from JSON.
        "config": json.loads(json.dumps(asdict(pipeline.config))),
    }


def _name_device(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()
