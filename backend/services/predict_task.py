"""Predicting a task whose data holds referring expressions."""

from __future__ import annotations

import time

from backend.call import Call
from backend.label_studio.predict_request import PredictTask
from backend.records.project_key import ProjectKey
from backend.services.answers import TaskSuggestions
from backend.services.segment import Question, Segmenter, check_length
from saymask.errors import DeadlineExceeded


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

        Raises:
            SaymaskError: the task has a fault, or an expression or the image cannot be answered.
        """
        if task.fault is not None:
            raise task.fault
        answers = []
        for expression in task.expressions:
            if time.monotonic() > call.arrived + deadline_s:
                raise DeadlineExceeded("No time was left for this task.", "Retrieve it again.")
            check_length(expression)
            question = Question(
                project, task, expression, 1, "ahead", call,
                deadline_s=deadline_s, background=background,
            )  # fmt: skip
            answers.append(self._segmenter.segment(question))
        return TaskSuggestions(task.expressions, tuple(answers)) if answers else None
