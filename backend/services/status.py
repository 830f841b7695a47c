"""The state of queue, workers and requests."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from backend.queue import JobQueue, PrepareCounts
from backend.records.requests import RequestView
from backend.records.stores import Stores
from saymask.contract import WorkerStatus
from saymask.errors import QueueUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """Everything the status page shows; ``queue_error`` is set when Redis cannot be reached."""

    model_version: str
    workers: tuple[WorkerStatus, ...]
    queue_depths: dict[str, int]
    queue_error: str | None
    images: PrepareCounts
    requests: dict[str, int]
    events: dict[str, int]
    recent: tuple[RequestView, ...]

    @property
    def is_ready(self) -> bool:
        """Whether typed expressions are answered."""
        return self.queue_error is None and any(
            worker.state != "loading" and worker.serves(background=False) for worker in self.workers
        )


def read_status(stores: Stores, queue: JobQueue) -> Status:
    """Read the state of everything; an unreachable queue is part of it."""
    workers: tuple[WorkerStatus, ...] = ()
    depths: dict[str, int] = {}
    queue_error = None
    images = PrepareCounts()
    try:
        workers = tuple(queue.list_workers())
        depths = queue.get_depths()
        images = queue.get_prepare_counts()
    except QueueUnavailable as error:
        queue_error = str(error)
    return Status(
        model_version=read_model_version(queue) if queue_error is None else "unknown",
        workers=workers,
        queue_depths=depths,
        queue_error=queue_error,
        images=images,
        requests=stores.requests.count_requests(),
        events=stores.events.count_events_by_action(),
        recent=tuple(stores.requests.list_recent()),
    )


def read_model_version(queue: JobQueue) -> str:
    """Return the model version for Label Studio's /setup, which must not fail without a worker."""
    try:
        return queue.get_model_version()
    except QueueUnavailable as error:
        log.warning("%s", error)
        return "saymask-queue-unreachable"
