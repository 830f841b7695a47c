"""Every call that saymask makes to Label Studio's API."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter

from saymask.left_out import LeftOut
from saymask_backend.label_studio.api_schema import (
    CreatedBody,
    MlBackendBody,
    PredictionBody,
    ProjectBody,
    ViewBody,
    WebhookBody,
)
from saymask_backend.label_studio.auth import (
    ADDRESS_CURE,
    CallRefused,
    LabelStudioAuth,
    LabelStudioError,
    check_moved,
)
from saymask_backend.label_studio.connections import (
    USER_AGENT,
    build_tls,
    explain_failure,
    read_clock_offset,
)
from saymask_backend.label_studio.guarded_http import DeadlineTransport, find_proxy, time_limit
from saymask_backend.label_studio.label_config import LabelConfig, default_label_config
from saymask_backend.label_studio.schema import Body, TaskBody, validate

log = logging.getLogger(__name__)

_BUSY_STATUSES = (429, 502, 503, 504)
_READ_TRIES = 5
_MAX_RETRY_AFTER_S = 60.0
_PAGE_SIZE = 100
_HEADERS_OF_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")
_PREDICT_TIMEOUT_S = 100.0
# What is decoded of an answer takes four times its length in memory.
_MAX_PAGE_BYTES, _MAX_ANSWER_BYTES = 32_000_000, 256_000_000
# For a page of annotations, or files.
_TRANSFER_TIMEOUT_S = 300.0
# Nobody waits for the tasks after an opened one.
_LOOKING_AHEAD_TIMEOUT_S = 10.0

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

Model = TypeVar("Model")
Object = TypeVar("Object", bound=Body)


class NotFound(CallRefused):
    """Label Studio does not have the requested object."""


class InvalidAnswer(LabelStudioError):
    """An object of Label Studio's API has an unknown shape."""

    concerns_all = False


class AnswerTooLarge(LabelStudioError):
    """An answer is longer than what is read into memory."""

    concerns_all = False


@dataclass(frozen=True)
class Page:
    """One page of a list, or a part of a page that is too large to be read at once.

    Attributes:
        following: number of the page to go on with after this; the first is 1.
        items: as they came, without those of earlier pages.
        total: number of items in all, as far as Label Studio says.
        asked_at: before it was asked for, by our clock.
        left_out: why the one item of this part could not be read, or None.
    """

    following: int
    items: list[Any]
    total: int
    asked_at: datetime
    left_out: AnswerTooLarge | None = None


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

    def iterate_pages(
        self,
        path: str,
        params: dict[str, Any] | None = None,
        page_size: int = _PAGE_SIZE,
        first: int = 1,
        timeout_s: float | None = None,
    ) -> Iterator[Page]:
        """Yield the pages of a list to its end, whatever number of items Label Studio puts on one.

        Label Studio has three kinds: a plain list, which is whole, ``results`` with ``count``, and
        ``tasks`` with ``total``; after the last page comes "not found". Every item is yielded once,
        although a list that changes while it is read may show one twice.

        Args:
            path: of the list.
            params: of the query.
            page_size: items that are asked for at a time.
            first: number of the first page.
            timeout_s: longest wait for a page; None for the client's own.
        """
        ask = partial(self._ask_page, path, params or {}, timeout_s)
        seen: set[str] = set()
        per_page = 0
        for number in itertools.count(first):
            try:
                whole = ask(number, page_size)
            except AnswerTooLarge:
                whole, parts = None, _ask_parts(ask, number, per_page or page_size)
            else:
                parts = iter([whole] if whole is not None else [])
            has_more = False
            for page in parts:
                found = {_identify(item): item for item in page.items}
                new = [item for key, item in found.items() if key not in seen]
                seen.update(found)
                if new or page.left_out is not None:
                    has_more = True
                    yield replace(page, items=new)
            if whole is not None:
                per_page = max(per_page, len(whole.items))
                reached = (number - 1) * per_page + len(whole.items)
                has_more = has_more and not 0 < whole.total <= reached
            if not has_more:
                return

    def _ask_page(
        self,
        path: str,
        params: dict[str, Any],
        timeout_s: float | None,
        number: int,
        page_size: int,
    ) -> Page | None:
        """One page of a list; None behind its end."""
        query = {**params, "page": number, "page_size": page_size}
        max_bytes = _MAX_PAGE_BYTES if page_size > 1 else _MAX_ANSWER_BYTES
        asked_at = datetime.now(UTC)
        try:
            answer = self.request("GET", path, timeout_s, max_bytes, params=query)
        except NotFound:
            if number == 1:
                raise
            return None
        return Page(number + 1, *_read_page(answer, path), asked_at)

    def _list(self, path: str, model: type[Object], what: str, **params: Any) -> list[Object]:
        """A whole list; an odd object is logged and left out."""
        left_out = LeftOut()
        found = [
            item
            for page in self.iterate_pages(path, params)
            for item in read_each(page, model, what, left_out)
        ]
        for line in left_out.lines:
            log.warning("Label Studio's %s", line)
        return found

    def list_projects(self) -> list[ProjectBody]:
        """Return all projects that the user sees."""
        return self._list("/api/projects", ProjectBody, "project")

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
        is_wanted: Callable[[ProjectBody], bool] | None = None,
    ) -> tuple[int, bool]:
        """Return the id of a project, and whether it was created now.

        Args:
            title: of the project.
            label_config: of a new one; by default the one that saymask recommends.
            description: of a new one.
            is_wanted: tells the project from others; by default the oldest of this title.
        """
        values = {
            "title": title,
            "description": description,
            "label_config": label_config or default_label_config(),
            # Opened tasks show what was predicted for the expressions in their data.
            "show_collab_predictions": True,
            "evaluate_predictions_automatically": False,
        }
        is_ours = is_wanted or (lambda project: project.title == title)
        return self._create_once(
            lambda: [project.id for project in self.list_projects() if is_ours(project)],
            "/api/projects",
            values,
        )

    def _create_once(
        self, find: Callable[[], list[int]], path: str, values: dict[str, Any]
    ) -> tuple[int, bool]:
        """Return the id of an object that is to exist once, and whether it was created now.

        Of several the oldest counts. Whoever creates one while another does deletes the later one:
        both end with the same.

        Args:
            find: returns the ids of all equal ones.
            path: of their list, without a slash at the end: a single ML backend has none.
            values: of a new one.
        """
        existing = find()
        if existing:
            return min(existing), False
        own = _read(CreatedBody.model_validate, self.request("POST", path, json=values)).id
        oldest = min(find(), default=own)
        if oldest >= own:
            return own, True
        self.request("DELETE", f"{path}/{own}")
        return oldest, False

    def list_ml_backends(self, project_id: int) -> list[MlBackendBody]:
        """Return the ML backends attached to a project."""
        return self._list("/api/ml", MlBackendBody, "ML backend", project=project_id)

    def find_ml_backends(self, project_id: int, url: str) -> list[MlBackendBody]:
        """Return the ML backends of this address that are attached to a project, oldest first."""
        backends = self.list_ml_backends(project_id)
        found = [b for b in backends if b.url.rstrip("/") == url.rstrip("/")]
        return sorted(found, key=lambda backend: backend.id)

    def attach_ml_backend(self, project_id: int, url: str, values: dict[str, Any]) -> None:
        """Attach an ML backend to a project; Label Studio calls it to see whether it answers."""
        self._create_once(
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
        return self._list("/api/webhooks", WebhookBody, "webhook", project=project_id)

    def delete_webhook(self, webhook_id: int) -> None:
        """Delete a webhook, unless that was done meanwhile."""
        with contextlib.suppress(NotFound):
            self.request("DELETE", f"/api/webhooks/{webhook_id}/")

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

    def iterate_task_pages(
        self,
        project_id: int,
        include: str | None = None,
        page_size: int = _PAGE_SIZE,
        first: int = 1,
    ) -> Iterator[Page]:
        """Yield a project's tasks as they come, page by page.

        Args:
            project_id: of the project.
            include: comma-separated fields; None for all, with the annotations.
            page_size: tasks that are asked for at a time.
            first: number of the first page.
        """
        # Without fields=all some of the included ones stay empty.
        params: dict[str, Any] = {"project": project_id, "fields": "all"}
        extra = {} if include is None else {"include": include}
        query = {**params, **extra}
        return self.iterate_pages("/api/tasks", query, page_size, first, _TRANSFER_TIMEOUT_S)

    def iterate_tasks(
        self, project_id: int, left_out: LeftOut, include: str | None = "id,data"
    ) -> Iterator[TaskBody]:
        """Yield every task of a project.

        Args:
            project_id: of the project.
            left_out: gets the tasks that cannot be read.
            include: as in ``iterate_task_pages``.
        """
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
        return self._list("/api/predictions", PredictionBody, "prediction", task=task_id)

    def create_prediction(self, task_id: int, prediction: dict[str, Any]) -> None:
        """Store a prediction for a task."""
        self.request("POST", "/api/predictions", json={"task": task_id, **prediction})

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete a stored prediction, unless that was done meanwhile."""
        with contextlib.suppress(NotFound):
            self.request("DELETE", f"/api/predictions/{prediction_id}/")

    def ensure_view(self, project_id: int, title: str, filters: list[dict[str, Any]]) -> int:
        """Return the id of the Data Manager's tab of this title, created if it is missing.

        Args:
            project_id: of the project.
            title: of the tab.
            filters: which tasks it shows, the surest predictions first.
        """

        def find() -> list[int]:
            views = self._list("/api/dm/views/", ViewBody, "tab", project=project_id)
            return [view.id for view in views if view.data.get("title") == title]

        data = {
            "title": title,
            "type": "list",
            "filters": {"conjunction": "and", "items": filters},
            "ordering": ["-tasks:predictions_score"],
        }
        view, _ = self._create_once(find, "/api/dm/views", {"project": project_id, "data": data})
        return view

    def create_task(self, project_id: int, data: dict[str, Any]) -> TaskBody:
        """Create one task; returns it with its id."""
        answer = self.request("POST", "/api/tasks", json={"project": project_id, "data": data})
        return _read(TaskBody.model_validate, answer)

    def import_tasks(self, project_id: int, tasks: list[dict[str, Any]]) -> None:
        """Create tasks from ``{"data": ..., "predictions": ..., "annotations": ...}``."""
        path = f"/api/projects/{project_id}/import"
        self.request("POST", path, json=tasks, timeout_s=_TRANSFER_TIMEOUT_S)

    def import_images(self, project_id: int, paths: Sequence[Path]) -> int:
        """Upload image files as tasks; returns the number of tasks in the project."""
        for path in paths:
            with path.open("rb") as file:
                self.request(
                    "POST",
                    f"/api/projects/{project_id}/import",
                    files={"file": (path.name, file)},
                    timeout_s=_TRANSFER_TIMEOUT_S,
                )
        return self.get_project(project_id).task_number or 0

    def upload_image(self, project_id: int, path: Path, name: str) -> str:
        """Upload a file under a name without creating a task; returns the reference for tasks."""
        with path.open("rb") as file:
            answer = self.request(
                "POST",
                f"/api/projects/{project_id}/import",
                params={"commit_to_project": "false"},
                files={"file": (name, file)},
                timeout_s=_TRANSFER_TIMEOUT_S,
            )
        try:
            upload_id = answer["file_upload_ids"][0]
            upload = self.request("GET", f"/api/import/file-upload/{upload_id}")
            return f"{self._public_path}/data/" + str(upload["file"]).lstrip("/")
        except (KeyError, IndexError, TypeError) as error:
            raise LabelStudioError(
                f"Label Studio took {path.name} and did not say where it is: {answer}."
            ) from error

    def request(
        self,
        method: str,
        path: str,
        timeout_s: float | None = None,
        max_bytes: int = _MAX_ANSWER_BYTES,
        **arguments: Any,
    ) -> Any:
        """Make one API call; returns the decoded JSON (None for an empty body).

        Reading waits and tries again while Label Studio is too busy.

        Args:
            method: of HTTP.
            path: below Label Studio's address.
            timeout_s: longest time for the answer; None for the client's own.
            max_bytes: longest answer, unpacked.
            arguments: of ``httpx.Client.stream``.
        """
        response = self._send(method, path, timeout_s or self._timeout_s, max_bytes, arguments)
        check_moved(response, self.base_url, path)
        self._check_status(response, method, path)
        try:
            return response.json() if response.content else None
        except (ValueError, RecursionError) as error:
            raise LabelStudioError(
                f"The answer of {self.base_url}{path} is not valid JSON.", ADDRESS_CURE
            ) from error

    def _send(
        self, method: str, path: str, seconds: float, max_bytes: int, arguments: dict[str, Any]
    ) -> httpx.Response:
        tries = _READ_TRIES if method == "GET" else 1
        while True:
            tries -= 1
            try:
                with (
                    time_limit(seconds),
                    self._client.stream(
                        method, self.base_url + path, timeout=seconds, **arguments
                    ) as answer,
                ):
                    response = _read_answer(answer, path, max_bytes)
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
            self._clock_offset = read_clock_offset(response)
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
            is_busy = response.status_code in _BUSY_STATUSES
            raise (LabelStudioError if is_busy else CallRefused)(
                f"Label Studio answered {response.status_code} to {method} {path}:"
                f" {response.text[:500]}"
            )


def _read(parse: Callable[[Any], Model], answer: Any) -> Model:
    return validate(parse, answer, InvalidAnswer, "Label Studio's answer")


def read_each(page: Page, model: type[Object], what: str, left_out: LeftOut) -> Iterator[Object]:
    """Validate the objects of a page one by one; odd ones are left out."""

    def describe(item: Any) -> str:
        return f"{what} {item.get('id')}" if isinstance(item, dict) else f"{what} {item!r:.40}"

    if page.left_out is not None:
        left_out.add(f"a {what}", str(page.left_out))
    return left_out.convert(page.items, lambda item: _read(model.model_validate, item), describe)


def _ask_parts(ask: Callable[[int, int], Page | None], number: int, size: int) -> Iterator[Page]:
    """The items of a page that is too large, one at a time."""
    end = number * size
    for position in range(end - size + 1, end + 1):
        asked_at = datetime.now(UTC)
        try:
            page = ask(position, 1)
        except AnswerTooLarge as error:
            page = Page(position, [], 0, asked_at, error)
        if page is None:
            return
        yield replace(page, following=number + (position == end))


def _read_page(answer: Any, path: str) -> tuple[list[Any], int]:
    """The items of a page, and their number on all pages; 0 where that is not said."""
    if isinstance(answer, list):
        return answer, len(answer)
    if isinstance(answer, dict):
        for name, count in (("results", "count"), ("tasks", "total")):
            items, total = answer.get(name), answer.get(count)
            if isinstance(items, list):
                return items, total if isinstance(total, int) else 0
    raise LabelStudioError(f"Label Studio's answer to {path} is not a list.")


def _identify(item: Any) -> str:
    """What makes an item of a list one that was seen before."""
    number = item.get("id") if isinstance(item, dict) else None
    return str(number) if type(number) is int else json.dumps(item, sort_keys=True)


def _read_object(answer: Any) -> dict[str, Any]:
    return _read(TypeAdapter(dict[str, Any]).validate_python, answer)


def _read_answer(answer: httpx.Response, path: str, max_bytes: int) -> httpx.Response:
    """An answer with its whole content."""
    content = bytearray()
    for piece in answer.iter_bytes():
        content += piece
        if len(content) > max_bytes:
            raise AnswerTooLarge(
                f"Label Studio's answer to {path} is larger than {max_bytes / 1e6:g} MB.",
                "Distribute the annotations over several tasks, or draw smoother outlines.",
            )
    headers = {k: v for k, v in answer.headers.items() if k not in _HEADERS_OF_TRANSFER}
    return httpx.Response(
        answer.status_code, headers=headers, content=bytes(content), request=answer.request
    )


def _read_retry_after(response: httpx.Response) -> float:
    """Seconds that Label Studio asks to wait; one second when it does not say."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _MAX_RETRY_AFTER_S) if _SECONDS.fullmatch(asked) else 1.0
