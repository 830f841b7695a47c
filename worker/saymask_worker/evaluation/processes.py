"""The processes of an evaluation, each with its own models."""

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
from typing import Any

import torch

from saymask.datasets.model import DatasetImage
from saymask.errors import ConfigError, DatasetError
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.evaluation.answers import ImageAnswers
from saymask_worker.evaluation.evaluator import Evaluator, Segment, TruthProposer
from saymask_worker.evaluation.variants import choose_variants
from saymask_worker.pipeline.build import build_first_look_pipeline, build_pipeline
from saymask_worker.weights import WeightStore, default_cache_dir


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        dataset: see ``load_dataset``, like the four that follow.
        split: for example ``val``.
        split_by: who made the splits, or None.
        limit: number of images, or None for all.
        methods: names or groups of variants, comma separated.
        truth_proposals: take the annotated objects as proposals.
        no_target_below: answers with a lower score are withheld; None withholds none.
        models: trained models to evaluate too, each ``cris:FOLDER``.
        first_sentence: only the first sentence about each referent.
        first_look: evaluate the quick answers about images that are not prepared.
    """

    dataset: str
    root: Path
    split: str
    split_by: str | None
    limit: int | None
    methods: str
    truth_proposals: bool
    no_target_below: float | None
    models: tuple[str, ...] = ()
    first_sentence: bool = False
    first_look: bool = False


BuildEvaluator = Callable[[EvaluationRequest, WorkerSettings], Evaluator]


@dataclass(frozen=True)
class _Build:
    """How a process loads its models."""

    function: BuildEvaluator
    request: EvaluationRequest
    settings: WorkerSettings


class EvaluationProcesses:
    """The models, in this process or in others.

    Args:
        pool: the other processes; None for this one.
    """

    def __init__(self, build: _Build, pool: ProcessPoolExecutor | None) -> None:
        self._build, self._pool = build, pool

    def describe(self) -> dict[str, Any]:
        """Return what runs: versions, weights, configuration, hardware."""
        if self._pool is None:
            return _describe(self._build)
        with _explain_death():
            return self._pool.submit(_describe, self._build).result()

    def evaluate(self, images: list[DatasetImage]) -> Iterator[ImageAnswers]:
        """Evaluate every image; several processes finish them in any order."""
        if self._pool is None:
            yield from map(_load(self._build).evaluate, images)
            return
        with _explain_death():
            futures = [self._pool.submit(_evaluate, self._build, image) for image in images]
            for future in as_completed(futures):
                yield future.result()


@contextmanager
def open_processes(
    request: EvaluationRequest, settings: WorkerSettings, jobs: int, build: BuildEvaluator
) -> Iterator[EvaluationProcesses]:
    """Load the models in this process, or with ``jobs`` > 1 in that number of others."""
    if jobs == 1:
        try:
            yield EvaluationProcesses(_Build(build, request, settings), None)
        finally:
            _load.cache_clear()
        return
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, torch.set_num_threads, (threads,))
    try:
        yield EvaluationProcesses(_Build(build, request, settings), pool)
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
        truth=TruthProposer() if request.truth_proposals else None,
        models={name: load_model(name, settings, pipeline.device) for name in request.models},
    )


def load_model(name: str, settings: WorkerSettings, device: str) -> Segment:
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
    return CrisPredictor.load(Path(folder), store, device).segment


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
def _load(build: _Build) -> Evaluator:
    """Load the models of this process, once."""
    return build.function(build.request, build.settings)


def _evaluate(build: _Build, image: DatasetImage) -> ImageAnswers:
    return _load(build).evaluate(image)


def _describe(build: _Build) -> dict[str, Any]:
    evaluator = _load(build)
    pipeline = evaluator.pipeline
    return {
        "saymask": version("saymask"),
        "model_version": pipeline.model_version,
        "proposals": "truth" if evaluator.truth else pipeline.proposer.name,
        "encoder": pipeline.encoder.description,
        "device": name_device(pipeline.device),
        "precision": str(pipeline.encoder.visual.dtype),
        "torch": torch.__version__,
        "methods": [*(variant.name for variant in evaluator.variants), *evaluator.models],
        # As it is read again from JSON.
        "config": json.loads(json.dumps(asdict(pipeline.config))),
    }


def name_device(device: str) -> str:
    """Return the model of a GPU, or of the processors of this machine and their number."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()
