"""Answering the editor: an expression was typed, an object was clicked, a task was opened."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from saymask.contract import Candidate, Click, CocoRle, RefineRequest, Timings
from saymask.errors import (
    CallAbandoned,
    InvalidExpression,
    JobSuperseded,
    SaymaskError,
    ServiceBusy,
)
from saymask.runs import read_coco_runs
from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.notices import (
    describe_answer,
    describe_pick,
    describe_too_early,
)
from saymask_backend.label_studio.predict_request import PredictRequest, PredictTask, VisualPrompt
from saymask_backend.label_studio.predictions import choose_shown
from saymask_backend.queue.pending import Call
from saymask_backend.records.requests import LastAnswer, RequestStore, StoredAnswer
from saymask_backend.records.types import to_key
from saymask_backend.services.segment import (
    Question,
    Segmenter,
    Suggestions,
    TaskSuggestions,
    shorten_reference,
)

log = logging.getLogger(__name__)

# Opening a task in the editor waits for its prediction; retrieving many ends at 100 s.
_OPENED_WAIT_S = 5.0
_BATCH_WAIT_S = 80.0


@dataclass(frozen=True)
class Failure:
    """Why there are no suggestions."""

    error: SaymaskError
    expression: str | None


Answer = Suggestions | Failure | TaskSuggestions | None
"""What is answered for one task; None for nothing."""


class Predictor:
    """Answers predict requests, with ``default_k`` candidates where a request does not say."""

    def __init__(self, requests: RequestStore, segmenter: Segmenter, default_k: int) -> None:
        self._requests = requests
        self._segmenter = segmenter
        self._default_k = default_k

    def predict(self, request: PredictRequest, call: Call) -> list[Answer]:
        """Return one answer per task.

        Typed or clicked: suggestions, or the failure, which the editor shows as a notice. Tasks
        whose data holds expressions: a suggestion for each. Opened tasks without any, and the call
        that Label Studio makes after every submit: nothing.
        """
        if not request.is_interactive:
            return self._predict_tasks(request, call)
        return [self._predict_interactive(request, request.tasks[0], call)]

    def _predict_interactive(
        self, request: PredictRequest, task: PredictTask, call: Call
    ) -> Answer:
        expression: str | None = None
        try:
            if request.prompt is not None:
                last = self._requests.load_last_answer(request.project, task.task_id)
                expression = last.expression if last else ""
                return self._refine(request, task, request.prompt, last, call)
            if not request.typed and request.picked is None:
                return None
            expression = self._choose_typed(request, task)
            if request.picked is not None:
                return self._pick(request, task, expression, request.picked, call)
            last_answer = self._load_answer(request, task, expression)
            is_look = last_answer is not None and last_answer.result.is_first_look
            # What replaces a first look takes its place.
            region_id = last_answer.region_id if last_answer and is_look else None
            return self._ask_typed(request, task, expression, call, region_id)
        except (JobSuperseded, CallAbandoned):
            return None
        except SaymaskError as error:
            return Failure(error, expression)

    def _ask_typed(
        self,
        request: PredictRequest,
        task: PredictTask,
        expression: str,
        call: Call,
        region_id: str | None = None,
        rank: int | None = None,
    ) -> Suggestions:
        """Ask about an expression; shown are its ``rank``, or several at once."""
        question = Question(
            request.project, task, expression, request.k or self._default_k, "typed", call,
            request.editor_entry_id, region_id=region_id,
            choose_shown=lambda candidates: _choose_shown(candidates, request.label_config, rank),
        )  # fmt: skip
        asked = self._segmenter.segment(question)
        if rank is None:
            return replace(asked, notice=describe_answer(asked.result, asked.shown))
        return replace(asked, notice=describe_pick(asked.result, rank))

    def _pick(
        self, request: PredictRequest, task: PredictTask, expression: str, rank: int, call: Call
    ) -> Suggestions:
        """Show another candidate of an expression that was answered, in the same region.

        After a first look, ``1`` asks for the full answer once the image is prepared.
        """
        last = self._load_answer(request, task, expression)
        if last is None:
            return self._ask_typed(request, task, expression, call, rank=rank)
        is_early = rank == 1 and last.result.is_first_look
        if is_early and self._is_prepared(task):
            return self._ask_typed(request, task, expression, call, last.region_id, rank)
        if any(candidate.rank == rank for candidate in last.result.candidates):
            shown: tuple[int, ...] = (rank,)
            self._requests.add_shown(last.request_id, shown)
        else:
            # Suggestions that the annotator sees stay; what has been put in place is left alone.
            is_kept = request.label_config.shows_one or last.region_id in task.edited
            shown = last.shown[-1] if last.shown and not is_kept else ()
        notice = describe_too_early if is_early else partial(describe_pick, rank=rank)
        # No worker did anything for it.
        result = last.result.model_copy(update={"timings": Timings()})
        return Suggestions(last.request_id, result, last.region_id, shown, notice(result))

    def _is_prepared(self, task: PredictTask) -> bool:
        """Whether the image of a first look is prepared by now; if not, it is hastened."""
        try:
            return self._segmenter.hasten(task)
        except SaymaskError as error:
            log.warning("task %s has no better answer: %s", task.task_id, error)
            return False

    def _load_answer(
        self, request: PredictRequest, task: PredictTask, expression: str
    ) -> StoredAnswer | None:
        return self._requests.load_answer(
            request.project,
            task.task_id,
            shorten_reference(task.image),
            expression,
            request.editor_entry_id,
        )

    def _choose_typed(self, request: PredictRequest, task: PredictTask) -> str:
        """Choose among the lines of the editor's field, which are all sent.

        A line that was never asked is new; else the last one was typed again. A number in a field
        that holds nothing else is about what was answered last.

        Raises:
            InvalidExpression: there is only a number, and nothing was answered.
        """
        if len(request.typed) == 1:
            return request.typed[0]
        asked = self._requests.list_expressions(request.project, task.task_id)
        asked_keys = {to_key(text) for text in asked}
        new = [text for text in request.typed if to_key(text) not in asked_keys]
        if new or request.picked is None:
            return (new or request.typed)[-1]
        answered = self._requests.load_newest_expression(
            request.project, task.task_id, request.editor_entry_id
        )
        if answered is not None:
            # It need not be the last line: one may have been corrected in its place.
            same = [text for text in request.typed if to_key(text) == to_key(answered)]
            return (same or request.typed or (answered,))[-1]
        if request.typed:
            return request.typed[-1]
        raise InvalidExpression(
            "A number shows another suggestion, and nothing was asked yet.",
            "Type what you mean first.",
        )

    def _refine(
        self,
        request: PredictRequest,
        task: PredictTask,
        prompt: VisualPrompt,
        last: LastAnswer | None,
        call: Call,
    ) -> Suggestions | None:
        """Change what was offered last by clicks or a box; old clicks alone ask for nothing."""
        remaining = prompt.without(last.old_click_ids) if last else prompt
        if remaining is None:
            return None
        expression = last.expression if last else ""
        start = choose_start(remaining, last.masks) if last else None
        ids = remaining.ids
        # One at a time: the mask that is clicked takes the place of the one before.
        region_id = last.region_id if last and request.label_config.shows_one else None
        k = request.k or self._default_k
        asked = self._segmenter.ask(
            Question(
                request.project,
                task,
                expression,
                k,
                "clicked",
                call,
                ids[0],
                ids,
                choose_shown=partial(choose_shown, config=request.label_config),
                region_id=region_id,
            ),
            lambda sha256: RefineRequest(
                image_sha256=sha256,
                expression=expression,
                clicks=tuple(Click(x=x, y=y, positive=p) for x, y, p in remaining.clicks),
                box_xyxy=remaining.box_xyxy,
                start=CocoRle.model_validate(start) if start else None,
                k=k,
            ),
        )
        notice = describe_answer(asked.result, asked.shown, remaining.count)
        return replace(asked, notice=notice)

    def _predict_tasks(self, request: PredictRequest, call: Call) -> list[Answer]:
        """Predict a batch, for which Label Studio waits as a whole.

        A task that is not ready in time stays without a prediction; the next call brings it.
        """
        is_single = len(request.tasks) == 1
        wait_s = _OPENED_WAIT_S if is_single else _BATCH_WAIT_S
        answers: list[Answer] = []
        for task in request.tasks:
            try:
                answers.append(
                    self._segmenter.segment_task(
                        request.project, task, call, wait_s, background=not is_single
                    )
                )
            except SaymaskError as error:
                log.warning("task %s has no prediction: %s", task.task_id, error)
                answers.append(None)
        return answers


def _choose_shown(
    candidates: Sequence[Candidate], config: LabelConfig, rank: int | None
) -> tuple[int, ...]:
    """The ranks to show: the one that was picked, if there is such a candidate."""
    if rank is None or all(candidate.rank != rank for candidate in candidates):
        return choose_shown(candidates, config)
    return (rank,)


def decline(request: PredictRequest) -> list[Answer]:
    """Reject immediately when saturated; interactive callers get a notice."""
    if not request.is_interactive or not (
        request.typed or request.picked is not None or request.prompt
    ):
        return [None] * len(request.tasks)
    error = ServiceBusy(
        "Too many expressions are waiting for an answer.",
        "Type it again in a moment. If this happens often, start more workers.",
    )
    return [Failure(error, request.typed[-1] if request.typed else None)]


def choose_start(prompt: VisualPrompt, masks: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the candidate that clicks are to change, as COCO RLE.

    It is the first that contains one of them, else the best. A box starts anew.
    """
    if prompt.box_xyxy is not None or not masks:
        return None
    for coco_rle in masks:
        mask = read_coco_runs(coco_rle)
        height, width = mask.size_hw
        for x, y, _ in prompt.clicks:
            if mask.holds(min(int(x), width - 1), min(int(y), height - 1)):
                return coco_rle
    return masks[0]
