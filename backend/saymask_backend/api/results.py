"""From the use cases' answers to the ``results`` that Label Studio expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.notices import describe_failure
from saymask_backend.label_studio.predict_request import PredictRequest
from saymask_backend.label_studio.predictions import (
    EMPTY_PREDICTION,
    to_failure,
    to_prediction,
    to_task_prediction,
)
from saymask_backend.services.predict import Answer, Failure
from saymask_backend.services.segment import Suggestions, TaskSuggestions


def to_results(request: PredictRequest, answers: Sequence[Answer]) -> list[Any]:
    """Convert one answer per task.

    Nothing is an empty prediction for the editor, and an empty list in a batch: an empty
    prediction would be stored.

    Raises:
        SaymaskError: the failure, where the labelling config has no field for a notice.
    """
    config = request.label_config
    empty: Any = EMPTY_PREDICTION if request.is_interactive else []
    return [empty if answer is None else _to_result(answer, config) for answer in answers]


def _to_result(
    answer: Suggestions | Failure | TaskSuggestions, config: LabelConfig
) -> dict[str, Any]:
    if isinstance(answer, Suggestions):
        return to_prediction(answer.result, config, answer.request_id, answer.clicks)
    if isinstance(answer, Failure):
        text = describe_failure(answer.error, answer.expression)
        prediction = to_failure(config, text)
        if prediction is None:
            raise answer.error
        return prediction
    pairs = [
        (suggestions.request_id, suggestions.result) for suggestions in answer.answers.values()
    ]
    return to_task_prediction(pairs, config, answer.notice)
