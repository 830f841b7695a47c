"""Running an evaluation: processes, progress, going on after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from backend.datasets.load import Dataset, EvaluationPhoto, load_dataset
from backend.errors import DatasetError
from worker.config import PipelineConfig, ScoringConfig, WorkerSettings
from worker.evaluation.methods import choose_methods
from worker.evaluation.outcomes import Evaluator, PhotoOutcome, TruthProposer
from worker.evaluation.results import Results, build_results
from worker.pipeline import build_pipeline

log = logging.getLogger(__name__)

OUTCOMES_FILE = "outcomes.jsonl"
RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        dataset, root, split, split_by, limit: see ``load_dataset``.
        methods: names or groups, comma separated.
        truth_proposals: take the annotated objects as proposals.
        no_target_below: answers with a lower score are withheld; None withholds none.
    """

    dataset: str
    root: Path
    split: str
    split_by: str | None
    limit: int | None
    methods: str
    truth_proposals: bool
    no_target_below: float | None


def run_evaluation(
    request: EvaluationRequest, settings: WorkerSettings, out: Path, jobs: int, console: Console
) -> tuple[Results, Dataset, list[PhotoOutcome]]:
    """Evaluate, or go on with what an interrupted run left in ``out``.

    Returns:
        The tables (also in ``out``), the data set, and the outcomes in its order.

    Raises:
        DatasetError: something of the data set is wrong, or ``out`` holds another run.
        ConfigError, WeightsError.
    """
    # Wrong names are found before models are loaded.
    choose_methods(PipelineConfig(), ScoringConfig(), request.methods)
    dataset = load_dataset(
        request.dataset, request.root, request.split,
        split_by=request.split_by, limit=request.limit,
    )  # fmt: skip
    if request.truth_proposals and not any(photo.instances for photo in dataset.photos):
        raise DatasetError(f"{request.dataset} has no annotated objects to take as proposals.")
    console.print(f"{len(dataset.photos)} photos, {dataset.count} expressions")
    with _open_workers(request, settings, jobs) as workers:
        provenance = workers.describe() | _describe_run(request, dataset)
        log_file = OutcomeLog(out, provenance)
        log_file.drop_torn_end()
        done = {outcome.photo: outcome for outcome in log_file.read()}
        left = [photo for photo in dataset.photos if photo.path.name not in done]
        if done:
            console.print(f"{len(done)} photos were done before")
        started = time.monotonic()
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("photos", total=len(left), rate="")
            for count, outcome in enumerate(workers.work(left), start=1):
                log_file.append(outcome)
                done[outcome.photo] = outcome
                rate = 60 * count / (time.monotonic() - started)
                progress.update(task, advance=1, rate=f"{rate:.1f} a minute")
    outcomes = [done[photo.path.name] for photo in dataset.photos]
    results = build_results(outcomes, provenance)
    (out / RESULTS_FILE).write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return results, dataset, outcomes


def load_outcomes(out: Path) -> tuple[dict[str, Any], list[PhotoOutcome]]:
    """Provenance and outcomes of a finished run, photos by name.

    Raises:
        DatasetError: there is none, it is damaged or not finished.
    """
    path = out / OUTCOMES_FILE
    provenance = _read_header(path)
    if provenance is None:
        raise DatasetError(f"{path} holds no evaluation.", "Give the --out of an earlier run.")
    outcomes = OutcomeLog(out, provenance).read()
    if len(outcomes) < provenance["photos"]:
        raise DatasetError(
            f"{path} is not finished: {len(outcomes)} of {provenance['photos']} photos.",
            "Run that evaluation again; it goes on where it stopped.",
        )
    return provenance, sorted(outcomes, key=lambda outcome: outcome.photo)


class OutcomeLog:
    """One line of JSON per photo behind a line that says what was run.

    Raises:
        DatasetError: the file belongs to another run.
    """

    def __init__(self, out: Path, provenance: dict[str, Any]) -> None:
        self._path = out / OUTCOMES_FILE
        out.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            self._path.write_text(json.dumps(provenance) + "\n", encoding="utf-8")
            return
        before = _read_header(self._path)
        if before is None:
            raise DatasetError(f"{self._path} holds something else.", "Choose another --out.")
        keys = before.keys() | provenance.keys()
        changed = [key for key in sorted(keys) if before.get(key) != provenance.get(key)]
        if changed:
            raise DatasetError(
                f"{self._path} belongs to another run: {', '.join(changed)} differ.",
                "Choose another --out, or delete that folder.",
            )

    def drop_torn_end(self) -> None:
        """A last line cut off by a kill goes, and its photo is done again."""
        data = self._path.read_bytes()
        if not data.endswith(b"\n"):
            self._path.write_bytes(data[: data.rfind(b"\n") + 1])

    def read(self) -> list[PhotoOutcome]:
        """What is done.

        Raises:
            DatasetError: a line is damaged; names it.
        """
        found = []
        for number, line in enumerate(self._path.read_bytes().split(b"\n")[1:-1], start=2):
            try:
                found.append(PhotoOutcome.model_validate_json(line))
            except ValidationError as error:
                raise DatasetError(f"{self._path} is damaged in line {number}.") from error
        return found

    def append(self, outcome: PhotoOutcome) -> None:
        """Keep one more photo."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(outcome.model_dump_json() + "\n")


def _read_header(path: Path) -> dict[str, Any] | None:
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and "model_version" in header else None


def _describe_run(request: EvaluationRequest, dataset: Dataset) -> dict[str, Any]:
    photos = hashlib.sha256()
    for photo in dataset.photos:
        photos.update(photo.path.name.encode())
        photos.update(repr((photo.expressions, photo.instances)).encode())
    return {
        "dataset": request.dataset,
        "split": request.split,
        "photos": len(dataset.photos),
        "expressions": dataset.count,
        "content": photos.hexdigest()[:16],
        "no_target_below": request.no_target_below,
    }


def build_evaluator(request: EvaluationRequest, settings: WorkerSettings) -> Evaluator:
    """Load the models of one process."""
    pipeline = build_pipeline(settings)
    return Evaluator(
        pipeline=pipeline,
        methods=choose_methods(pipeline.config, pipeline.encoder.scoring, request.methods),
        no_target_below=request.no_target_below,
        photo_max_megapixels=settings.photo_max_megapixels,
        truth=TruthProposer() if request.truth_proposals else None,
    )


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
        "methods": [method.name for method in evaluator.methods],
        "config": asdict(pipeline.config),
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


class _Workers(Protocol):
    """Where the models are: in this process or in several others."""

    def describe(self) -> dict[str, Any]: ...

    def work(self, photos: list[EvaluationPhoto]) -> Iterator[PhotoOutcome]: ...


@contextmanager
def _open_workers(
    request: EvaluationRequest, settings: WorkerSettings, jobs: int
) -> Iterator[_Workers]:
    if jobs == 1:
        yield _Alone(build_evaluator(request, settings))
        return
    threads = max(1, torch.get_num_threads() // jobs)
    settings = settings.model_copy(update={"threads": settings.threads or threads})
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _start_process, (request, settings)
    )
    try:
        yield _Several(pool)
    finally:
        pool.shutdown(cancel_futures=True)


class _Alone:
    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def describe(self) -> dict[str, Any]:
        return _describe(self._evaluator)

    def work(self, photos: list[EvaluationPhoto]) -> Iterator[PhotoOutcome]:
        return map(self._evaluator.evaluate, photos)


class _Several:
    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def describe(self) -> dict[str, Any]:
        with _explain_death():
            return self._pool.submit(_describe_process).result()

    def work(self, photos: list[EvaluationPhoto]) -> Iterator[PhotoOutcome]:
        with _explain_death():
            for future in as_completed([self._pool.submit(_evaluate_photo, p) for p in photos]):
                yield future.result()


@contextmanager
def _explain_death() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise DatasetError(
            "A process died: its models could not be loaded, or memory ran out.",
            "Run with --jobs 1 to see why; it goes on where this run stopped.",
        ) from error


_evaluator: Evaluator | None = None


def _start_process(request: EvaluationRequest, settings: WorkerSettings) -> None:
    global _evaluator
    _evaluator = build_evaluator(request, settings)


def _own_evaluator() -> Evaluator:
    if _evaluator is None:
        raise RuntimeError("the process was not started by _start_process")
    return _evaluator


def _describe_process() -> dict[str, Any]:
    return _describe(_own_evaluator())


def _evaluate_photo(photo: EvaluationPhoto) -> PhotoOutcome:
    return _own_evaluator().evaluate(photo)
