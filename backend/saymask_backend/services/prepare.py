"""Preparing images before an expression is typed for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from saymask.contract import QUEUE_BACKGROUND, PrepareRequest
from saymask.errors import (
    ImageUnreadable,
    JobLost,
    QueueError,
    SaymaskError,
    WorkerUnavailable,
)
from saymask.left_out import LeftOut, OnProgress
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.predict_request import PredictRequest, PredictTask, parse_task
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.jobs import raise_failure
from saymask_backend.services.project_tasks import map_concurrently
from saymask_backend.services.upload_image import ImageUploader

log = logging.getLogger(__name__)

# Images wait in Redis's memory: an import of thousands must not fill it.
_MAX_WAITING = 50
# Tasks after the opened one whose images are prepared too.
_TASKS_AHEAD = 2
_POLL_S = 0.1
_MAX_LOST = 3


class ImagePreparer:
    """Enqueues the preparation of images, in the background.

    ``client`` finds the tasks after an opened one; without it, only that one is prepared.
    """

    def __init__(
        self, queue: JobQueue, images: ImageUploader, client: LabelStudioClient | None = None
    ) -> None:
        self._queue = queue
        self._images = images
        self._client = client

    def prepare_next(self, request: PredictRequest) -> None:
        """Prepare the images of the tasks after an opened one."""
        if len(request.tasks) == 1:
            self.prepare_tasks(self._find_next(request))

    def prepare_tasks(self, tasks: Sequence[PredictTask]) -> None:
        """Enqueue images until the queue is full; failures are counted and logged."""
        for task in tasks:
            try:
                depth = self._queue.get_depths()[QUEUE_BACKGROUND]
                if depth >= _MAX_WAITING:
                    log.info("%s images wait to be prepared; no more for now", depth)
                    return
                self._queue.prepare(PrepareRequest(image_sha256=self._images.upload(task)))
            except SaymaskError as error:
                # Nobody waits for this; typing an expression will meet and report the same.
                log.warning("image of task %s is not prepared: %s", task.task_id, error)
                if isinstance(error, QueueError) and error.concerns_all:
                    return
                self._queue.count_prepare_failure(error.cause)

    def _find_next(self, request: PredictRequest) -> list[PredictTask]:
        """The tasks an annotator will most likely open next; none where that is unknown."""
        if self._client is None:
            return []
        task_id = request.tasks[0].task_id
        try:
            tasks = self._client.list_tasks_after(request.project.id, task_id, _TASKS_AHEAD)
            return [parse_task(task, request.label_config) for task in tasks]
        except SaymaskError as error:
            log.info("the tasks after %s are not known: %s", task_id, error)
            return []


@dataclass(frozen=True)
class PrepareReport:
    """Number of prepared images, and why others were not."""

    prepared: int
    failed: tuple[str, ...]


def prepare_project(
    client: LabelStudioClient,
    queue: JobQueue,
    images: ImageUploader,
    project_id: int,
    progress: OnProgress,
) -> PrepareReport:
    """Prepare every image of a project, behind all interactive requests.

    Images that are prepared already cost milliseconds, so a second call continues the first.

    Raises:
        LabelStudioError, InvalidLabelConfig, QueueError.
    """
    config = client.get_project(project_id).read_label_config()
    failed = LeftOut()
    tasks = [parse_task(task, config) for task in client.iterate_tasks(project_id, failed)]
    prepared = prepare_images(queue, images, tasks, failed, progress)
    return PrepareReport(prepared, failed.lines)


def prepare_images(
    queue: JobQueue,
    images: ImageUploader,
    tasks: Sequence[PredictTask],
    failed: LeftOut,
    progress: OnProgress,
) -> int:
    """Prepare the images of tasks, a few at a time; returns the number of prepared ones."""
    prepared = 0

    def prepare(task: PredictTask) -> None:
        _prepare(queue, PrepareRequest(image_sha256=images.upload(task)))

    def count(_task: PredictTask, _outcome: None) -> None:
        nonlocal prepared
        prepared += 1

    map_concurrently(tasks, prepare, count, failed, progress)
    return prepared


def _prepare(queue: JobQueue, request: PrepareRequest) -> None:
    """Enqueue the preparation of an image, and wait for it as long as there is a worker.

    A job that was lost with its worker is enqueued again: workers give up an image that ended two
    of them.
    """
    last_worker_at = time.monotonic()
    for _ in range(_MAX_LOST):
        job_id = queue.prepare(request)
        try:
            while (reply := queue.read_prepared(job_id)) is None:
                if queue.has_worker(background=True):
                    last_worker_at = time.monotonic()
                elif time.monotonic() - last_worker_at > queue.background_grace_s:
                    raise WorkerUnavailable(
                        "No worker prepares photos.", "Start one: saymask-worker run"
                    )
                time.sleep(_POLL_S)
        except JobLost as error:
            log.warning("%s It is enqueued again.", error.cause)
        except SaymaskError as error:
            if not error.concerns_all:
                queue.count_prepare_failure(error.cause)
            raise
        else:
            raise_failure(reply)
            return
    raise ImageUnreadable(f"{_MAX_LOST} workers ended while they prepared the photo.")
