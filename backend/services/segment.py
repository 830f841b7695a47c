"""Asking a worker: the question is stored first, then the answer or the failure."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from backend.label_studio.predict_request import PredictTask
from backend.label_studio.predictions import build_region_id
from backend.queue import JobQueue
from backend.records.requests import NewRequest, RequestKind, RequestStore
from backend.services.answers import Suggestions
from backend.services.upload_image import ImageUploader
from saymask.contract import MAX_EXPRESSION_CHARS, RefineRequest, SegmentRequest
from saymask.errors import InternalError, InvalidExpression, JobSuperseded, SaymaskError

log = logging.getLogger(__name__)

_MAX_STORED_REFERENCE_CHARS = 2000

BuildRequest = Callable[[str], SegmentRequest | RefineRequest]
"""Builds the request for an image's sha256."""


@dataclass(frozen=True)
class Question:
    """What is asked, by whom and how.

    Attributes:
        kind: as in ``records.requests``.
        click_ids: the editor's ids of clicks and boxes.
        deadline_s: None for the usual deadline.
        background: behind all interactive requests.
    """

    project_id: int
    task: PredictTask
    expression: str
    k: int
    kind: RequestKind
    click_ids: tuple[str, ...] = ()
    deadline_s: float | None = None
    background: bool = False


class Segmenter:
    """Asks the workers on behalf of annotators and of tasks that come with expressions."""

    def __init__(self, requests: RequestStore, queue: JobQueue, images: ImageUploader) -> None:
        self._requests = requests
        self._queue = queue
        self._images = images

    def segment(self, question: Question) -> Suggestions:
        """Rank the proposals of the task's image against an expression.

        Raises:
            InvalidExpression: it is too long.
            SaymaskError: no answer; the failure is stored.
        """
        check_length(question.expression)
        return self.ask(
            question,
            lambda sha256: SegmentRequest(
                image_sha256=sha256, expression=question.expression, k=question.k
            ),
        )

    def ask(self, question: Question, build: BuildRequest) -> Suggestions:
        """Store the question, ask a worker, store the answer or the failure.

        Raises:
            SaymaskError: no answer; the failure is stored.
        """
        started = time.monotonic()
        task = question.task
        request_id = self._requests.add_request(_to_new_request(question))
        try:
            sha256 = self._images.upload(task)
            result = self._queue.segment(
                build(sha256),
                source=_name_source(question, request_id),
                started=started,
                deadline_s=question.deadline_s,
                background=question.background,
            )
        except SaymaskError as error:
            if not isinstance(error, JobSuperseded):
                log.warning("request %s for task %s failed: %s", request_id, task.task_id, error)
            self._requests.save_failure(request_id, error, _elapsed_ms(started))
            raise
        except Exception as error:
            # A bug: keep the trace in the log and a stored failure for the annotator.
            log.exception("request %s for task %s failed", request_id, task.task_id)
            failure = InternalError(f"{type(error).__name__}: {error}", "See the backend's log.")
            self._requests.save_failure(request_id, failure, _elapsed_ms(started))
            raise failure from error
        region_ids = [build_region_id(request_id, c.rank) for c in result.candidates]
        self._requests.save_answer(request_id, result, region_ids, _elapsed_ms(started))
        return Suggestions(request_id, result)


def check_length(expression: str) -> None:
    """Check that an expression is not too long.

    Raises:
        InvalidExpression: it is.
    """
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise InvalidExpression(
            f"The expression has {len(expression)} characters; the longest allowed is"
            f" {MAX_EXPRESSION_CHARS}.",
            "A sentence that names one object is enough.",
        )


def _to_new_request(question: Question) -> NewRequest:
    image = question.task.image
    return NewRequest(
        project_id=question.project_id,
        task_id=question.task.task_id,
        expression=question.expression,
        k=question.k,
        image=image if len(image) < _MAX_STORED_REFERENCE_CHARS else image[:200] + " ...",
        kind=question.kind,
        click_ids=question.click_ids,
    )


def _name_source(question: Question, request_id: int) -> str:
    """Who asks: a newer request from the same task replaces an older one.

    Several expressions in one task's data replace neither one another nor what is typed. Without
    a task id nobody can be recognised.
    """
    if question.kind == "ahead":
        return f"ahead:{request_id}"
    return f"{question.project_id}:{question.task.task_id or uuid.uuid4().hex}"


def _elapsed_ms(started: float) -> float:
    return (time.monotonic() - started) * 1000
