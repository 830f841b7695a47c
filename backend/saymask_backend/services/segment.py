"""Asking a worker: the question is stored first, then the answer or the failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from saymask.contract import (
    MAX_EXPRESSION_CHARS,
    RefineRequest,
    SegmentRequest,
    SegmentResult,
)
from saymask.errors import (
    ImageEvicted,
    InternalError,
    InvalidExpression,
    JobSuperseded,
    SaymaskError,
)
from saymask.redaction import explain
from saymask_backend.label_studio.predict_request import PredictTask
from saymask_backend.label_studio.predictions import build_region_id
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.pending import Call
from saymask_backend.records.requests import NewRequest, RequestKind, RequestStore
from saymask_backend.records.types import ProjectKey
from saymask_backend.services.answers import Suggestions
from saymask_backend.services.upload_image import ImageUploader

log = logging.getLogger(__name__)

_MAX_STORED_REFERENCE_CHARS = 2000

BuildRequest = Callable[[str], SegmentRequest | RefineRequest]
"""Builds the request for an image's sha256."""


@dataclass(frozen=True)
class Question:
    """What is asked, by whom and how.

    Attributes:
        kind: as in ``records.requests``.
        call: the call that waits for the answer.
        asked_by: the editor's id of the field or the first click: equal for one annotator who
            changes it, different for two annotators of one task. Empty when unknown.
        click_ids: the editor's ids of clicks and boxes.
        deadline_s: from the call's arrival; None for the usual deadline.
        background: behind all interactive requests.
    """

    project: ProjectKey
    task: PredictTask
    expression: str
    k: int
    kind: RequestKind
    call: Call
    asked_by: str = ""
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
        _check_length(question.expression)
        return self.ask(
            question,
            lambda sha256: SegmentRequest(
                image_sha256=sha256,
                expression=question.expression,
                k=question.k,
                accepts_first_look=question.kind == "typed",
            ),
        )

    def find_answers(self, project: ProjectKey, task: PredictTask) -> dict[str, Suggestions]:
        """Return what was answered before for the expressions in a task's data, by expression.

        Only answers of the workers' version, for the image as it is now; none where either is not
        known. Asking then fails for the same reason, which is stored.
        """
        try:
            sha256 = self._images.upload(task)
            version = self._queue.get_model_version()
        except SaymaskError:
            return {}
        answers = self._requests.load_answers(project, task.task_id, sha256, version)
        return {result.expression: Suggestions(number, result) for number, result in answers}

    def ask(self, question: Question, build: BuildRequest) -> Suggestions:
        """Store the question, ask a worker, store the answer or the failure.

        Raises:
            SaymaskError: no answer; the failure is stored.
        """
        task, call = question.task, question.call
        request_id = self._requests.add_request(_to_new_request(question))
        try:
            result = self._ask_worker(question, build)
        except SaymaskError as error:
            if not isinstance(error, JobSuperseded):
                log.warning("request %s for task %s failed: %s", request_id, task.task_id, error)
            self._requests.save_failure(request_id, error, _elapsed_ms(call))
            raise
        except Exception as error:
            # A bug: keep the trace in the log and a stored failure for the annotator.
            log.exception("request %s for task %s failed", request_id, task.task_id)
            failure = InternalError(
                f"{type(error).__name__}: {explain(error)}", "See the backend's log."
            )
            self._requests.save_failure(request_id, failure, _elapsed_ms(call))
            raise failure from error
        region_ids = [build_region_id(request_id, c.rank) for c in result.candidates]
        self._requests.save_answer(request_id, result, region_ids, _elapsed_ms(call))
        return Suggestions(request_id, result)

    def _ask_worker(self, question: Question, build: BuildRequest) -> SegmentResult:
        """Ask a worker; once more where the image was gone from the queue's memory by then."""

        def ask() -> SegmentResult:
            return self._queue.segment(
                build(self._images.upload(question.task)),
                requester=_name_source(question),
                call=question.call,
                deadline_s=question.deadline_s,
                background=question.background,
            )

        try:
            return ask()
        except ImageEvicted as error:
            log.warning("%s It is stored again.", error.cause)
            return ask()


def _check_length(expression: str) -> None:
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


def shorten_reference(image: str) -> str:
    """Return an image's reference as requests store it: a ``data:`` address is a whole image."""
    return image if len(image) < _MAX_STORED_REFERENCE_CHARS else image[:200] + " ..."


def _to_new_request(question: Question) -> NewRequest:
    return NewRequest(
        project=question.project,
        task_id=question.task.task_id,
        expression=question.expression,
        k=question.k,
        image=shorten_reference(question.task.image),
        kind=question.kind,
        click_ids=question.click_ids,
    )


def _name_source(question: Question) -> str | None:
    """Name the editor's entry, whose newer request replaces an older one.

    Two annotators of one task do not replace each other, nor do several expressions in one task's
    data.
    """
    if question.kind == "ahead" or not question.asked_by:
        return None
    project = question.project
    return f"{project.id}.{project.created}:{question.task.task_id}:{question.asked_by}"


def _elapsed_ms(call: Call) -> float:
    return (time.monotonic() - call.arrived) * 1000
