"""Use cases: what happens when someone types an expression or Label Studio reports something."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.contract import QUEUE_BACKGROUND, PrepareRequest, SegmentRequest, WorkerStatus
from backend.dispatch import Dispatcher
from backend.errors import InternalError, JobSuperseded, QueueUnavailable, SaymaskError
from backend.label_studio.client import PhotoFetcher
from backend.label_studio.regions import EMPTY_PREDICTION, build_region_id, to_prediction
from backend.label_studio.tasks import PredictCall, PredictTask, load_created_tasks
from backend.records.store import NewRequest, RequestView, Store

log = logging.getLogger(__name__)

_KNOWN_PHOTOS = 10_000
# Photos wait in Redis's memory: an import of thousands must not fill it.
_PREPARE_AHEAD = 50
_KNOWN_PHOTO_TTL_S = 600.0


class PhotoShelf:
    """Gets photos to the workers: fetched once, named by content, laid into Redis.

    A reference is remembered for ten minutes, so that a second expression on the same photo
    costs no second download.
    """

    def __init__(self, fetcher: PhotoFetcher, dispatcher: Dispatcher) -> None:
        self._fetcher = fetcher
        self._dispatcher = dispatcher
        self._known: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._lock = threading.Lock()

    def provide(self, task: PredictTask) -> str:
        """Make sure the workers can read the task's photo; returns its sha256."""
        sha256 = self._recall(task.photo)
        if sha256 is not None and self._dispatcher.has_photo(sha256):
            return sha256
        data = self._fetcher.fetch(task.photo, task.task_id)
        sha256 = hashlib.sha256(data).hexdigest()
        self._dispatcher.put_photo(sha256, data)
        with self._lock:
            self._known[_key_of(task.photo)] = (time.monotonic(), sha256)
            self._known.move_to_end(_key_of(task.photo))
            while len(self._known) > _KNOWN_PHOTOS:
                self._known.popitem(last=False)
        return sha256

    def _recall(self, photo: str) -> str | None:
        with self._lock:
            seen_at, sha256 = self._known.get(_key_of(photo), (0.0, ""))
        return sha256 if sha256 and time.monotonic() - seen_at < _KNOWN_PHOTO_TTL_S else None


@dataclass(frozen=True)
class Status:
    """Everything the status page shows. ``queue_error`` is set when Redis cannot be reached."""

    model_version: str
    workers: tuple[WorkerStatus, ...]
    queue_depths: dict[str, int]
    queue_error: str | None
    requests: dict[str, int]
    events: dict[str, int]
    recent: tuple[RequestView, ...]

    @property
    def is_ready(self) -> bool:
        return self.queue_error is None and any(
            worker.state != "loading" and worker.answers_people for worker in self.workers
        )


class Services:
    """The use cases over their explicit dependencies."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        photos: PhotoShelf,
        default_k: int,
        on_event: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_event = on_event
        self._store = store
        self._dispatcher = dispatcher
        self._photos = photos
        self._default_k = default_k

    def predict(self, call: PredictCall) -> list[dict[str, Any]]:
        """Answer a predict request: one prediction per task.

        Without an expression there is nothing to say (a task was opened, or the call Label
        Studio makes after every submit): empty predictions.
        """
        if call.expression is None:
            return [EMPTY_PREDICTION for _ in call.tasks]
        return [self._predict_task(call, call.tasks[0], call.expression)]

    def prepare_later(self, call: PredictCall) -> None:
        """Have the photos of opened tasks prepared while the annotator reads them."""
        self._prepare_photos(call.tasks)

    def _prepare_photos(self, tasks: tuple[PredictTask, ...]) -> None:
        for task in tasks:
            try:
                depth = self._dispatcher.queue_depths()[QUEUE_BACKGROUND]
                if depth >= _PREPARE_AHEAD:
                    log.info("%s photos wait to be prepared; no more for now", depth)
                    return
                sha256 = self._photos.provide(task)
                self._dispatcher.prepare(PrepareRequest(photo_sha256=sha256))
            except SaymaskError as error:
                # No one waits for this; typing an expression will meet and report the same.
                log.warning("photo of task %s not prepared ahead: %s", task.task_id, error)

    def _predict_task(
        self, call: PredictCall, task: PredictTask, expression: str
    ) -> dict[str, Any]:
        started = time.monotonic()
        k = call.k or self._default_k
        request_id = self._store.add_request(
            NewRequest(
                project_id=call.project_id,
                task_id=task.task_id,
                expression=expression,
                k=k,
                photo=task.photo if len(task.photo) < 2000 else task.photo[:200] + " ...",
            )
        )
        try:
            sha256 = self._photos.provide(task)
            result = self._dispatcher.segment(
                SegmentRequest(photo_sha256=sha256, expression=expression, k=k),
                # Without an id there is no telling who asks again.
                task=f"{call.project_id}:{task.task_id or uuid.uuid4().hex}",
                started=started,
            )
        except JobSuperseded as error:
            self._store.store_failure(request_id, error, _elapsed_ms(started))
            return EMPTY_PREDICTION
        except SaymaskError as error:
            log.warning("request %s for task %s failed: %s", request_id, task.task_id, error)
            self._store.store_failure(request_id, error, _elapsed_ms(started))
            raise
        except Exception as error:
            # A bug: keep the trace for us and a stored failure for the annotator, then pass it on.
            log.exception("request %s for task %s failed", request_id, task.task_id)
            failure = InternalError(f"{type(error).__name__}: {error}", "See the backend's log.")
            self._store.store_failure(request_id, failure, _elapsed_ms(started))
            raise failure from error
        region_ids = [build_region_id(request_id, c.rank) for c in result.candidates]
        self._store.store_answer(request_id, result, region_ids, _elapsed_ms(started))
        return to_prediction(result, call.label_config, request_id)

    def record_event(self, action: str, body: dict[str, Any]) -> int:
        """Keep a webhook; understanding it comes later."""
        event_id = self._store.append_event(action, body)
        self._on_event()
        return event_id

    def prepare_new_tasks(self, body: dict[str, Any]) -> None:
        """Have the photos of imported tasks prepared before anyone opens them."""
        try:
            tasks = load_created_tasks(body)
        except SaymaskError as error:
            log.warning("new tasks not prepared ahead: %s", error)
            return
        self._prepare_photos(tasks)

    def model_version(self) -> str:
        """For Label Studio's /setup, which must not fail because a worker is away."""
        try:
            return self._dispatcher.model_version()
        except QueueUnavailable as error:
            log.warning("%s", error)
            return "saymask-queue-unreachable"

    def status(self) -> Status:
        """The state of everything."""
        workers: tuple[WorkerStatus, ...] = ()
        depths: dict[str, int] = {}
        queue_error = None
        try:
            workers = tuple(self._dispatcher.workers())
            depths = self._dispatcher.queue_depths()
        except QueueUnavailable as error:
            queue_error = str(error)
        return Status(
            model_version=self.model_version() if queue_error is None else "unknown",
            workers=workers,
            queue_depths=depths,
            queue_error=queue_error,
            requests=self._store.count_requests(),
            events=self._store.count_events(),
            recent=tuple(self._store.recent_requests()),
        )


def _key_of(photo: str) -> str:
    """A reference may be a whole photo in a data: address; only its hash is remembered."""
    return hashlib.sha256(photo.encode()).hexdigest()


def _elapsed_ms(started: float) -> float:
    return (time.monotonic() - started) * 1000
