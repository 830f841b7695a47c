"""A small HTTP server that lists, creates and deletes as Label Studio 1.23 does."""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from saymask_backend.label_studio.label_config import default_label_config
from tests.backend.http import JPEG, KEY, Handler

CREATED = "2026-11-21T01:29:22.900539Z"
# Label Studio's own sizes of a page, where the caller asks for none, and the most projects on one.
_PROJECTS_PER_PAGE, _TASKS_PER_PAGE = 30, 100
_PROJECTS_MAX = 100
_LISTS = {
    "/api/projects": "projects", "/api/tasks": "tasks", "/api/ml": "ml",
    "/api/webhooks": "webhooks", "/api/predictions": "predictions", "/api/dm/views": "views",
}  # fmt: skip

Answer = tuple[int, Any]


class LabelStudioServer:
    """Objects by kind and id; with one project, 1, that is set up for saymask.

    Attributes:
        page_max: most items of a page, whatever is asked for.
        refused: ids of tasks for which no prediction is taken.
        refused_file: name of a file that is not taken.
        meetings: by method and path, a barrier at which calls wait before they are answered.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.page_max = 10_000
        self.refused: set[int] = set()
        self.refused_file = ""
        self.meetings: dict[tuple[str, str], threading.Barrier] = {}
        self.asked: list[tuple[str, str]] = []
        self._lock = threading.RLock()
        self._numbers: dict[str, int] = defaultdict(int)
        self.add("projects", title="Cats", label_config=default_label_config())
        outer = self

        class Api(Handler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                sent = self.rfile.read(length)
                status, body = outer._answer(self.command, self.path, self.headers, sent)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send(content, status)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, kind: str, **values: Any) -> int:
        with self._lock:
            self._numbers[kind] += 1
            number = self._numbers[kind]
            if kind == "projects":
                values = {"created_at": CREATED, "description": "", **values}
            self.objects[kind][number] = {"id": number, **values}
            return number

    def add_task(self, data: Any, project: int = 1, **values: Any) -> int:
        return self.add("tasks", data=data, project=project, annotations=[], **values)

    def meet(self, method: str, path: str, parties: int) -> None:
        """The first calls of a kind wait for each other before anything is done."""
        self.meetings[method, path] = threading.Barrier(parties)

    def _answer(self, method: str, target: str, headers: Any, sent: bytes) -> Answer:
        url = urlsplit(target)
        if re.fullmatch(r"/api/ml/\d+/", url.path):
            # The one kind of object whose address has no slash at the end.
            return 404, {"detail": "Not found."}
        path = url.path.rstrip("/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with self._lock:
            self.asked.append((method, path))
            meeting = self.meetings.get((method, path))
        if headers.get("Authorization") != f"Token {KEY}":
            return 401, {"detail": "Invalid token."}
        is_json = "json" in headers.get("Content-Type", "")
        body = json.loads(sent) if sent and is_json else None
        if meeting is not None:
            meeting.wait(20)
            self.meetings.pop((method, path), None)
        if self.refused_file and f'"{self.refused_file}"'.encode() in sent:
            return 400, {"detail": "Your file is not supported."}
        return self._handle(method, path, query, body)

    def _handle(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        if path.startswith("/data/"):
            return (404, {}) if "missing" in path else (200, JPEG + path.encode())
        with self._lock:
            if path in _LISTS:
                kind = _LISTS[path]
                return self._list(kind, query) if method == "GET" else self._create(kind, body)
            if path.endswith("/import"):
                return self._import(int(path.split("/")[3]), query, body)
            if path.startswith("/api/import/file-upload/"):
                return 200, {"id": 1, "file": "upload/1/photo.jpg"}
            parent, _, number = path.rpartition("/")
            if parent in _LISTS and number.isdigit():
                return self._change(method, self.objects[_LISTS[parent]], int(number), body)
        return 404, {"detail": "Not found."}

    def _list(self, kind: str, query: dict[str, str]) -> Answer:
        found = [v for _, v in sorted(self.objects[kind].items()) if self._is_meant(v, query)]
        if kind == "projects":
            return self._page(found[::-1], query, _PROJECTS_PER_PAGE, "results", "count")
        if kind == "tasks":
            found = [self._show_task(task) for task in found]
            return self._page(found, query, _TASKS_PER_PAGE, "tasks", "total")
        return 200, found

    @staticmethod
    def _is_meant(item: dict[str, Any], query: dict[str, str]) -> bool:
        names = [name for name in ("project", "task") if name in query]
        if not all(str(item.get(name)) == query[name] for name in names):
            return False
        filters = json.loads(query.get("query", "{}")).get("filters", {}).get("items", [])
        return all(item["id"] > f["value"] for f in filters)

    def _show_task(self, task: dict[str, Any]) -> dict[str, Any]:
        """A task as it is listed; an ``odd`` one as it is."""
        if "odd" in task:
            return task["odd"]
        versions = [
            prediction["model_version"]
            for prediction in self.objects["predictions"].values()
            if prediction["task"] == task["id"]
        ]
        count = len(task["annotations"])
        shown = {"predictions_model_versions": versions, "total_annotations": count}
        return {**task, **shown}

    def _page(
        self, found: list[Any], query: dict[str, str], usual: int, name: str, count: str
    ) -> Answer:
        most = min(self.page_max, _PROJECTS_MAX) if name == "results" else self.page_max
        size = min(int(query.get("page_size", usual)), most)
        number = int(query.get("page", 1))
        start = (number - 1) * size
        if start >= len(found) and number > 1:
            return 404, {"detail": "Invalid page.", "status_code": 404}
        shown = {name: found[start : start + size], count: len(found)}
        if name == "results":
            shown["next"] = "http://elsewhere/" if start + size < len(found) else None
        return 200, shown

    def _create(self, kind: str, body: dict[str, Any]) -> Answer:
        if kind == "predictions" and (
            body["task"] in self.refused or body["task"] not in self.objects["tasks"]
        ):
            return 400, {"validation_errors": {"task": ["Invalid pk - object does not exist."]}}
        if kind == "tasks":
            body = {"annotations": [], **body}
        number = self.add(kind, **body)
        if kind == "ml":
            hook = {"url": f"{body['url']}/webhook", "project": body["project"]}
            if not any(hook.items() <= one.items() for one in self.objects["webhooks"].values()):
                self.add("webhooks", **hook)
        return 201, self.objects[kind][number]

    def _import(self, project: int, query: dict[str, str], body: Any) -> Answer:
        if query.get("commit_to_project") == "false":
            return 201, {"file_upload_ids": [1]}
        for one in body:
            self.add_task(one["data"], project)
        return 201, {"task_count": len(body)}

    @staticmethod
    def _change(method: str, kept: dict[int, dict[str, Any]], number: int, body: Any) -> Answer:
        if number not in kept:
            return 404, {"detail": "Not found."}
        if method == "DELETE":
            del kept[number]
            return 204, b""
        if method == "PATCH":
            kept[number].update(body)
        return 200, kept[number]
