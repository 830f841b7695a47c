"""A project's tasks: reading them, and giving it photos with what is known about them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.errors import InvalidLabelConfig, SaymaskError
from backend.label_studio.client import LabelStudioClient, LabelStudioError
from backend.label_studio.label_config import LabelConfig, load_label_config
from backend.label_studio.tasks import PredictTask, load_task

log = logging.getLogger(__name__)

_PAGE = 100


def read_label_config(client: LabelStudioClient, project_id: int) -> LabelConfig:
    """A project's labelling config, understood.

    Raises:
        LabelStudioError: unreachable, refused or no such project.
        InvalidLabelConfig: the project is not made for saymask.
    """
    project = client.request("GET", f"/api/projects/{project_id}")
    if not project.get("label_config"):
        raise InvalidLabelConfig(
            f"Project {project_id} has no labelling config.",
            f"Set it up: saymask connect --project {project_id}",
        )
    return load_label_config(str(project["label_config"]))


def upload_photo(client: LabelStudioClient, project_id: int, path: Path) -> str:
    """Upload a file without making a task of it; returns the reference for tasks."""
    with path.open("rb") as file:
        answer = client.request(
            "POST",
            f"/api/projects/{project_id}/import",
            params={"commit_to_project": "false"},
            files={"file": (path.name, file)},
        )
    try:
        number = answer["file_upload_ids"][0]
        upload = client.request("GET", f"/api/import/file-upload/{number}")
        return "/data/" + str(upload["file"]).lstrip("/")
    except (KeyError, IndexError, TypeError) as error:
        raise LabelStudioError(
            f"Label Studio took {path.name} and did not say where it is: {answer}."
        ) from error


def create_tasks(client: LabelStudioClient, project_id: int, tasks: list[dict[str, Any]]) -> None:
    """Make tasks of ``{"data": ..., "predictions": ..., "annotations": ...}``."""
    client.request("POST", f"/api/projects/{project_id}/import", json=tasks)


def read_tasks(
    client: LabelStudioClient, project_id: int, include: str = "id,data"
) -> Iterator[tuple[dict[str, Any], int]]:
    """Every task of a project, with the number of all; page by page.

    Args:
        include: the fields wanted, comma separated.
    """
    page, read = 1, 0
    while True:
        answer = client.request(
            "GET",
            "/api/tasks",
            # Without fields=all some of the included ones stay empty.
            params={
                "project": project_id,
                "page": page,
                "page_size": _PAGE,
                "fields": "all",
                "include": include,
            },
        )
        tasks = answer["tasks"]
        read += len(tasks)
        for task in tasks:
            yield task, max(int(answer.get("total", 0)), read)
        if len(tasks) < _PAGE:
            return
        page += 1


def read_next_tasks(
    client: LabelStudioClient, project_id: int, task_id: int, config: LabelConfig, count: int
) -> tuple[PredictTask, ...]:
    """Tasks an annotator will most likely open next; none where Label Studio does not say.

    From the list and not one by one: reading a single task makes Label Studio ask for its
    predictions, and that would be taken for an opened task again.
    """
    later = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": task_id}
    query = {"filters": {"conjunction": "and", "items": [later]}, "ordering": ["tasks:id"]}
    try:
        answer = client.request(
            "GET",
            "/api/tasks",
            params={
                "project": project_id,
                "page_size": count,
                "fields": "task_only",
                "query": json.dumps(query),
            },
        )
        return tuple(load_task(task, config) for task in answer["tasks"])
    except (SaymaskError, KeyError, TypeError) as error:
        log.info("tasks after %s are not known: %s", task_id, error)
        return ()
