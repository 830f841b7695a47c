"""Predicting a task whose data holds referring expressions."""

from __future__ import annotations

import time

from saymask.errors import DeadlineExceeded, InvalidExpression
from saymask_backend.label_studio.predict_request import PredictTask
from saymask_backend.queue.pending import Call
from saymask_backend.records.types import ProjectKey
from saymask_backend.services.answers import Suggestions, TaskSuggestions
from saymask_backend.services.segment import Question, Segmenter


class TaskPredictor:
    """Finds the best candidate for each expression in a task's data."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def predict_task(
        self,
        project: ProjectKey,
        task: PredictTask,
        call: Call,
        deadline_s: float,
        *,
        background: bool = True,
    ) -> TaskSuggestions | None:
        """Return the best candidate per expression; None when the data holds no expression.

        Args:
            project: of the task.
            task: with its expressions.
            call: that waits for it.
            deadline_s: when to give up, seconds after the call's arrival.
            background: behind all interactive requests.

        An expression that was answered before, by the workers' version and for the same image, is
        not asked again: the next call continues where this one stopped.

        Raises:
            SaymaskError: the task has a fault, its image cannot be answered, or none of the
                expressions can.
        """
        if task.fault is not None:
            raise task.fault
        if not task.expressions:
            return None
        known = self._segmenter.find_answers(project, task)
        answers: dict[str, Suggestions] = {}
        refused: dict[str, InvalidExpression] = {}
        for expression in task.expressions:
            if expression in known:
                answers[expression] = known[expression]
                continue
            if time.monotonic() > call.arrived + deadline_s:
                raise DeadlineExceeded("No time was left for this task.", "Retrieve it again.")
            question = Question(
                project, task, expression, 1, "ahead", call,
                deadline_s=deadline_s, background=background,
            )  # fmt: skip
            try:
                answers[expression] = self._segmenter.segment(question)
            except InvalidExpression as error:
                refused[expression] = error
        if not answers:
            raise next(iter(refused.values()))
        return TaskSuggestions(
            tuple(answers),
            tuple(answers.values()),
            tuple((expression, error.cause) for expression, error in refused.items()),
            task.left_out,
        )
