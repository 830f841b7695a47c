"""Predicting a task whose data holds referring expressions."""

from __future__ import annotations

import time

from backend.label_studio.predict_request import PredictTask
from backend.services.answers import TaskSuggestions
from backend.services.segment import Question, Segmenter, check_length
from saymask.errors import DeadlineExceeded


class TaskPredictor:
    """Finds the best candidate for each expression in a task's data."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def predict_task(
        self, project_id: int, task: PredictTask, deadline: float, *, background: bool = True
    ) -> TaskSuggestions | None:
        """Return the best candidate per expression; None when the data holds no expression.

        Args:
            project_id: of the task.
            task: with its expressions.
            deadline: ``time.monotonic()`` at which to give up.
            background: behind all interactive requests.

        Raises:
            SaymaskError: an expression or the image cannot be answered.
        """
        answers = []
        for expression in task.expressions:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded("No time was left for this task.", "Retrieve it again.")
            check_length(expression)
            question = Question(project_id, task, expression, 1, "ahead", (), left_s, background)
            answers.append(self._segmenter.segment(question))
        return TaskSuggestions(task.expressions, tuple(answers)) if answers else None
