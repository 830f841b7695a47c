"""Giving a project photos together with what is known about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.label_studio.client import LabelStudioClient, LabelStudioError

_PAGE = 100


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
    client: LabelStudioClient, project_id: int, fields: str = "task_only"
) -> Iterator[tuple[dict[str, Any], int]]:
    """Every task of a project, with the number of all; page by page."""
    page, read = 1, 0
    while True:
        answer = client.request(
            "GET",
            "/api/tasks",
            params={"project": project_id, "page": page, "page_size": _PAGE, "fields": fields},
        )
        tasks = answer["tasks"]
        read += len(tasks)
        for task in tasks:
            yield task, max(int(answer.get("total", 0)), read)
        if len(tasks) < _PAGE:
            return
        page += 1
