"""Work on the tasks of a project: a few at a time, each failure on its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from saymask.left_out import LeftOut, OnProgress
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.predict_request import PredictTask

TASK_TIMEOUT_S = 600.0
"""How long a command waits for the answer about one task."""
FIELDS = "id,data,predictions_model_versions,total_annotations"
"""Fields of a task that show whether it needs a prediction."""

_CONCURRENT_TASKS = 4

Outcome = TypeVar("Outcome")


def map_concurrently(
    tasks: Sequence[PredictTask],
    ask: Callable[[PredictTask], Outcome],
    finish: Callable[[PredictTask, Outcome], None],
    failed: LeftOut,
    progress: OnProgress,
) -> None:
    """Ask the workers about several tasks at a time; finish the outcomes in order, one by one.

    ``ask`` is called in other threads, ``finish`` in this one. ``failed`` gets the tasks for
    which one of them failed.

    Raises:
        SaymaskError: one that concerns all tasks, for example that no worker answers; the rest is
            not tried.
    """
    running: deque[tuple[PredictTask, Future[Outcome]]] = deque()
    waiting = deque(tasks)
    with ThreadPoolExecutor(_CONCURRENT_TASKS) as pool:
        for finished in range(1, len(tasks) + 1):
            while waiting and len(running) < _CONCURRENT_TASKS:
                task = waiting.popleft()
                running.append((task, pool.submit(ask, task)))
            task, outcome = running.popleft()
            with failed.guard(f"task {task.task_id}"):
                finish(task, outcome.result())
            progress(finished, len(tasks))


def is_ours(version: str | None) -> bool:
    """Return whether a prediction of this model version is one of ours."""
    return (version or "").startswith("saymask-")


def has_foreign(task: PredictTask) -> bool:
    """Return whether a task has predictions of others."""
    return not all(map(is_ours, task.versions))


def store_prediction(
    client: LabelStudioClient, task: PredictTask, prediction: dict[str, Any]
) -> None:
    """Store a prediction, then delete what it replaces, so that there is always one."""
    has_ours = any(map(is_ours, task.versions))
    earlier = client.list_predictions(task.task_id) if has_ours else []
    client.create_prediction(task.task_id, prediction)
    for replaced in earlier:
        if is_ours(replaced.model_version):
            client.delete_prediction(replaced.id)
