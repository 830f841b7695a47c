"""Label Studio's API, one method per use."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from saymask.left_out import LeftOut
from saymask_backend.label_studio.api_schema import (
    MlBackendBody,
    PredictionBody,
    ProjectBody,
    ReleaseBody,
    UserBody,
    ViewBody,
    WebhookBody,
)
from saymask_backend.label_studio.auth import LabelStudioError
from saymask_backend.label_studio.label_config import default_label_config
from saymask_backend.label_studio.rest import (
    PAGE_SIZE,
    NotFound,
    Page,
    RestClient,
    read_each,
    read_object,
)
from saymask_backend.label_studio.schema import TaskBody

_PREDICT_TIMEOUT_S = 100.0
# For a page of annotations, or files.
_TRANSFER_TIMEOUT_S = 300.0
# Nobody waits for the tasks after an opened one.
_LOOKING_AHEAD_TIMEOUT_S = 10.0

PROJECT_FLAGS = {
    # Opened tasks show what was predicted for the expressions in their data.
    "show_collab_predictions": True,
    "evaluate_predictions_automatically": False,
}
"""Settings of a project that works with saymask."""
WEBHOOK_FLAGS = {"is_active": True, "send_payload": True, "send_for_all_actions": True}
"""Settings of a webhook for all events, with their content."""


class LabelStudioClient(RestClient):
    """Label Studio's API as one user sees it.

    ``timeout_s`` limits one answer in total, except for files and pages of annotations.
    ``public_url`` is the address under which people open Label Studio, if that is another one.
    """

    def __init__(
        self, base_url: str, api_key: str, timeout_s: float = 30.0, public_url: str = ""
    ) -> None:
        super().__init__(base_url, api_key, timeout_s)
        self._public_path = urlsplit(public_url or self.base_url).path.rstrip("/")

    def get_release(self) -> str:
        """Return the version of Label Studio, or ``unknown``."""
        return read_object(ReleaseBody, self.request("GET", "/api/version")).release

    def get_user_name(self) -> str:
        """Return the e-mail address or name of the user."""
        user = read_object(UserBody, self.request("GET", "/api/current-user/whoami"))
        return str(user.email or user.username)

    def list_projects(self) -> list[ProjectBody]:
        """Return all projects that the user sees."""
        return self.list_objects("/api/projects", ProjectBody, "project")

    def get_project(self, project_id: int) -> ProjectBody:
        """Return one project."""
        return read_object(ProjectBody, self.request("GET", f"/api/projects/{project_id}"))

    def update_project(self, project_id: int, **values: Any) -> None:
        """Change settings of a project."""
        self.request("PATCH", f"/api/projects/{project_id}/", json=values)

    def find_or_create_project(
        self,
        title: str,
        label_config: str | None = None,
        description: str = "Type what you mean; saymask proposes masks.",
        is_wanted: Callable[[ProjectBody], bool] | None = None,
    ) -> tuple[int, bool]:
        """Return the id of a project, and whether it was created now.

        ``is_wanted`` tells the project from others; by default it is the oldest of this title. By
        default a new one has the labelling config that saymask recommends.
        """
        values = {
            "title": title,
            "description": description,
            "label_config": label_config or default_label_config(),
            **PROJECT_FLAGS,
        }
        is_ours = is_wanted or (lambda project: project.title == title)
        return self.create_once(
            lambda: [project.id for project in self.list_projects() if is_ours(project)],
            "/api/projects",
            values,
        )

    def list_ml_backends(self, project_id: int) -> list[MlBackendBody]:
        """Return the ML backends attached to a project."""
        return self.list_objects("/api/ml", MlBackendBody, "ML backend", project=project_id)

    def find_ml_backends(self, project_id: int, url: str) -> list[MlBackendBody]:
        """Return the ML backends of this address that are attached to a project, oldest first."""
        backends = self.list_ml_backends(project_id)
        of_this_address = [b for b in backends if b.url.rstrip("/") == url.rstrip("/")]
        return sorted(of_this_address, key=lambda backend: backend.id)

    def attach_ml_backend(self, project_id: int, url: str, values: dict[str, Any]) -> None:
        """Attach an ML backend to a project; Label Studio calls it to see whether it answers."""
        self.create_once(
            lambda: [backend.id for backend in self.find_ml_backends(project_id, url)],
            "/api/ml",
            {"project": project_id, "url": url, **values},
        )

    def update_ml_backend(self, backend_id: int, project_id: int, values: dict[str, Any]) -> None:
        """Change settings of an attached ML backend."""
        self.request("PATCH", f"/api/ml/{backend_id}", json={**values, "project": project_id})

    def predict_interactively(
        self, backend_id: int, task_id: int, result: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Send what the editor would send for typed or clicked entries; returns the raw answer."""
        answer: dict[str, Any] = self.request(
            "POST",
            f"/api/ml/{backend_id}/interactive-annotating",
            json={"task": task_id, "context": {"result": result}},
            timeout_s=_PREDICT_TIMEOUT_S,
        )
        return answer

    def list_webhooks(self, project_id: int) -> list[WebhookBody]:
        """Return the webhooks of a project."""
        return self.list_objects("/api/webhooks", WebhookBody, "webhook", project=project_id)

    def delete_webhook(self, webhook_id: int) -> None:
        """Delete a webhook, unless that was done meanwhile."""
        with contextlib.suppress(NotFound):
            self.request("DELETE", f"/api/webhooks/{webhook_id}/")

    def create_webhook(self, project_id: int, url: str, headers: dict[str, str]) -> None:
        """Register a webhook for all events of a project, with their content."""
        values = {"url": url, "project": project_id, "headers": headers, **WEBHOOK_FLAGS}
        self.request("POST", "/api/webhooks/", json=values)

    def update_webhook(self, webhook_id: int, url: str, values: dict[str, Any]) -> None:
        """Change settings of a webhook."""
        self.request("PATCH", f"/api/webhooks/{webhook_id}/", json={"url": url, **values})

    def iterate_task_pages(
        self,
        project_id: int,
        include: str | None = None,
        page_size: int = PAGE_SIZE,
        first: int = 1,
    ) -> Iterator[Page]:
        """Yield a project's tasks as they come, page by page.

        ``include`` names the fields, separated by commas; None for all, with the annotations.
        """
        # Without fields=all some of the included ones stay empty.
        query: dict[str, Any] = {"project": project_id, "fields": "all"}
        query |= {} if include is None else {"include": include}
        return self.iterate_pages("/api/tasks", query, page_size, first, _TRANSFER_TIMEOUT_S)

    def iterate_tasks(
        self, project_id: int, left_out: LeftOut, include: str | None = "id,data"
    ) -> Iterator[TaskBody]:
        """Yield every task of a project; ``left_out`` gets those that cannot be read."""
        for page in self.iterate_task_pages(project_id, include):
            yield from read_each(page, TaskBody, "task", left_out)

    def list_tasks_after(self, project_id: int, task_id: int, count: int) -> list[TaskBody]:
        """Return the tasks that an annotator will most likely open next, at most ``count``.

        They are read from the list and not one by one: reading a single task makes Label Studio
        ask for its predictions, which would look like an opened task again.
        """
        later = {
            "filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": task_id,
        }  # fmt: skip
        query = {"filters": {"conjunction": "and", "items": [later]}, "ordering": ["tasks:id"]}
        params = {"project": project_id, "fields": "task_only", "query": json.dumps(query)}
        pages = self.iterate_pages(
            "/api/tasks", params, page_size=count, timeout_s=_LOOKING_AHEAD_TIMEOUT_S
        )
        page = next(pages, None)
        return list(read_each(page, TaskBody, "task", LeftOut()))[:count] if page else []

    def has_annotation(self, annotation_id: int) -> bool:
        """Return whether an annotation exists."""
        try:
            self.request("GET", f"/api/annotations/{annotation_id}/")
        except NotFound:
            return False
        return True

    def list_predictions(self, task_id: int) -> list[PredictionBody]:
        """Return the stored predictions of a task."""
        return self.list_objects("/api/predictions", PredictionBody, "prediction", task=task_id)

    def create_prediction(self, task_id: int, prediction: dict[str, Any]) -> None:
        """Store a prediction for a task."""
        self.request("POST", "/api/predictions", json={"task": task_id, **prediction})

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete a stored prediction, unless that was done meanwhile."""
        with contextlib.suppress(NotFound):
            self.request("DELETE", f"/api/predictions/{prediction_id}/")

    def ensure_view(self, project_id: int, title: str, filters: list[dict[str, Any]]) -> int:
        """Return the id of the Data Manager's tab of this title, created if it is missing.

        It shows the tasks that pass the filters, those with the highest scores first.
        """

        def find() -> list[int]:
            views = self.list_objects("/api/dm/views/", ViewBody, "tab", project=project_id)
            return [view.id for view in views if view.data.get("title") == title]

        data = {
            "title": title,
            "type": "list",
            "filters": {"conjunction": "and", "items": filters},
            "ordering": ["-tasks:predictions_score"],
        }
        view, _ = self.create_once(find, "/api/dm/views", {"project": project_id, "data": data})
        return view

    def create_task(self, project_id: int, data: dict[str, Any]) -> TaskBody:
        """Create one task; returns it with its id."""
        answer = self.request("POST", "/api/tasks", json={"project": project_id, "data": data})
        return read_object(TaskBody, answer)

    def import_tasks(self, project_id: int, tasks: list[dict[str, Any]]) -> None:
        """Create tasks from ``{"data": ..., "predictions": ..., "annotations": ...}``."""
        self._import(project_id, json=tasks)

    def import_images(self, project_id: int, paths: Sequence[Path]) -> int:
        """Upload image files as tasks; returns the number of tasks in the project."""
        for path in paths:
            with path.open("rb") as file:
                self._import(project_id, files={"file": (path.name, file)})
        return self.get_project(project_id).task_number or 0

    def upload_image(self, project_id: int, path: Path, name: str) -> str:
        """Upload a file under a name without creating a task; returns the reference for tasks."""
        without_tasks = {"commit_to_project": "false"}
        with path.open("rb") as file:
            answer = self._import(project_id, params=without_tasks, files={"file": (name, file)})
        try:
            upload_id = answer["file_upload_ids"][0]
            upload = self.request("GET", f"/api/import/file-upload/{upload_id}")
            return f"{self._public_path}/data/" + str(upload["file"]).lstrip("/")
        except (KeyError, IndexError, TypeError) as error:
            raise LabelStudioError(
                f"Label Studio accepted {path.name} without returning its address: {answer}."
            ) from error

    def _import(self, project_id: int, **arguments: Any) -> Any:
        path = f"/api/projects/{project_id}/import"
        return self.request("POST", path, timeout_s=_TRANSFER_TIMEOUT_S, **arguments)
