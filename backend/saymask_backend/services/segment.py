"""Asking a worker: the question is stored first, then the answer or the failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from saymask.contract import (
    MAX_EXPRESSION_CHARS,
    Candidate,
    RefineRequest,
    SegmentRequest,
    SegmentResult,
)
from saymask.errors import (
    DeadlineExceeded,
    ImageEvicted,
    InternalError,
    InvalidExpression,
    JobSuperseded,
    SaymaskError,
)
from saymask.redaction import explain
from saymask_backend.label_studio.notices import describe_missing
from saymask_backend.label_studio.predict_request import PredictTask
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.pending import Call
from saymask_backend.records.requests import NewRequest, RequestKind, RequestStore
from saymask_backend.records.types import ProjectKey, build_region_id
from saymask_backend.services.upload_image import ImageUploader

log = logging.getLogger(__name__)

_MAX_STORED_REFERENCE_CHARS = 2000

BuildRequest = Callable[[str], SegmentRequest | RefineRequest]
"""Builds the request for an image's sha256."""


@dataclass(frozen=True)
class Question:
    """A request on behalf of an annotator or of a task's data.

    Attributes:
        kind: as in ``records.requests``.
        call: the call that waits for the answer.
        editor_entry_id: the editor's id of the field or the first click. One annotator's changes
            keep it, two annotators of one task have different ones. Empty when unknown.
        click_ids: the editor's ids of clicks and boxes.
        deadline_s: from the call's arrival; None for the usual deadline.
        background: behind all interactive requests.
        choose_shown: chooses the ranks that the annotator sees; None where each has a region.
        region_id: of the region whose candidates are to be exchanged, or None.
    """

    project: ProjectKey
    task: PredictTask
    expression: str
    k: int
    kind: RequestKind
    call: Call
    editor_entry_id: str = ""
    click_ids: tuple[str, ...] = ()
    deadline_s: float | None = None
    background: bool = False
    choose_shown: Callable[[Sequence[Candidate]], tuple[int, ...]] | None = None
    region_id: str | None = None


@dataclass(frozen=True)
class Suggestions:
    """Candidates for one expression.

    Attributes:
        region_id: of the region that shows one candidate after another.
        shown: the ranks that the annotator sees; the first is in that region.
    """

    request_id: int
    result: SegmentResult
    region_id: str
    shown: tuple[int, ...] = ()
    notice: str = ""


@dataclass(frozen=True)
class TaskSuggestions:
    """The best candidate for each expression in a task's data; at least one.

    Attributes:
        answers: by expression.
        notice: for the annotator, about expressions without an answer; empty if all have one.
    """

    answers: dict[str, Suggestions]
    notice: str


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
        if len(question.expression) > MAX_EXPRESSION_CHARS:
            raise InvalidExpression(
                f"The expression has {len(question.expression)} characters; the longest allowed is"
                f" {MAX_EXPRESSION_CHARS}.",
                "A sentence that names one object is enough.",
            )
        return self.ask(
            question,
            lambda sha256: SegmentRequest(
                image_sha256=sha256,
                expression=question.expression,
                k=question.k,
                accepts_first_look=question.kind == "typed",
            ),
        )

    def segment_task(
        self,
        project: ProjectKey,
        task: PredictTask,
        call: Call,
        deadline_s: float,
        *,
        background: bool = True,
    ) -> TaskSuggestions | None:
        """Return the best candidate per expression; None when the data holds no expression.

        An expression that was answered before, by the workers' version and for the same image, is
        not asked again: the next call continues where this one stopped. ``deadline_s`` counts from
        the call's arrival.

        Raises:
            SaymaskError: the task has a fault, its image cannot be answered, or none of the
                expressions can.
        """
        if task.fault is not None:
            raise task.fault
        if not task.expressions:
            return None
        earlier = self._find_answers(project, task)
        answers: dict[str, Suggestions] = {}
        refused: dict[str, InvalidExpression] = {}
        for expression in task.expressions:
            if expression in earlier:
                answers[expression] = earlier[expression]
                continue
            if time.monotonic() > call.arrived + deadline_s:
                raise DeadlineExceeded("No time was left for this task.", "Retrieve it again.")
            question = Question(
                project, task, expression, 1, "ahead", call,
                deadline_s=deadline_s, background=background,
            )  # fmt: skip
            try:
                answers[expression] = self.segment(question)
            except InvalidExpression as error:
                refused[expression] = error
        if not answers:
            raise next(iter(refused.values()))
        return TaskSuggestions(answers, describe_missing(len(answers), refused, task.left_out))

    def _find_answers(self, project: ProjectKey, task: PredictTask) -> dict[str, Suggestions]:
        """What was answered before for the expressions in a task's data, by expression.

        Only answers of the workers' version, for the image as it is now; none where either is not
        known. Asking then fails for the same reason, which is stored.
        """
        try:
            sha256 = self._images.upload(task)
            version = self._queue.get_model_version()
        except SaymaskError:
            return {}
        answers = self._requests.load_answers(project, task.task_id, sha256, version)
        return {
            result.expression: Suggestions(number, result, build_region_id(number))
            for number, result in answers
        }

    def ask(self, question: Question, build: BuildRequest) -> Suggestions:
        """Store the question, ask a worker, store the answer or the failure.

        Raises:
            SaymaskError: no answer; the failure is stored.
        """
        task_id, call = question.task.task_id, question.call
        request_id = self._requests.add_request(
            NewRequest(
                project=question.project,
                task_id=task_id,
                expression=question.expression,
                k=question.k,
                image=shorten_reference(question.task.image),
                kind=question.kind,
                click_ids=question.click_ids,
                editor_entry_id=question.editor_entry_id,
            )
        )
        try:
            result = self._ask_worker(question, build)
        except SaymaskError as error:
            if not isinstance(error, JobSuperseded):
                log.warning("request %s for task %s failed: %s", request_id, task_id, error)
            self._requests.save_failure(request_id, error, _elapsed_ms(call))
            raise
        except Exception as error:
            # A bug: keep the trace in the log and a stored failure for the annotator.
            log.exception("request %s for task %s failed", request_id, task_id)
            failure = InternalError(
                f"{type(error).__name__}: {explain(error)}", "See the backend's log."
            )
            self._requests.save_failure(request_id, failure, _elapsed_ms(call))
            raise failure from error
        shown = question.choose_shown(result.candidates) if question.choose_shown else ()
        region_id = question.region_id or build_region_id(request_id)
        self._requests.save_answer(request_id, result, _elapsed_ms(call), shown, region_id)
        return Suggestions(request_id, result, region_id, shown)

    def hasten(self, task: PredictTask) -> bool:
        """Return whether the task's image is prepared; if not, prepare it before others.

        Raises:
            SaymaskError: the image cannot be read, or the queue is away.
        """
        return self._queue.hasten_preparation(self._images.upload(task))

    def _ask_worker(self, question: Question, build: BuildRequest) -> SegmentResult:
        """Ask a worker; once more if the image has been evicted from the queue's memory."""

        def ask() -> SegmentResult:
            return self._queue.segment(
                build(self._images.upload(question.task)),
                requester=_name_requester(question),
                call=question.call,
                deadline_s=question.deadline_s,
                background=question.background,
            )

        try:
            return ask()
        except ImageEvicted as error:
            log.warning("%s It is stored again.", error.cause)
            return ask()


def shorten_reference(image: str) -> str:
    """Return an image's reference as requests store it: a ``data:`` address is a whole image."""
    return image if len(image) < _MAX_STORED_REFERENCE_CHARS else image[:200] + " ..."


def _name_requester(question: Question) -> str | None:
    """Name the editor's entry, whose newer request replaces an older one.

    Two annotators of one task do not replace each other, nor do several expressions in one task's
    data.
    """
    if question.kind == "ahead" or not question.editor_entry_id:
        return None
    project = question.project
    return f"{project.id}.{project.created}:{question.task.task_id}:{question.editor_entry_id}"


def _elapsed_ms(call: Call) -> float:
    return (time.monotonic() - call.arrived) * 1000
