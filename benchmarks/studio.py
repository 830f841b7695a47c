"""Label Studio as far as saymask sees it: its API, its photos and its webhooks, all in memory."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from saymask_backend.local_stack.up import sample_images
from tests.backend.label_studio import Answer, LabelStudioServer
from tests.factories import typed


@lru_cache(maxsize=64)
def derive_photo(originals: Sequence[Path], longer_px: Sequence[int], number: int) -> bytes:
    """Draw a photo that no other number gives: another part, shape and size of an original."""
    draw = random.Random(number)
    image = Image.open(originals[number % len(originals)]).convert("RGB")
    width, height = image.size
    left, top = draw.uniform(0, 0.2) * width, draw.uniform(0, 0.2) * height
    right, bottom = draw.uniform(0.8, 1) * width, draw.uniform(0.8, 1) * height
    scale = draw.choice(longer_px) / max(width, height)
    size = (round(width * scale), round(height * scale))
    buffer = io.BytesIO()
    image.resize(size, box=(left, top, right, bottom)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class FakeStudio(LabelStudioServer):
    """A server with one project that can be down for a while, and what its editor sends.

    Photos are derived from ``originals``; their longer side is one of ``longer_px``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.originals = tuple(sample_images())
        self.longer_px: tuple[int, ...] = (640,)

    @property
    def annotations(self) -> dict[int, dict[str, Any]]:
        """Id to annotation: the truth that records must equal."""
        return self.objects["annotations"]

    @property
    def project(self) -> dict[str, Any]:
        return self.objects["projects"][1]

    def add_photo_task(self, photo: int) -> int:
        """A new task that shows a photo; returns its id."""
        return self.add_task({"image": f"/data/upload/1/{photo}.jpg"})

    def build_task(self, task_id: int) -> dict[str, Any]:
        """The task as Label Studio sends it."""
        return {"id": task_id, "data": self.objects["tasks"][task_id]["data"]}

    def build_typed(
        self, task_id: int, expression: str, entry_id: str | None = None
    ) -> dict[str, Any]:
        """The predict request of an annotator who typed an expression.

        A newer expression of the same ``entry_id`` replaces an older one; by default each is new.
        """
        entry = typed(expression) | {"id": entry_id or f"f{task_id}-{time.monotonic_ns()}"}
        return {
            "tasks": [self.build_task(task_id)], "project": "1.1795224562",
            "label_config": self.project["label_config"],
            "params": {"context": {"result": [entry]}},
        }  # fmt: skip

    def save(
        self, task_id: int, result: list[dict[str, Any]], annotation_id: int | None = None
    ) -> dict[str, Any]:
        """Create or update an annotation; returns the webhook that Label Studio sends."""
        values = {
            "task": task_id, "result": result, "was_cancelled": False, "lead_time": 4.0,
            "completed_by": 1, "updated_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        action = "ANNOTATION_UPDATED" if annotation_id else "ANNOTATION_CREATED"
        with self._lock:
            annotation_id = annotation_id or self.add("annotations")
            annotation = {"id": annotation_id, **values}
            self.annotations[annotation_id] = annotation
            self._list_annotations(task_id)
        return {
            "action": action, "project": self.project, "annotation": annotation,
            "task": self.build_task(task_id),
        }  # fmt: skip

    def delete(self, annotation_id: int) -> dict[str, Any]:
        """Delete an annotation; returns the webhook."""
        with self._lock:
            self._list_annotations(self.annotations.pop(annotation_id)["task"])
        deleted = [{"id": annotation_id}]
        return {"action": "ANNOTATIONS_DELETED", "project": self.project, "annotations": deleted}

    def _list_annotations(self, task_id: int) -> None:
        mine = [a for a in self.annotations.values() if a["task"] == task_id]
        self.objects["tasks"][task_id]["annotations"] = mine

    def _answer(self, method: str, target: str, headers: Any, sent: bytes) -> Answer:
        return (503, {}) if self.is_down else super()._answer(method, target, headers, sent)

    def _handle(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        name = PurePosixPath(path)
        if path.startswith("/data/"):
            return 200, derive_photo(self.originals, self.longer_px, int(name.stem))
        if path.startswith("/api/annotations/"):
            annotation = self.annotations.get(int(name.name))
            return (200, annotation) if annotation else (404, {"detail": "Not found."})
        if path == "/api/tasks" and "query" in query:
            # No photo is prepared because a task before it was opened.
            return 200, {"tasks": [], "total": 0}
        return super()._handle(method, path, query, body)
