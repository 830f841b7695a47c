"""Label Studio as far as saymask sees it: its API, its photos and its webhooks, all in memory."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from saymask_backend.label_studio.label_config import default_label_config
from saymask_backend.local_stack.up import sample_images

PROJECT: dict[str, Any] = {
    "id": 1, "title": "benchmark", "label_config": default_label_config(),
    "created_at": "2026-11-21T01:29:22.900539Z",
}  # fmt: skip
_PAGE_OF_NONE: dict[str, Any] = {"tasks": [], "total": 0}


@lru_cache(maxsize=64)
def build_photo(number: int) -> bytes:
    """A JPEG that differs from that of any other number: a sample photo, turned and scaled."""
    paths = sample_images()
    with Image.open(paths[number % len(paths)]) as file:
        image = file.convert("RGB")
    scale = 0.8 + 0.1 * (number // len(paths) % 5)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    buffer = io.BytesIO()
    image.rotate(number % 40 * 0.4).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients that are killed close their connections; that is part of the benchmark."""


class FakeStudio:
    """A server that keeps annotations and can be down for a while.

    Attributes:
        annotations: id to annotation, with its ``task``: the truth that records must equal.
        is_down: answers nothing but 503.
        draw_photo: the bytes of the photo of a number.
    """

    def __init__(self) -> None:
        self.annotations: dict[int, dict[str, Any]] = {}
        self.is_down = False
        self.draw_photo: Callable[[int], bytes] = build_photo
        self.lock = threading.Lock()
        self._photos: dict[int, int] = {}
        self._next = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if outer.is_down:
                    self._send(503, b"{}")
                    return
                url = urlsplit(self.path)
                if url.path.startswith("/data/"):
                    number = int(url.path.split("/")[-1].split(".")[0])
                    self._send(200, outer.draw_photo(number))
                    return
                answer = outer.answer(url.path, parse_qs(url.query))
                self._send(404 if answer is None else 200, json.dumps(answer).encode())

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def assign_photo(self, task_id: int, photo: int) -> None:
        """Say which photo a task shows."""
        with self.lock:
            self._photos[task_id] = photo

    def build_task(self, task_id: int) -> dict[str, Any]:
        """The task as Label Studio sends it."""
        return {
            "id": task_id, "data": {"image": f"/data/upload/1/{self._photos[task_id]}.jpg"},
        }  # fmt: skip

    def build_typed(
        self, task_id: int, expression: str, entry_id: str | None = None
    ) -> dict[str, Any]:
        """The predict request of an annotator who typed an expression.

        A newer expression of the same ``entry_id`` replaces an older one; by default each is new.
        """
        entry = {
            "id": entry_id or f"f{task_id}-{time.monotonic_ns()}", "type": "textarea",
            "from_name": "expression", "to_name": "image", "value": {"text": [expression]},
        }  # fmt: skip
        return {
            "tasks": [self.build_task(task_id)], "project": "1.1795224562",
            "label_config": PROJECT["label_config"], "params": {"context": {"result": [entry]}},
        }  # fmt: skip

    def save(
        self, task_id: int, result: list[dict[str, Any]], annotation_id: int | None = None
    ) -> dict[str, Any]:
        """Create or update an annotation; returns the webhook that Label Studio sends."""
        with self.lock:
            action = "ANNOTATION_UPDATED" if annotation_id else "ANNOTATION_CREATED"
            if annotation_id is None:
                self._next += 1
                annotation_id = self._next
            annotation = {
                "id": annotation_id, "task": task_id, "result": result, "was_cancelled": False,
                "lead_time": 4.0, "completed_by": 1, "updated_at": datetime.now(UTC).isoformat(),
            }  # fmt: skip
            self.annotations[annotation_id] = annotation
        return {
            "action": action, "project": PROJECT, "annotation": annotation,
            "task": self.build_task(task_id),
        }  # fmt: skip

    def delete(self, annotation_id: int) -> dict[str, Any]:
        """Delete an annotation; returns the webhook."""
        with self.lock:
            self.annotations.pop(annotation_id, None)
        return {
            "action": "ANNOTATIONS_DELETED", "project": PROJECT,
            "annotations": [{"id": annotation_id}],
        }  # fmt: skip

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        """Answer a call of the API, or None."""
        if path == "/api/projects/1":
            return PROJECT
        if path == "/api/tasks":
            return self._list_tasks(query)
        if path.startswith("/api/annotations/"):
            return self.annotations.get(int(path.split("/")[3]))
        return None

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def _list_tasks(self, query: dict[str, list[str]]) -> dict[str, Any] | None:
        if "page" not in query:
            return _PAGE_OF_NONE
        size, page = int(query["page_size"][0]), int(query["page"][0])
        by_task: dict[int, list[dict[str, Any]]] = {}
        with self.lock:
            for annotation in self.annotations.values():
                by_task.setdefault(annotation["task"], []).append(annotation)
        ids = sorted(by_task)[(page - 1) * size : page * size]
        if page > 1 and not ids:
            # As Label Studio: the page after the last one does not exist.
            return None
        tasks = [{**self.build_task(number), "annotations": by_task[number]} for number in ids]
        return {"tasks": tasks, "total": len(by_task)}
