"""The training job: train, compare with what is served, serve what is better."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import redis
from filelock import FileLock, Timeout
from pydantic import ValidationError
from rich.console import Console
from rq import Retry, get_current_job

from saymask.contract import (
    JOB_TRAIN,
    TRAINING_META,
    JobReply,
    TrainingState,
    TrainingStatus,
    TrainRequest,
    TrainResult,
)
from saymask.errors import ConfigError, InternalError, SaymaskError, counted
from saymask.left_out import LeftOut
from saymask.model_registry import MIN_COMPARED_IMAGES, ModelRegistry, Verdict
from saymask.redaction import explain
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.serving.jobs import refuse_shape
from saymask_worker.serving.loaded_pipeline import free_memory
from saymask_worker.serving.rq_worker import JobFunctions, Message, to_failure

if TYPE_CHECKING:
    from saymask_worker.training.config import TrainingConfig
    from saymask_worker.training.history import Epoch

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_HELD_OUT_SHARE = 0.15
_RESERVED_SHARE = 0.2
# Of one run, by the ends of its workers.
_MAX_INTERRUPTIONS = 1000


class TrainingInterrupted(Exception):
    """The worker has to end; the next one continues the run."""


class TrainingStopped(SaymaskError):
    """The backend asked for the run to stop."""


class Learn(Protocol):
    """Trains and compares, for example ``LearnCris``."""

    def train(
        self,
        registry: ModelRegistry,
        run: str,
        epochs: int | None,
        on_epoch: Callable[[EpochReport], None],
    ) -> dict[str, Any]:
        """Train on a run's export into its folder; continue where an earlier try stopped."""
        ...

    def compare(self, registry: ModelRegistry, run: str) -> Verdict:
        """Compare a run's model with what is served."""
        ...


@dataclass(frozen=True)
class EpochReport:
    """How far training is: ``epoch`` of ``epochs`` are finished."""

    epoch: int
    epochs: int
    loss: float
    held_out_iou: float
    seconds_left: float


class TrainingHandler:
    """Answers the jobs of the training queue."""

    def __init__(self, settings: WorkerSettings, learn: Learn) -> None:
        self._models_dir = settings.models_dir
        self._learn = learn

    @property
    def functions(self) -> JobFunctions:
        """Job name to the function that answers it."""
        return {JOB_TRAIN: self.train}

    def train(self, message: Message) -> Message | Retry:
        """Answer ``JOB_TRAIN``: a TrainRequest in, a JobReply out, or a Retry by the next worker.

        Raises:
            TrainingStopped: the backend asked for it.
        """
        try:
            reply = self._train(TrainRequest.model_validate(message))
        except ValidationError as error:
            reply = refuse_shape(error)
        return reply if isinstance(reply, Retry) else reply.model_dump(mode="json")

    def _train(self, request: TrainRequest) -> JobReply | Retry:
        status = _Status(request)
        try:
            return JobReply(train=self._run(request, status))
        except (TrainingInterrupted, KeyboardInterrupt, SystemExit):
            status.report("waiting", text="The worker was stopped; the next one continues the run.")
            return Retry(max=_MAX_INTERRUPTIONS)
        except TrainingStopped as stopped:
            # RQ marks the job as stopped.
            status.report("failed", text=f"{stopped.cause} Continue it: {_resume(request)}")
            raise
        except Timeout:
            log.warning("run %s is in progress on another worker", request.run)
            elsewhere = InternalError(f"The run {request.run} is in progress on another worker.")
            return JobReply(failure=to_failure(elsewhere))
        except OSError as error:
            # The last checkpoint is complete.
            cure = "Make room, then continue it" if error.errno in _NO_ROOM else "Continue it"
            failure: SaymaskError = ConfigError(
                f"The run {request.run} ended with: {explain(error)}.",
                f"{cure}: {_resume(request)}",
            )
        except SaymaskError as error:
            failure = error
        except Exception as error:
            # A bug, in whatever trains: the status names it, and RQ marks the job as failed.
            log.exception("run %s failed", request.run)
            status.report("failed", text=f"A bug: {type(error).__name__}: {explain(error)}")
            raise
        finally:
            # For the workers that answer.
            free_memory()
        log.warning("run %s: %s", request.run, failure)
        status.report("failed", text=str(failure))
        return JobReply(failure=to_failure(failure))

    def _run(self, request: TrainRequest, status: _Status) -> TrainResult:
        registry = ModelRegistry(self._require_models_dir())
        folder = registry.folder / request.run
        data = registry.data_folder(request.run)
        if not data.is_dir():
            raise ConfigError(
                f"There is no export in {data}.",
                "Backend and training worker need the same SAYMASK_MODELS_DIR, on a shared disk.",
            )
        with FileLock(folder / ".lock", timeout=0):
            return self._run_alone(request, registry, status)

    def _run_alone(
        self, request: TrainRequest, registry: ModelRegistry, status: _Status
    ) -> TrainResult:
        """Do a run; the caller holds its lock."""
        status.report("training")
        summary = self._learn.train(registry, request.run, request.epochs, status.report_epoch)
        status.report("comparing", held_out_iou=summary["held_out_iou"])
        verdict = self._learn.compare(registry, request.run)
        registry.write_verdict(request.run, verdict)
        if verdict.is_better:
            registry.serve(request.run)
        text = _describe(verdict, len(summary["failed"]))
        log.info("run %s: %s", request.run, text)
        state: TrainingState = "served" if verdict.is_better else "not better"
        status.report(state, held_out_iou=summary["held_out_iou"], text=text)
        return TrainResult(
            run=request.run,
            held_out_iou=summary["held_out_iou"],
            is_served=verdict.is_better,
            difference=verdict.difference,
            low=verdict.low,
            high=verdict.high,
        )

    def _require_models_dir(self) -> Path:
        if self._models_dir is None:
            raise ConfigError(
                "This worker does not know where models are kept.",
                "Set SAYMASK_MODELS_DIR to the same folder as the backend's.",
            )
        return self._models_dir


class _Status:
    """Reports the progress of a run in the meta of its job, where the status page reads it."""

    def __init__(self, request: TrainRequest) -> None:
        self._request = request

    def report(self, state: TrainingState, **values: Any) -> None:
        """Store the status."""
        status = TrainingStatus(
            run=self._request.run,
            project_id=self._request.project_id,
            state=state,
            updated_at=time.time(),
            **values,
        )
        job = get_current_job()
        if job is None:
            return
        job.meta[TRAINING_META] = status.model_dump(mode="json")
        try:
            job.save_meta()
        except redis.RedisError as error:
            # Training continues without a status.
            log.warning("run %s is %s, which could not be stored: %s", status.run, state, error)

    def report_epoch(self, report: EpochReport) -> None:
        """Store how far training is."""
        self.report("training", **asdict(report))


class LearnCris:
    """Trains CRIS, and compares with the pipeline that the settings describe."""

    def __init__(self, settings: WorkerSettings, between_steps: Callable[[], None]) -> None:
        self._settings = settings
        self._between_steps = between_steps

    def train(
        self,
        registry: ModelRegistry,
        run: str,
        epochs: int | None,
        on_epoch: Callable[[EpochReport], None],
    ) -> dict[str, Any]:
        """Train on a run's export into its folder; continue where an earlier try stopped.

        Raises:
            DatasetError: the data is damaged, or there is too little of it.
            ConfigError: training's packages are missing.
            WeightsError: the towers' weights are missing.
        """
        # PyTorch is loaded with the first job, not by a worker that waits.
        from saymask_worker.training.config import require_training_packages

        with require_training_packages():
            from saymask_worker.training.command import TrainingRequest, run_training
            from saymask_worker.training.trainer import Hooks

        config = _build_config(epochs)

        def report(epoch: Epoch) -> None:
            left = (config.epochs - epoch.epoch - 1) * epoch.seconds
            on_epoch(
                EpochReport(epoch.epoch + 1, config.epochs, epoch.loss, epoch.held_out_iou, left)
            )

        folder = registry.folder / run
        request = TrainingRequest("export", registry.data_folder(run), None, folder, config)
        hooks = Hooks(report, self._between_steps)
        return run_training(request, self._settings, Console(quiet=True), hooks)

    def compare(self, registry: ModelRegistry, run: str) -> Verdict:
        """Compare a run's model with what is served, on photos that the run reserved for this.

        Raises:
            ConfigError, WeightsError: a model cannot be loaded.
        """
        from saymask.datasets import load_dataset
        from saymask_worker.pipeline.build import build_pipeline
        from saymask_worker.serving.model_comparison import compare_sources
        from saymask_worker.training.samples import read_samples, split_samples
        from saymask_worker.training.source import CrisSource
        from saymask_worker.weights import WeightStore

        settings = self._settings.model_copy(update={"sources": "proposals"})
        pipeline = build_pipeline(settings, self._between_steps)
        store, device = WeightStore(settings.cache_dir), pipeline.device
        new = CrisSource(registry.model_folder(run), store, device)
        served = registry.read_served()
        if served and not registry.model_folder(served).is_dir():
            log.warning(
                "the model %s, which is served, is missing: comparing with proposals", served
            )
            served = ""
        old = [CrisSource(registry.model_folder(served), store, device)] if served else []
        config = _build_config(None)
        dataset = load_dataset("export", registry.data_folder(run), None)
        # Training has named the photos that cannot be read.
        samples = read_samples(dataset, LeftOut())
        split = split_samples(samples, config.held_out_share, config.reserved_share, config.seed)
        return compare_sources(pipeline, split.reserved, old, [new], served, self._between_steps)


def _resume(request: TrainRequest) -> str:
    return f"saymask train --resume {request.run}"


def _build_config(epochs: int | None) -> TrainingConfig:
    from saymask_worker.training.config import TrainingConfig

    config = TrainingConfig(held_out_share=_HELD_OUT_SHARE, reserved_share=_RESERVED_SHARE)
    return config if epochs is None else replace(config, epochs=epochs)


def _describe(verdict: Verdict, unread: int) -> str:
    before = verdict.against or "proposals alone"
    few = (
        f"; too few photos to tell, {MIN_COMPARED_IMAGES} are needed"
        if verdict.images < MIN_COMPARED_IMAGES
        else ""
    )
    left_out = f"; photos that cannot be read and are left out: {unread}" if unread else ""
    return (
        f"IoU of the first suggestion {verdict.difference:+.3f} against {before}"
        f" [{verdict.low:+.3f}, {verdict.high:+.3f}] on"
        f" {counted(verdict.expressions, 'expression')} on {counted(verdict.images, 'photo')}"
        f" not used for training or model selection{few}{left_out}"
    )
