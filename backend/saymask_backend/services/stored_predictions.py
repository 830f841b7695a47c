"""Which tasks of a project have predictions of ours, and storing one in place of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.predict_request import PredictTask
from saymask_backend.label_studio.schema import TaskBody

TASK_TIMEOUT_S = 600.0
"""How long a command waits for the answer about one task."""
FIELDS = "id,data,predictions_model_versions,total_annotations"
"""Fields of a task that tell whether it needs a prediction."""

_OUR_PREFIX = "saymask-"


@dataclass(frozen=True)
class OpenTask:
    """A task to be predicted; ``has_ours`` when it has predictions of ours, to be replaced."""

    task: PredictTask
    has_ours: bool


def read_versions(body: TaskBody) -> set[str]:
    """Return the model versions of a task's predictions."""
    names = (body.predictions_model_versions or "").split(",")
    return {name.strip() for name in names if name.strip()}


def is_ours(version: str | None) -> bool:
    """Return whether a prediction of this model version is one of ours."""
    return (version or "").startswith(_OUR_PREFIX)


def store_prediction(client: LabelStudioClient, item: OpenTask, prediction: dict[str, Any]) -> None:
    """Store a prediction, then delete what it replaces, so that there is always one."""
    task_id = item.task.task_id
    earlier = client.list_predictions(task_id) if item.has_ours else []
    client.create_prediction(task_id, prediction)
    for replaced in earlier:
        if is_ours(replaced.model_version):
            client.delete_prediction(replaced.id)
