"""The state of queue, workers and requests."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from saymask.contract import TrainingStatus, WorkerStatus
from saymask.errors import QueueUnavailable
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.state import PrepareCounts
from saymask_backend.records.requests import RequestView
from saymask_backend.records.stores import Stores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """Everything the status page shows; ``queue_error`` is set when Redis cannot be reached."""

    requests: dict[str, int]
    events: dict[str, int]
    recent: tuple[RequestView, ...]
    queue_error: str | None = None
    model_version: str = "unknown"
    workers: tuple[WorkerStatus, ...] = ()
    queue_depths: dict[str, int] = field(default_factory=dict)
    images: PrepareCounts = field(default_factory=PrepareCounts)
    training: TrainingStatus | None = None

    @property
    def is_ready(self) -> bool:
        """Whether typed expressions are answered."""
        return self.queue_error is None and any(
            worker.state != "loading" and worker.serves(background=False) for worker in self.workers
        )


class StatusReader:
    """Reads the state of everything; an unreachable queue is part of it.

    The queue has a short timeout, so that one that hangs is reported in time.
    """

    def __init__(self, stores: Stores, queue: JobQueue) -> None:
        self._stores = stores
        self._queue = queue

    def read_status(self) -> Status:
        """Read everything."""
        status = Status(
            requests=self._stores.requests.count_requests(),
            events=self._stores.events.count_events_by_action(),
            recent=tuple(self._stores.requests.list_recent()),
        )
        try:
            return replace(
                status,
                workers=tuple(self._queue.list_workers()),
                queue_depths=self._queue.get_depths(),
                images=self._queue.get_prepare_counts(),
                training=self._queue.get_training_status(),
                model_version=self._queue.get_model_version(),
            )
        except QueueUnavailable as error:
            return replace(status, queue_error=str(error))

    def read_model_version(self) -> str:
        """Return the version for Label Studio's /setup, which must not fail without a worker."""
        try:
            return self._queue.get_model_version()
        except QueueUnavailable as error:
            log.warning("%s", error)
            return "saymask-queue-unreachable"
