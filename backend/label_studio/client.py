"""Every call that saymask makes to Label Studio's API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter

from backend.label_studio.api_schema import (
    MlBackendBody,
    PredictionBody,
    ProjectBody,
    TaskPage,
    WebhookBody,
)
from backend.label_studio.auth import (
    ADDRESS_CURE,
    LabelStudioAuth,
    LabelStudioError,
    check_moved,
)
from backend.label_studio.connections import USER_AGENT, build_tls, explain_failure
from backend.label_studio.guarded_http import DeadlineTransport, find_proxy, time_limit
from backend.label_studio.label_config import LabelConfig, default_label_config
from backend.label_studio.schema import TaskBody, validate

_BUSY_STATUSES = (429, 502, 503, 504)
_READ_TRIES = 5
_MAX_RETRY_AFTER_S = 60.0
_TASKS_PER_PAGE = 100
_ALL_PROJECTS = 1000
_PREDICT_TIMEOUT_S = 100.0
# For a page of annotations, or files.
_TRANSFER_TIMEOUT_S = 300.0
# Nobody waits for the tasks after an opened one.
_LOOKING_AHEAD_TIMEOUT_S = 10.0
# An HTTP date has whole seconds, and the answer took a while.
_CLOCK_PRECISION = timedelta(seconds=2)

Model = TypeVar("Model")


class NotFound(LabelStudioError):
    """Label Studio does not have the requested object."""


class LabelStudioClient:
    """Label Studio's API as one user sees it.

    Args:
        base_url: of Label Studio.
        api_key: personal access token or legacy token of the user.
        timeout_s: longest time for one answer in total; more for files and pages of annotations.
        public_url: under which people open it, if that is another address.

    Every method raises ``LabelStudioError`` when Label Studio cannot be reached, refuses the call
    or answers in an unknown shape, and ``NotFound`` when the object does not exist.
    """

    def __init__(
        self, base_url: str, api_key: str, timeout_s: float = 30.0, public_url: str = ""
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._public_path = urlsplit(public_url or self.base_url).path.rstrip("/")
        self._clock_offset = timedelta(0)
        self._client = httpx.Client(
            transport=DeadlineTransport(build_tls(), proxy=find_proxy(self.base_url)),
            auth=LabelStudioAuth(self.base_url, api_key),
            headers={"User-Agent": USER_AGENT},
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def to_our_time(self, moment: datetime) -> datetime:
        """Convert a time of Label Studio's clock to ours, by the newest answer's date."""
        return moment + self._clock_offset

    def get_release(self) -> str:
        """Return the version of Label Studio, or ``unknown``."""
        return str(_read_object(self.request("GET", "/api/version")).get("release", "unknown"))

    def get_user_name(self) -> str:
        """Return the e-mail address or name of the user."""
        user = _read_object(self.request("GET", "/api/current-user/whoami"))
        return str(user.get("email") or user.get("username"))

    def list_projects(self) -> list[ProjectBody]:
        """Return all projects that the user sees."""
        page = self.request("GET", "/api/projects", params={"page_size": _ALL_PROJECTS})
        return _read(TypeAdapter(list[ProjectBody]).validate_python, page["results"])

    def get_project(self, project_id: int) -> ProjectBody:
        """Return one project."""
        return _read(ProjectBody.model_validate, self.request("GET", f"/api/projects/{project_id}"))

    def get_label_config(self, project_id: int) -> LabelConfig:
        """Return a project's labelling config.

        Raises:
            InvalidLabelConfig: the project is not set up for saymask.
        """
        return self.get_project(project_id).read_label_config()

    def update_project(self, project_id: int, **values: Any) -> None:
        """Change settings of a project."""
        self.request("PATCH", f"/api/projects/{project_id}/", json=values)

    def find_or_create_project(
        self,
        title: str,
        label_config: str | None = None,
        description: str = "Type what you mean; saymask proposes masks.",
    ) -> tuple[int, bool]:
        """Return the id of the project with this title, and whether it was created now.

        Args:
            title: of the project.
            label_config: of a new one; by default the one that saymask recommends.
            description: of a new one.
        """
        for project in self.list_projects():
            if project.title == title:
                return project.id, False
        values = {
            "title": title,
            "description": description,
            "label_config": label_config or default_label_config(),
            # Opened tasks show what was predicted for the expressions in their data.
            "show_collab_predictions": True,
            "evaluate_predictions_automatically": False,
        }
        return _read(
            ProjectBody.model_validate, self.request("POST", "/api/projects", json=values)
        ).id, True

    def list_ml_backends(self, project_id: int) -> list[MlBackendBody]:
        """Return the ML backends attached to a project."""
        answer = self.request("GET", "/api/ml", params={"project": project_id})
        return _read(TypeAdapter(list[MlBackendBody]).validate_python, answer)

    def attach_ml_backend(self, project_id: int, url: str, values: dict[str, Any]) -> None:
        """Attach an ML backend to a project; Label Studio calls it to see whether it answers."""
        self.request("POST", "/api/ml", json={"project": project_id, "url": url, **values})

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
            timeout=_PREDICT_TIMEOUT_S,
        )
        return answer

    def list_webhooks(self, project_id: int) -> list[WebhookBody]:
        """Return the webhooks of a project."""
        answer = self.request("GET", "/api/webhooks", params={"project": project_id})
        return _read(TypeAdapter(list[WebhookBody]).validate_python, answer)

    def create_webhook(self, project_id: int, url: str, headers: dict[str, str]) -> None:
        """Register a webhook for all events of a project, with their content."""
        values = {
            "url": url,
            "project": project_id,
            "send_payload": True,
            "send_for_all_actions": True,
            "headers": headers,
            "is_active": True,
        }
        self.request("POST", "/api/webhooks/", json=values)

    def update_webhook(self, webhook_id: int, url: str, values: dict[str, Any]) -> None:
        """Change settings of a webhook."""
        self.request("PATCH", f"/api/webhooks/{webhook_id}/", json={"url": url, **values})

    def get_task_page(
        self, project_id: int, page: int, page_size: int, include: str | None = None
    ) -> TaskPage:
        """Return one page of a project's tasks; the first page is 1.

        Args:
            project_id: of the project.
            page: its number.
            page_size: tasks per page.
            include: comma-separated fields; None for all, with the annotations.
        """
        # Without fields=all some of the included ones stay empty.
        params = {"project": project_id, "page": page, "page_size": page_size, "fields": "all"}
        extra = {} if include is None else {"include": include}
        answer = self.request(
            "GET", "/api/tasks", params={**params, **extra}, timeout=_TRANSFER_TIMEOUT_S
        )
        return _read(TaskPage.model_validate, answer)

    def iterate_tasks(self, project_id: int, include: str | None = "id,data") -> Iterator[TaskBody]:
        """Yield every task of a project, page by page; see ``get_task_page``."""
        page = 1
        while True:
            tasks = self.get_task_page(project_id, page, _TASKS_PER_PAGE, include).tasks
            yield from tasks
            if len(tasks) < _TASKS_PER_PAGE:
                return
            page += 1

    def list_tasks_after(self, project_id: int, task_id: int, count: int) -> list[TaskBody]:
        """Return the tasks that an annotator will most likely open next.

        They are read from the list and not one by one: reading a single task makes Label Studio
        ask for its predictions, which would look like an opened task again.
        """
        later = {
            "filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": task_id,
        }  # fmt: skip
        query = {"filters": {"conjunction": "and", "items": [later]}, "ordering": ["tasks:id"]}
        params = {
            "project": project_id,
            "page_size": count,
            "fields": "task_only",
            "query": json.dumps(query),
        }
        answer = self.request("GET", "/api/tasks", params=params, timeout=_LOOKING_AHEAD_TIMEOUT_S)
        return _read(TaskPage.model_validate, answer).tasks

    def has_annotation(self, annotation_id: int) -> bool:
        """Return whether an annotation exists."""
        try:
            self.request("GET", f"/api/annotations/{annotation_id}/")
        except NotFound:
            return False
        return True

    def list_predictions(self, task_id: int) -> list[PredictionBody]:
        """Return the stored predictions of a task."""
        answer = self.request("GET", "/api/predictions", params={"task": task_id})
        return _read(TypeAdapter(list[PredictionBody]).validate_python, answer)

    def create_prediction(self, task_id: int, prediction: dict[str, Any]) -> None:
        """Store a prediction for a task."""
        self.request("POST", "/api/predictions", json={"task": task_id, **prediction})

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete a stored prediction."""
        self.request("DELETE", f"/api/predictions/{prediction_id}/")

    def ensure_view(self, project_id: int, title: str, filters: list[dict[str, Any]]) -> int:
        """Return the id of the Data Manager's tab of this title, created if it is missing.

        Args:
            project_id: of the project.
            title: of the tab.
            filters: which tasks it shows, the surest predictions first.
        """
        views = self.request("GET", "/api/dm/views/", params={"project": project_id})
        for view in views:
            if view.get("data", {}).get("title") == title:
                return int(view["id"])
        data = {
            "title": title,
            "type": "list",
            "filters": {"conjunction": "and", "items": filters},
            "ordering": ["-tasks:predictions_score"],
        }
        values = {"project": project_id, "data": data}
        return int(self.request("POST", "/api/dm/views/", json=values)["id"])

    def create_task(self, project_id: int, data: dict[str, Any]) -> TaskBody:
        """Create one task; returns it with its id."""
        answer = self.request("POST", "/api/tasks", json={"project": project_id, "data": data})
        return _read(TaskBody.model_validate, answer)

    def import_tasks(self, project_id: int, tasks: list[dict[str, Any]]) -> None:
        """Create tasks from ``{"data": ..., "predictions": ..., "annotations": ...}``."""
        path = f"/api/projects/{project_id}/import"
        self.request("POST", path, json=tasks, timeout=_TRANSFER_TIMEOUT_S)

    def import_images(self, project_id: int, paths: Sequence[Path]) -> int:
        """Upload image files as tasks; returns the number of tasks in the project."""
        for path in paths:
            with path.open("rb") as file:
                self.request(
                    "POST",
                    f"/api/projects/{project_id}/import",
                    files={"file": (path.name, file)},
                    timeout=_TRANSFER_TIMEOUT_S,
                )
        return self.get_project(project_id).task_number or 0

    def upload_image(self, project_id: int, path: Path) -> str:
        """Upload a file without creating a task; returns the reference for tasks."""
        with path.open("rb") as file:
            answer = self.request(
                "POST",
                f"/api/projects/{project_id}/import",
                params={"commit_to_project": "false"},
                files={"file": (path.name, file)},
                timeout=_TRANSFER_TIMEOUT_S,
            )
        try:
            upload_id = answer["file_upload_ids"][0]
            upload = self.request("GET", f"/api/import/file-upload/{upload_id}")
            return f"{self._public_path}/data/" + str(upload["file"]).lstrip("/")
        except (KeyError, IndexError, TypeError) as error:
            raise LabelStudioError(
                f"Label Studio took {path.name} and did not say where it is: {answer}."
            ) from error

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """Make one API call; returns the decoded JSON (None for an empty body).

        Reading waits and tries again while Label Studio is too busy.
        """
        response = self._send(method, path, **arguments)
        check_moved(response, self.base_url, path)
        self._check_status(response, method, path)
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise LabelStudioError(
                f"The answer of {self.base_url}{path} is not valid JSON.", ADDRESS_CURE
            ) from error

    def _send(
        self, method: str, path: str, timeout: float | None = None, **arguments: Any
    ) -> httpx.Response:
        tries = _READ_TRIES if method == "GET" else 1
        seconds = timeout or self._timeout_s
        while True:
            tries -= 1
            try:
                with time_limit(seconds):
                    response = self._client.request(
                        method, self.base_url + path, timeout=seconds, **arguments
                    )
            except httpx.TimeoutException as error:
                raise LabelStudioError(
                    f"Label Studio at {self.base_url} did not answer {path} within {seconds:g} s.",
                    ADDRESS_CURE,
                ) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason, cure = explain_failure(error, ADDRESS_CURE)
                raise LabelStudioError(
                    f"Label Studio at {self.base_url} cannot be reached: {reason}.", cure
                ) from error
            self._clock_offset = _read_clock_offset(response)
            if response.status_code not in _BUSY_STATUSES or not tries:
                return response
            time.sleep(_read_retry_after(response))

    @staticmethod
    def _check_status(response: httpx.Response, method: str, path: str) -> None:
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(f"Label Studio has no {path}.", "Check the number.")
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise LabelStudioError(
                f"Label Studio answered {response.status_code} to {method} {path}:"
                f" {response.text[:300]}",
                "Set SAYMASK_LABEL_STUDIO_API_KEY to a personal access token (or a legacy token,"
                " if the organization allows them) of a user who may see the project.",
            )
        if response.is_error:
            raise LabelStudioError(
                f"Label Studio answered {response.status_code} to {method} {path}:"
                f" {response.text[:500]}"
            )


def _read(parse: Callable[[Any], Model], answer: Any) -> Model:
    return validate(parse, answer, LabelStudioError, "Label Studio's answer")


def _read_object(answer: Any) -> dict[str, Any]:
    return _read(TypeAdapter(dict[str, Any]).validate_python, answer)


def _read_clock_offset(response: httpx.Response) -> timedelta:
    """How far our clock is ahead of the server's; nothing where it does not say, or by rounding."""
    try:
        theirs = parsedate_to_datetime(response.headers["Date"])
    except (KeyError, TypeError, ValueError):
        return timedelta(0)
    offset = datetime.now(UTC) - theirs
    return offset if abs(offset) > _CLOCK_PRECISION else timedelta(0)


def _read_retry_after(response: httpx.Response) -> float:
    """Seconds that Label Studio asks to wait; one second when it does not say."""
    try:
        return min(float(response.headers.get("Retry-After", "1")), _MAX_RETRY_AFTER_S)
    except ValueError:
        return 1.0
