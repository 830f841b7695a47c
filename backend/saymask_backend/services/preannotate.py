"""Storing predictions for every task of a project whose data holds expressions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from saymask.errors import SaymaskError
from saymask.left_out import LeftOut
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.predict_request import PredictTask, parse_task
from saymask_backend.label_studio.predictions import to_task_prediction
from saymask_backend.label_studio.schema import TaskBody
from saymask_backend.queue.pending import Call
from saymask_backend.services.answers import TaskSuggestions
from saymask_backend.services.in_flight import ask_in_order
from saymask_backend.services.predict_task import TaskPredictor
from saymask_backend.services.stored_predictions import (
    FIELDS,
    TASK_TIMEOUT_S,
    OpenTask,
    is_ours,
    read_versions,
    store_prediction,
)

Progress = Callable[[int, int], None]
"""Called with the number of finished items and of all."""
State = Literal["open", "without", "annotated", "current"]


@dataclass(frozen=True)
class PreannotateReport:
    """What was done, or would be.

    Attributes:
        made: tasks that got predictions; ``expressions`` in them.
        without: tasks without an expression in their data.
        annotated: tasks with annotations.
        current: tasks with a prediction of this model version, or an imported one.
        failed: why tasks got none through a fault, or not one for every expression.
    """

    made: int
    expressions: int
    without: int
    annotated: int
    current: int
    failed: tuple[str, ...]


def preannotate(
    client: LabelStudioClient,
    predictor: TaskPredictor,
    project_id: int,
    expression_fields: Sequence[str],
    model_version: str,
    progress: Progress,
    *,
    dry_run: bool = False,
) -> PreannotateReport:
    """Store predictions of the current model version; repeating it continues where it stopped.

    Args:
        client: of the project's Label Studio.
        predictor: asks the workers.
        project_id: of the project.
        expression_fields: fields of the task's data that hold expressions.
        model_version: of the live workers.
        progress: called after each task.
        dry_run: count only.

    Raises:
        LabelStudioError: a call failed.
        InvalidLabelConfig: the project is not set up for saymask.
        QueueError: no worker answers.
    """
    project = client.get_project(project_id)
    config = project.read_label_config()
    open_tasks: list[OpenTask] = []
    states: Counter[State] = Counter()
    failed = LeftOut()
    for body in client.iterate_tasks(project_id, failed, FIELDS):
        task = parse_task(body, config, expression_fields)
        if task.fault is not None:
            failed.add(f"task {task.task_id}", task.fault)
            continue
        versions = read_versions(body)
        state = _find_state(task, body, versions, model_version)
        states[state] += 1
        if state == "open":
            open_tasks.append(OpenTask(task, any(map(is_ours, versions))))
    made, expressions = len(open_tasks), _count_expressions(open_tasks)
    if not dry_run:
        made = expressions = 0

        def predict(item: OpenTask) -> TaskSuggestions | None:
            return predictor.predict_task(project.key, item.task, Call(), TASK_TIMEOUT_S)

        results = ask_in_order(open_tasks, predict)
        for finished, (item, outcome) in enumerate(results, start=1):
            with failed.guard(f"task {item.task.task_id}"):
                if isinstance(outcome, SaymaskError):
                    raise outcome
                _store(client, item, outcome, config)
                made += 1
                expressions += len(outcome.answers) if outcome else 0
                if outcome is not None and outcome.notice:
                    failed.add(f"task {item.task.task_id}", outcome.notice)
            progress(finished, len(open_tasks))
    return PreannotateReport(
        made, expressions, states["without"], states["annotated"], states["current"], failed.lines
    )


def _find_state(task: PredictTask, body: TaskBody, versions: set[str], model_version: str) -> State:
    if not task.expressions:
        return "without"
    if body.total_annotations:
        return "annotated"
    has_foreign = not all(map(is_ours, versions))
    return "current" if model_version in versions or has_foreign else "open"


def _count_expressions(items: list[OpenTask]) -> int:
    return sum(len(item.task.expressions) for item in items)


def _store(
    client: LabelStudioClient,
    item: OpenTask,
    suggestions: TaskSuggestions | None,
    config: LabelConfig,
) -> None:
    """Store the suggestions for a task, where it has an expression."""
    if suggestions is None:
        return
    answers = [(answer.request_id, answer.result) for answer in suggestions.answers]
    prediction = to_task_prediction(answers, suggestions.expressions, config, suggestions.notice)
    store_prediction(client, item, prediction)
