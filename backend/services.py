"""Use cases: what happens when someone types an expression or Label Studio reports something."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backend.contract import (
    QUEUE_BACKGROUND,
    Click,
    CocoRle,
    PrepareRequest,
    RefineRequest,
    SegmentRequest,
    SegmentResult,
    WorkerStatus,
)
from backend.dispatch import Dispatcher, PrepareCounts
from backend.errors import (
    DeadlineExceeded,
    InternalError,
    JobSuperseded,
    QueueError,
    QueueUnavailable,
    SaymaskError,
)
from backend.label_studio.client import PhotoFetcher
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.notices import describe_answer, describe_failure, to_notice
from backend.label_studio.regions import (
    EMPTY_PREDICTION,
    build_region_id,
    build_typed,
    to_prediction,
)
from backend.label_studio.tasks import (
    Gesture,
    PredictCall,
    PredictTask,
    check_expression,
    load_created_tasks,
)
from backend.masks import decode_coco_rle
from backend.records.outcomes import to_key
from backend.records.store import LastAnswer, NewRequest, RequestView, Store

log = logging.getLogger(__name__)

_KNOWN_PHOTOS = 10_000
# Photos wait in Redis's memory: an import of thousands must not fill it.
_PREPARE_AHEAD = 50
_KNOWN_PHOTO_TTL_S = 600.0
# Opening a task in the editor waits for its prediction; retrieving many ends at 100 s.
_OPENED_WAIT_S = 5.0
_BATCH_WAIT_S = 80.0


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
    photos: PrepareCounts
    requests: dict[str, int]
    events: dict[str, int]
    recent: tuple[RequestView, ...]

    @property
    def is_ready(self) -> bool:
        return self.queue_error is None and any(
            worker.state != "loading" and worker.answers_people for worker in self.workers
        )


@dataclass(frozen=True)
class Asking:
    """How a worker is asked; ``deadline_s`` None is the usual one."""

    kind: Literal["typed", "clicked", "ahead"]
    click_ids: tuple[str, ...] = ()
    deadline_s: float | None = None
    background: bool = False


Neighbours = Callable[[int, int, LabelConfig], Sequence[PredictTask]]


def no_neighbours(_project: int, _task: int, _config: LabelConfig) -> Sequence[PredictTask]:
    """Where Label Studio cannot be asked."""
    return ()


class Services:
    """The use cases over their explicit dependencies."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        photos: PhotoShelf,
        default_k: int,
        on_event: Callable[[], None] = lambda: None,
        neighbours: Neighbours = no_neighbours,
    ) -> None:
        self._on_event = on_event
        self._store = store
        self._dispatcher = dispatcher
        self._photos = photos
        self._default_k = default_k
        self._neighbours = neighbours

    def predict(self, call: PredictCall) -> list[Any]:
        """Answer a predict request: per task one prediction, or none at all (an empty list), which
        Label Studio does not store.

        Typed or clicked: candidates and a notice in words; a failure is a notice too, for the
        editor shows no other. Tasks whose data holds expressions: a region for each. Opened tasks
        without any, and the call Label Studio makes after every submit: nothing.
        """
        if not call.interactive:
            return self._predict_ahead(call)
        task = call.tasks[0]
        if call.gesture is None and not call.typed:
            return [EMPTY_PREDICTION]
        expression = None
        try:
            if call.gesture is not None:
                last = self._store.last_answer(call.project_id, task.task_id)
                expression = last.expression if last else ""
                gesture = call.gesture.without(last.old_clicks) if last else call.gesture
                if gesture is None:
                    return [EMPTY_PREDICTION]
                return [self._refine(call, task, gesture, expression, last)]
            expression = self._choose_typed(call, task)
            return [self._predict_typed(call, task, check_expression(expression))]
        except JobSuperseded:
            return [EMPTY_PREDICTION]
        except SaymaskError as error:
            notice = to_notice(call.label_config, describe_failure(error, expression))
            if not notice:
                raise
            return [{"result": notice, "score": 0.0}]

    def _choose_typed(self, call: PredictCall, task: PredictTask) -> str:
        """The editor sends all lines of the field. One that was changed in its place is new; else
        the last one was typed again."""
        if len(call.typed) == 1:
            return call.typed[0]
        asked = self._store.asked(call.project_id, task.task_id)
        keys = {to_key(text) for text in asked}
        new = [text for text in call.typed if to_key(text) not in keys]
        return new[-1] if new else call.typed[-1]

    def _predict_typed(
        self, call: PredictCall, task: PredictTask, expression: str
    ) -> dict[str, Any]:
        k = call.k or self._default_k
        request_id, result = self._ask(
            call.project_id, task, expression, k, Asking("typed"),
            lambda sha256: SegmentRequest(photo_sha256=sha256, expression=expression, k=k),
        )  # fmt: skip
        return _to_answer(call, request_id, result)

    def _refine(
        self,
        call: PredictCall,
        task: PredictTask,
        gesture: Gesture,
        expression: str,
        last: LastAnswer | None,
    ) -> dict[str, Any]:
        k = call.k or self._default_k
        start = choose_start(gesture, last.masks) if last else None

        def build(sha256: str) -> RefineRequest:
            return RefineRequest(
                photo_sha256=sha256,
                expression=expression,
                clicks=tuple(Click(x=x, y=y, positive=p) for x, y, p in gesture.clicks),
                box_xyxy=gesture.box_xyxy,
                start=CocoRle.model_validate(start) if start else None,
                k=k,
            )

        asking = Asking("clicked", gesture.ids)
        request_id, result = self._ask(call.project_id, task, expression, k, asking, build)
        return _to_answer(call, request_id, result, gesture.count)

    def _predict_ahead(self, call: PredictCall) -> list[Any]:
        """Label Studio waits for all of them at once: what is not ready in time stays without a
        prediction and comes with the next call."""
        alone = len(call.tasks) == 1
        until = time.monotonic() + (_OPENED_WAIT_S if alone else _BATCH_WAIT_S)
        answers: list[Any] = []
        for task in call.tasks:
            try:
                found = self.predict_ahead(call.project_id, task, call.label_config, until,
                                           background=not alone)  # fmt: skip
                answers.append(found or [])
            except SaymaskError as error:
                log.warning("task %s has no prediction: %s", task.task_id, error)
                answers.append([])
        return answers

    def predict_ahead(
        self,
        project_id: int,
        task: PredictTask,
        config: LabelConfig,
        until: float,
        *,
        background: bool = True,
    ) -> dict[str, Any] | None:
        """One prediction with a region for each expression of the task's data, scored with the
        least confidence among them; None when there is no expression.

        Args:
            until: ``time.monotonic()`` at which to give up.

        Raises:
            SaymaskError: an expression or the photo cannot be answered.
        """
        regions: list[dict[str, Any]] = []
        confidences = []
        version = ""
        for expression in task.expressions:
            if until <= time.monotonic():
                raise DeadlineExceeded("No time was left for this task.", "Retrieve it again.")
            asked = check_expression(expression)
            asking = Asking("ahead", (), until - time.monotonic(), background)
            request_id, result = self._ask(
                project_id, task, asked, 1, asking,
                lambda sha256, text=asked: SegmentRequest(  # type: ignore[misc]
                    photo_sha256=sha256, expression=text, k=1
                ),
            )  # fmt: skip
            regions += to_prediction(result, config, request_id)["result"]
            confidences.append((result.confidence or 0.0) if result.candidates else 0.0)
            version = result.model_version
        if not confidences:
            return None
        if len(task.expressions) == 1:
            # As if it had been typed: the annotator sees it, and may type another.
            regions.insert(0, build_typed(config, task.expressions[0]))
        return {"result": regions, "score": min(confidences), "model_version": version}

    def prepare_later(self, call: PredictCall) -> None:
        """Have the photos of opened tasks and their neighbours prepared while the annotator
        reads."""
        self._prepare_photos(call.tasks)
        if len(call.tasks) == 1:
            task_id = call.tasks[0].task_id
            self._prepare_photos(self._neighbours(call.project_id, task_id, call.label_config))

    def _prepare_photos(self, tasks: Sequence[PredictTask]) -> None:
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
                if isinstance(error, QueueError):
                    return
                self._dispatcher.count_unprepared(error.cause)

    def _ask(
        self,
        project_id: int,
        task: PredictTask,
        expression: str,
        k: int,
        asking: Asking,
        build: Callable[[str], SegmentRequest | RefineRequest],
    ) -> tuple[int, SegmentResult]:
        """Store the question, ask a worker, store the answer or the failure."""
        started = time.monotonic()
        request_id = self._store.add_request(
            NewRequest(
                project_id=project_id,
                task_id=task.task_id,
                expression=expression,
                k=k,
                photo=task.photo if len(task.photo) < 2000 else task.photo[:200] + " ...",
                kind=asking.kind,
                click_ids=asking.click_ids,
            )
        )
        # Without an id there is no telling who asks again.
        place = f"{project_id}:{task.task_id or uuid.uuid4().hex}"
        if asking.kind == "ahead":
            # Several expressions of one task do not replace one another, nor what is typed.
            place = f"ahead:{request_id}"
        try:
            sha256 = self._photos.provide(task)
            result = self._dispatcher.segment(
                build(sha256), task=place, started=started, deadline_s=asking.deadline_s,
                background=asking.background,
            )  # fmt: skip
        except SaymaskError as error:
            if not isinstance(error, JobSuperseded):
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
        return request_id, result

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
        photos = PrepareCounts()
        try:
            workers = tuple(self._dispatcher.workers())
            depths = self._dispatcher.queue_depths()
            photos = self._dispatcher.prepare_counts()
        except QueueUnavailable as error:
            queue_error = str(error)
        return Status(
            model_version=self.model_version() if queue_error is None else "unknown",
            workers=workers,
            queue_depths=depths,
            queue_error=queue_error,
            photos=photos,
            requests=self._store.count_requests(),
            events=self._store.count_events(),
            recent=tuple(self._store.recent_requests()),
        )


def _to_answer(
    call: PredictCall, request_id: int, result: SegmentResult, clicks: int = 0
) -> dict[str, Any]:
    """Suggestions, and in words what they are."""
    prediction = to_prediction(result, call.label_config, request_id)
    notice = to_notice(call.label_config, describe_answer(result, clicks))
    return {**prediction, "result": [*prediction["result"], *notice]}


def choose_start(gesture: Gesture, masks: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The candidate that clicks are about: the first that holds one of them, else the best. A box
    starts anew."""
    if gesture.box_xyxy is not None or not masks:
        return None
    for coco_rle in masks:
        mask = decode_coco_rle(coco_rle)
        height, width = mask.shape
        for x, y, _ in gesture.clicks:
            if mask[min(int(y), height - 1), min(int(x), width - 1)]:
                return coco_rle
    return masks[0]


def _key_of(photo: str) -> str:
    """A reference may be a whole photo in a data: address; only its hash is remembered."""
    return hashlib.sha256(photo.encode()).hexdigest()


def _elapsed_ms(started: float) -> float:
    return (time.monotonic() - started) * 1000
