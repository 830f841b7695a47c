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
from saymask_backend.queue.call import Call
from saymask_backend.services.answers import TaskSuggestions
from saymask_backend.services.in_flight import ask_in_order
from saymask_backend.services.predict_task import TaskPredictor

_TASK_TIMEOUT_S = 600.0
_OUR_PREFIX = "saymask-"
_FIELDS = "id,data,predictions_model_versions,total_annotations"

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


@dataclass(frozen=True)
class _OpenTask:
    """A task to be predicted; ``has_ours`` when it has an outdated prediction of ours."""

    task: PredictTask
    has_ours: bool


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
    open_tasks: list[_OpenTask] = []
    states: Counter[State] = Counter()
    failed = LeftOut()
    for body in client.iterate_tasks(project_id, failed, _FIELDS):
        task = parse_task(body, config, expression_fields)
        if task.fault is not None:
            failed.add(f"task {task.task_id}", task.fault)
            continue
        versions = _read_versions(body)
        state = _find_state(task, body, versions, model_version)
        states[state] += 1
        if state == "open":
            has_ours = any(version.startswith(_OUR_PREFIX) for version in versions)
            open_tasks.append(_OpenTask(task, has_ours))
    made, expressions = len(open_tasks), _count_expressions(open_tasks)
    if not dry_run:
        made = expressions = 0

        def predict(item: _OpenTask) -> TaskSuggestions | None:
            return predictor.predict_task(project.key, item.task, Call(), _TASK_TIMEOUT_S)

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


def _read_versions(body: TaskBody) -> set[str]:
    names = (body.predictions_model_versions or "").split(",")
    return {name.strip() for name in names if name.strip()}


def _find_state(task: PredictTask, body: TaskBody, versions: set[str], model_version: str) -> State:
    if not task.expressions:
        return "without"
    if body.total_annotations:
        return "annotated"
    has_foreign = any(not version.startswith(_OUR_PREFIX) for version in versions)
    return "current" if model_version in versions or has_foreign else "open"


def _count_expressions(items: list[_OpenTask]) -> int:
    return sum(len(item.task.expressions) for item in items)


def _store(
    client: LabelStudioClient,
    item: _OpenTask,
    suggestions: TaskSuggestions | None,
    config: LabelConfig,
) -> None:
    """Store the new prediction, then delete what it replaces, so that there is always one."""
    if suggestions is None:
        return
    task_id = item.task.task_id
    predictions = client.list_predictions(task_id) if item.has_ours else []
    answers = [(answer.request_id, answer.result) for answer in suggestions.answers]
    prediction = to_task_prediction(answers, suggestions.expressions, config, suggestions.notice)
    client.create_prediction(task_id, prediction)
    for earlier in predictions:
        if (earlier.model_version or "").startswith(_OUR_PREFIX):
            client.delete_prediction(earlier.id)
