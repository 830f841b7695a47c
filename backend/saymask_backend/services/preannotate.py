"""Storing predictions for every task of a project that has expressions, or is given some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saymask.errors import InvalidRequest
from saymask.left_out import LeftOut, OnProgress
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.predict_request import (
    PredictTask,
    clean_expressions,
    parse_task,
)
from saymask_backend.label_studio.predictions import to_task_prediction
from saymask_backend.label_studio.schema import TaskBody
from saymask_backend.queue.pending import Call
from saymask_backend.records.requests import RequestStore
from saymask_backend.services.project_tasks import (
    FIELDS,
    TASK_TIMEOUT_S,
    has_foreign,
    map_concurrently,
    store_prediction,
)
from saymask_backend.services.segment import Segmenter, TaskSuggestions

State = Literal["open", "no_expression", "annotated", "up_to_date"]


@dataclass(frozen=True)
class PreannotateReport:
    """The numbers of a run, or of a dry run.

    Attributes:
        predicted: tasks that got predictions; ``expressions`` in them.
        no_expression: tasks for which there is no expression.
        up_to_date: tasks with a prediction of this model version, or an imported one.
        failed: why tasks got no prediction, or not one for every expression.
    """

    predicted: int
    expressions: int
    no_expression: int
    annotated: int
    up_to_date: int
    failed: tuple[str, ...]


def preannotate(
    client: LabelStudioClient,
    segmenter: Segmenter,
    project_id: int,
    requests: RequestStore,
    expression_fields: Sequence[str],
    model_version: str,
    progress: OnProgress,
    *,
    expressions: Sequence[str] = (),
    dry_run: bool = False,
) -> PreannotateReport:
    """Store predictions of the current model version; repeating it continues where it stopped.

    ``expressions`` are those of every task whose data holds none; they replace what was predicted
    for such a task with others, but no proposals.

    Raises:
        InvalidRequest: the expressions are blank.
        LabelStudioError, InvalidLabelConfig, QueueError.
    """
    given = clean_expressions(expressions)
    if expressions and not given:
        raise InvalidRequest("The expression is blank.", "Name an object, as an annotator would.")
    project = client.get_project(project_id)
    newest = requests.load_newest_expressions(project.key, model_version) if given else {}
    config = project.read_label_config()
    open_tasks: list[PredictTask] = []
    counts: Counter[str] = Counter()
    failed = LeftOut()
    for body in client.iterate_tasks(project_id, failed, FIELDS):
        task = parse_task(body, config, expression_fields)
        if task.fault is not None:
            failed.add(f"task {task.task_id}", task.fault)
            continue
        is_predicted = model_version in task.versions
        if given and not task.expressions:
            task = replace(task, expressions=given)
            # Without such an answer the prediction is a proposal, which stays to be confirmed.
            is_predicted &= newest.get(task.task_id, given[-1]) == given[-1]
        state = _find_state(task, body, is_predicted=is_predicted)
        counts[state] += 1
        if state == "open":
            open_tasks.append(task)

    def store(task: PredictTask, suggestions: TaskSuggestions | None) -> None:
        if suggestions is None:
            return
        answers = [(a.request_id, a.result) for a in suggestions.answers.values()]
        store_prediction(client, task, to_task_prediction(answers, config, suggestions.notice))
        counts.update(predicted=1, expressions=len(answers))
        if suggestions.notice:
            failed.add(f"task {task.task_id}", suggestions.notice)

    if dry_run:
        total = sum(len(task.expressions) for task in open_tasks)
        counts.update(predicted=len(open_tasks), expressions=total)
    else:
        map_concurrently(
            open_tasks,
            lambda task: segmenter.segment_task(project.key, task, Call(), TASK_TIMEOUT_S),
            store,
            failed,
            progress,
        )
    names = ("predicted", "expressions", "no_expression", "annotated", "up_to_date")
    return PreannotateReport(**{name: counts[name] for name in names}, failed=failed.lines)


def _find_state(task: PredictTask, body: TaskBody, *, is_predicted: bool) -> State:
    if not task.expressions:
        return "no_expression"
    if body.total_annotations:
        return "annotated"
    return "up_to_date" if is_predicted or has_foreign(task) else "open"
