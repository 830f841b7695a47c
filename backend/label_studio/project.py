"""Making a Label Studio project that works with saymask, and giving it photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.label_config import default_label_config


def find_or_create_project(client: LabelStudioClient, title: str) -> tuple[int, bool]:
    """The id of the project with this title, and whether it was made now."""
    page = client.request("GET", "/api/projects", params={"page_size": 1000})
    for project in page["results"]:
        if project["title"] == title:
            return int(project["id"]), False
    project = client.request(
        "POST",
        "/api/projects",
        json={
            "title": title,
            "description": "Type what you mean; saymask proposes masks.",
            "label_config": default_label_config(),
            # Opened tasks show what was predicted for the expressions in their data.
            "show_collab_predictions": True,
            "evaluate_predictions_automatically": False,
        },
    )
    return int(project["id"]), True


def upload_photos(client: LabelStudioClient, project_id: int, photos: list[Path]) -> int:
    """Upload photos as tasks; returns how many tasks there are now."""
    for photo in photos:
        with photo.open("rb") as file:
            client.request(
                "POST", f"/api/projects/{project_id}/import", files={"file": (photo.name, file)}
            )
    project: dict[str, Any] = client.request("GET", f"/api/projects/{project_id}")
    return int(project["task_number"])
