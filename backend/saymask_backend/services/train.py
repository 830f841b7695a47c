"""Have a model trained on what annotators decided."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from saymask.contract import TrainingStatus, TrainRequest
from saymask.errors import InvalidRequest, QueueError, SaymaskError, TrainingUnderway
from saymask.left_out import OnProgress
from saymask.model_registry import ModelRegistry
from saymask_backend.export.plan import ExportPlan, ExportSummary, parse_split, select_outcomes
from saymask_backend.queue.training import TrainingQueue
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.export import Exporter
from saymask_backend.services.record import Recorder

log = logging.getLogger(__name__)

_REQUEST_FILE = "request.json"


@dataclass(frozen=True)
class StartedRun:
    """A run that a training worker will do, and the export that it learns from."""

    run: str
    export: ExportSummary | None


class TrainingStarter:
    """Exports records and asks for a model to be trained on them; workers share ``models_dir``."""

    def __init__(
        self, models_dir: Path, exporter: Exporter, recorder: Recorder, queue: TrainingQueue
    ) -> None:
        self._registry = ModelRegistry(models_dir)
        self._exporter = exporter
        self._recorder = recorder
        self._queue = queue

    def start(
        self,
        project_id: int | None,
        epochs: int | None = None,
        progress: OnProgress = lambda _done, _total: None,
    ) -> StartedRun:
        """Export the records of a project, or of all, and enqueue a run on them.

        Raises:
            TrainingUnderway: another run is not over.
            ExportError, ImageError: there are no records with masks, or an image is missing.
            QueueUnavailable: Redis cannot be reached; the export is removed again.
        """
        self._refuse_second()
        self._recorder.process_waiting()
        run = self._registry.create_run()
        folder = self._registry.folder / run
        request = TrainRequest(project_id=project_id or 0, run=run, epochs=epochs)
        try:
            summary = self._export(project_id, self._registry.data_folder(run), progress)
            (folder / _REQUEST_FILE).write_text(request.model_dump_json(), "utf-8")
            self._queue.enqueue(request)
        except BaseException:
            # An interrupt too must not leave a run that no job is about to train.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        log.info("run %s of project %s: %d referents", run, project_id, summary.referents)
        return StartedRun(run, summary)

    def start_unattended(self, project_id: int) -> None:
        """Start on behalf of a webhook, whose sender ignores errors: the status page shows them."""
        try:
            self.start(project_id)
        except (TrainingUnderway, QueueError) as error:
            log.warning("no training: %s", error)
        except SaymaskError as error:
            log.warning("no training: %s", error)
            status = TrainingStatus(
                run="", project_id=project_id, state="failed", text=str(error),
                updated_at=time.time(),
            )  # fmt: skip
            try:
                self._queue.tell_failure(status)
            except TrainingUnderway as underway:
                log.warning("not shown on the status page: %s", underway)

    def resume(self, run: str) -> StartedRun:
        """Enqueue a run again that failed or was lost; it continues from its last checkpoint.

        Raises:
            InvalidRequest: there is no such run.
            TrainingUnderway: another run is not over.
            QueueUnavailable: Redis cannot be reached.
        """
        self._refuse_second()
        path = self._registry.folder / run / _REQUEST_FILE
        try:
            request = TrainRequest.model_validate_json(path.read_text("utf-8"))
        except (OSError, ValidationError) as error:
            raise InvalidRequest(
                f"There is no run {run!r} in {self._registry.folder}.",
                "Begin one: saymask train --project 1",
            ) from error
        self._queue.enqueue(request)
        return StartedRun(run, None)

    def stop(self) -> str:
        """Ask the run that is underway to stop, or withdraw one that waits; returns its name.

        Raises:
            InvalidRequest: there is none.
            QueueUnavailable: Redis cannot be reached.
        """
        status = self._find_underway()
        if status is None:
            raise InvalidRequest("No run is underway.", "See: saymask models list")
        self._queue.stop(status)
        return status.run

    def _find_underway(self) -> TrainingStatus | None:
        status = self._queue.get_training_status()
        is_underway = status is not None and not status.is_over and self._queue.is_training()
        return status if is_underway else None

    def _refuse_second(self) -> None:
        status = self._find_underway()
        if status is not None:
            raise TrainingUnderway(
                f"The run {status.run} is {status.state} ({status.epoch} of {status.epochs}"
                " epochs).",
                "Wait for it; the status page shows how far it is.",
            )

    def _export(self, project_id: int | None, out: Path, progress: OnProgress) -> ExportSummary:
        record_filter = RecordFilter(project_id=project_id, outcomes=select_outcomes("refcoco", ()))
        plan = ExportPlan(
            format="refcoco",
            out=out,
            query={"project_id": project_id, "split": "100/0/0", "seed": 0},
            split=parse_split("100/0/0", 0),
            images="copy",
            merge="latest",
            skip_missing=True,
        )
        left_out = self._exporter.hash_unread_images(record_filter, progress, skip_missing=True)
        return self._exporter.write(plan, record_filter, progress, left_out)
