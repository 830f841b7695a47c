"""saymask for those who host their models with label-studio-ml.

It passes every call on to a running saymask backend, so it needs nothing but label-studio-ml and
requests, whatever else those pin. It works with label-studio-ml 1.0.9, and with the interface of
its second generation (``setup``, ``predict(tasks, context)``, ``fit``).

Settings: ``SAYMASK_URL`` (default ``http://localhost:9090``), and the backend's
``SAYMASK_BASIC_AUTH_USER``, ``SAYMASK_BASIC_AUTH_PASSWORD`` and ``SAYMASK_WEBHOOK_SECRET``.
"""

from __future__ import annotations

import os
from typing import Any

import requests
from label_studio_ml.model import LabelStudioMLBase

# Label Studio itself gives up after 100 seconds.
_PREDICT_TIMEOUT_S = 99
_TIMEOUT_S = 5


class SaymaskModel(LabelStudioMLBase):
    """A label-studio-ml model that asks the saymask backend."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._remember_version()

    def setup(self) -> None:
        """Called by the second generation instead of reading ``model_version`` once."""
        self._remember_version()

    def predict(
        self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **_: Any
    ) -> list[Any]:
        """Return what saymask answers: one prediction per task.

        Raises:
            RuntimeError: saymask refused; with its cause and cure.
        """
        body = {
            "tasks": tasks,
            "label_config": self.label_config,
            "project": self._find_project(tasks),
            "params": {"context": context},
        }
        return self._post("/predict", body, timeout=_PREDICT_TIMEOUT_S)["results"]

    def process_event(self, event: str, data: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        """Pass a webhook on, of the first generation: it hands over every event."""
        return self._post("/webhook", {**data, "action": event}, timeout=_TIMEOUT_S)

    def fit(self, event: Any, data: Any = None, **_: Any) -> dict[str, Any]:
        """Pass a webhook on, of the second generation, which hands over some events only."""
        if not isinstance(event, str) or not isinstance(data, dict):
            return {}
        return self._post("/webhook", {**data, "action": event}, timeout=_TIMEOUT_S)

    def _remember_version(self) -> None:
        version = self._post("/setup", {}, timeout=_TIMEOUT_S)["model_version"]
        if hasattr(self, "set"):
            # The second generation keeps it in a store of its own.
            self.set("model_version", version)
        else:
            self.model_version = version

    def _find_project(self, tasks: list[dict[str, Any]]) -> str:
        """The project's number; label-studio-ml does not hand on when it was created."""
        known = getattr(self, "project_id", None) or next(
            (task["project"] for task in tasks if task.get("project")), 0
        )
        return str(known)

    def _post(self, path: str, body: dict[str, Any], timeout: float) -> Any:
        user = os.environ.get("SAYMASK_BASIC_AUTH_USER")
        auth = (user, os.environ.get("SAYMASK_BASIC_AUTH_PASSWORD", "")) if user else None
        secret = os.environ.get("SAYMASK_WEBHOOK_SECRET")
        headers = {"X-Saymask-Secret": secret} if secret and path == "/webhook" else {}
        url = os.environ.get("SAYMASK_URL", "http://localhost:9090").rstrip("/") + path
        answer = requests.post(url, json=body, auth=auth, headers=headers, timeout=timeout)
        if not answer.ok:
            raise RuntimeError(f"{url} answered {answer.status_code}: {answer.text[:500]}")
        return answer.json()
