"""From the use cases' answers to the ``results`` that Label Studio expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.notices import EDITED_STAYS, describe_failure
from saymask_backend.label_studio.predict_request import PredictRequest, PredictTask
from saymask_backend.label_studio.predictions import (
    EMPTY_PREDICTION,
    build_typed,
    to_failure,
    to_prediction,
    to_task_prediction,
)
from saymask_backend.records.types import build_region_id, choose_region_id
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
    return [
        empty if answer is None else _to_result(answer, config, request, task)
        for task, answer in zip(request.tasks, answers, strict=True)
    ]


def _to_result(
    answer: Suggestions | Failure | TaskSuggestions,
    config: LabelConfig,
    request: PredictRequest,
    task: PredictTask,
) -> dict[str, Any]:
    if isinstance(answer, TaskSuggestions):
        pairs = [(one.request_id, one.result) for one in answer.answers.values()]
        return to_task_prediction(pairs, config, answer.notice)
    if isinstance(answer, Suggestions):
        prediction = _to_prediction(answer, config, task)
    elif (failure := to_failure(config, describe_failure(answer.error, answer.expression))) is None:
        raise answer.error
    else:
        prediction = failure
    if request.picked is not None:
        # The number disappears from the editor's field. One that keeps a single line gets the
        # expression back.
        answered = (answer.result.expression,) if isinstance(answer, Suggestions) else ()
        field = build_typed(config, request.typed or answered, request.editor_entry_id)
        prediction["result"].insert(0, field)
    return prediction


def _to_prediction(answer: Suggestions, config: LabelConfig, task: PredictTask) -> dict[str, Any]:
    others = {rank: build_region_id(answer.request_id, rank) for rank in answer.shown[1:]}
    region_ids = {rank: name for rank, name in others.items() if name not in task.edited}
    notice = answer.notice
    if answer.shown:
        region_ids[answer.shown[0]] = choose_region_id(answer.region_id, task.edited)
        notice += f" {EDITED_STAYS}" if answer.region_id in task.edited else ""
    return to_prediction(answer.result, config, region_ids, notice)
