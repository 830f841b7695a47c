"""Connecting a project and finding what keeps it from working: each check says cause and cure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from backend.errors import InvalidLabelConfig, SaymaskError
from backend.label_studio.client import LabelStudioClient, LabelStudioError
from backend.label_studio.label_config import default_label_config, load_label_config
from backend.label_studio.project_tasks import read_tasks

State = Literal["ok", "changed", "problem", "unknown"]
TITLE = "saymask"
SECRET_HEADER = "X-Saymask-Secret"
_WANTED_VERSION = (1, 20)
_EVENT_WAIT_S = 8.0
_ADDRESS_CURE = (
    "Label Studio refuses to call private addresses. Start it with ML_BLOCK_LOCAL_IP=false and"
    " SSRF_PROTECTION_ENABLED=false (both: without the second the backend is attached but no"
    " webhook is registered, and nothing is recorded)."
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    ``state`` is ``ok``, ``changed`` (it was wrong and was put right), ``problem``, or ``unknown``
    (it could not be looked at).
    """

    name: str
    state: State
    text: str
    cure: str = ""


@dataclass(frozen=True)
class Wanted:
    """How a project is to be connected.

    Attributes:
        backend_url: as Label Studio reaches it.
        user, password: that the backend demands, or empty.
        secret: that its webhook demands, or empty.
        may_change: put right what is wrong, or only look.
    """

    backend_url: str
    user: str
    password: str
    secret: str
    may_change: bool


class Connector:
    """Looks at one project of one Label Studio, step by step; a step that fails hides none."""

    def __init__(self, client: LabelStudioClient, wanted: Wanted) -> None:
        self._client = client
        self._wanted = wanted

    def check_label_studio(self) -> list[Check]:
        """That it is there, and takes the key."""
        return self._run(
            ("Label Studio", self._check_version),
            ("API key", self._check_key),
        )

    def check_backend(self) -> list[Check]:
        """That the backend answers, has a worker, and takes its own secret."""
        return self._run(("backend", self._check_backend))

    def check_project(self, project_id: int) -> list[Check]:
        """Labelling config, flags, attachment, webhook, an event and an expression on their way."""
        self._project_id = project_id
        return self._run(
            ("labelling config", self._check_config),
            ("project settings", self._check_flags),
            ("attachment", self._check_attached),
            ("webhook", self._check_webhook),
            ("test event", self._check_event),
            ("test expression", self._check_expression),
        )

    def attach(self, project_id: int) -> list[Check]:
        """Attachment and webhook alone: what a project that was just made needs."""
        self._project_id = project_id
        return self._run(("attachment", self._check_attached), ("webhook", self._check_webhook))

    def _run(self, *steps: tuple[str, Callable[[], Check]]) -> list[Check]:
        checks = []
        for name, step in steps:
            try:
                checks.append(step())
            except SaymaskError as error:
                checks.append(Check(name, "problem", error.cause, error.cure))
        return checks

    def _check_version(self) -> Check:
        release = str(self._client.request("GET", "/api/version").get("release", "unknown"))
        try:
            version = tuple(int(part) for part in release.split(".")[:2])
        except ValueError:
            version = ()
        if version and version < _WANTED_VERSION:
            return Check(
                "Label Studio", "problem", f"It is version {release}.",
                "saymask is tested with 1.23; update it.",
            )  # fmt: skip
        return Check("Label Studio", "ok", f"version {release} at {self._client.base_url}")

    def _check_key(self) -> Check:
        try:
            user = self._client.request("GET", "/api/current-user/whoami")
        except LabelStudioError as error:
            if "legacy token" in error.cause:
                return Check(
                    "API key", "problem", "Legacy tokens are disabled in this organization.",
                    "Take a personal access token (Account & Settings), or enable legacy tokens"
                    " under Organization, API Tokens Settings.",
                )  # fmt: skip
            raise
        return Check("API key", "ok", f"of {user.get('email') or user.get('username')}")

    def _check_backend(self) -> Check:
        url = f"{self._wanted.backend_url}/ready"
        try:
            answer = httpx.get(url, timeout=10).json()
            workers = answer["workers"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return Check(
                "backend", "problem", f"{url} does not answer as saymask does: {error}",
                "Start it (saymask serve) and name its address with --backend-url.",
            )  # fmt: skip
        if not answer["ready"]:
            return Check(
                "backend", "problem", answer.get("queue_error") or "No worker answers.",
                "Start one: saymask-worker run (with the backend's SAYMASK_REDIS_URL).",
            )  # fmt: skip
        return Check("backend", "ok", f"{len(workers)} workers, {answer['model_version']}")

    def _project(self) -> dict[str, Any]:
        project: dict[str, Any] = self._client.request("GET", f"/api/projects/{self._project_id}")
        return project

    def _change(self, path: str, values: dict[str, Any]) -> None:
        self._client.request("PATCH", path, json=values)

    def _check_config(self) -> Check:
        project = self._project()
        xml = str(project.get("label_config") or "")
        try:
            config = load_label_config(xml)
        except InvalidLabelConfig as error:
            annotations = int(project.get("total_annotations_number") or 0)
            if self._wanted.may_change and not annotations:
                self._change(
                    f"/api/projects/{self._project_id}/", {"label_config": default_label_config()}
                )
                return Check("labelling config", "changed", "saymask's own was written")
            kept = f" {annotations} annotations were made with it." if annotations else ""
            return Check(
                "labelling config", "problem", error.cause + kept,
                "Add the missing tags by hand; saymask label-config prints an example."
                if annotations else "saymask connect writes one that works.",
            )  # fmt: skip
        missing = [
            what
            for what, name in (
                ("a field of its own for each region's expression", config.region_expression),
                ("the choice no referent / ambiguous", config.verdict),
                ("the notice that says what saymask does", config.notice),
                ("clicks that refine a mask", config.click),
            )
            if name is None
        ]
        if missing:
            return Check(
                "labelling config", "ok",
                f"works, without {', '.join(missing)} (see saymask label-config)",
            )  # fmt: skip
        return Check("labelling config", "ok", "has everything")

    def _check_flags(self) -> Check:
        project = self._project()
        wanted = {"show_collab_predictions": True, "evaluate_predictions_automatically": False}
        wrong = {name: value for name, value in wanted.items() if project.get(name) is not value}
        if project.get("model_version") != TITLE and self._is_attached():
            wrong["model_version"] = TITLE  # type: ignore[assignment]
        if not wrong:
            return Check("project settings", "ok", "predictions are shown, and only saymask's")
        names = ", ".join(f"{name}={value}" for name, value in wrong.items())
        if not self._wanted.may_change:
            return Check(
                "project settings", "problem", f"Should be {names}.", "saymask connect sets them."
            )
        self._change(f"/api/projects/{self._project_id}/", wrong)
        return Check("project settings", "changed", names)

    def _is_attached(self) -> bool:
        return self._attached() is not None

    def _attached(self) -> dict[str, Any] | None:
        known = self._client.request("GET", "/api/ml", params={"project": self._project_id})
        ours = self._wanted.backend_url.rstrip("/")
        return next((one for one in known if str(one["url"]).rstrip("/") == ours), None)

    def _check_attached(self) -> Check:
        known = self._attached()
        wanted: dict[str, Any] = {"title": TITLE, "is_interactive": True}
        if self._wanted.user:
            wanted["auth_method"] = "BASIC_AUTH"
            wanted["basic_auth_user"] = self._wanted.user
            wanted["basic_auth_pass"] = self._wanted.password
        if known is None:
            if not self._wanted.may_change:
                return Check(
                    "attachment", "problem", "The backend is not attached.",
                    f"saymask connect --project {self._project_id}",
                )  # fmt: skip
            try:
                values = {"project": self._project_id, "url": self._wanted.backend_url, **wanted}
                self._client.request("POST", "/api/ml", json=values)
            except LabelStudioError as error:
                return Check("attachment", "problem", error.cause, self._explain(error))
            # Only now does Label Studio accept the backend's name as the model to show.
            self._change(f"/api/projects/{self._project_id}/", {"model_version": TITLE})
            return Check("attachment", "changed", f"{self._wanted.backend_url} was attached")
        wrong = {n: v for n, v in wanted.items() if n != "basic_auth_pass" and known.get(n) != v}
        if known.get("state") not in ("CO", None):
            return Check(
                "attachment", "problem",
                f"Label Studio cannot reach the backend: {known.get('error_message') or 'error'}",
                self._explain_reach(),
            )  # fmt: skip
        if wrong and not self._wanted.may_change:
            return Check("attachment", "problem", f"Should be {wrong}.", "saymask connect sets it.")
        if wrong:
            self._change(f"/api/ml/{known['id']}", {**wanted, "project": self._project_id})
            return Check("attachment", "changed", ", ".join(sorted(wrong)))
        return Check("attachment", "ok", "attached, answers typed expressions")

    def _explain(self, error: LabelStudioError) -> str:
        if "reserved network address" in error.cause:
            return _ADDRESS_CURE
        if "health check failed" in error.cause or "connect" in error.cause.lower():
            return self._explain_reach()
        return error.cure

    def _explain_reach(self) -> str:
        host = urlsplit(self._wanted.backend_url).hostname
        inside = host in ("127.0.0.1", "localhost", "::1")
        return f"From where Label Studio runs, {self._wanted.backend_url} must answer" + (
            "; inside a container this address is the container itself: name the machine's"
            " address with --backend-url, and start the backend with SAYMASK_HOST=0.0.0.0."
            if inside
            else ". Check address, firewall and SAYMASK_HOST."
        )

    def _hook(self) -> dict[str, Any] | None:
        hooks = self._client.request("GET", "/api/webhooks", params={"project": self._project_id})
        url = f"{self._wanted.backend_url.rstrip('/')}/webhook"
        return next((hook for hook in hooks if hook["url"].rstrip("/") == url), None)

    def _check_webhook(self) -> Check:
        hook = self._hook()
        headers = {SECRET_HEADER: self._wanted.secret} if self._wanted.secret else {}
        if hook is None:
            if not self._wanted.may_change:
                return Check(
                    "webhook", "problem", "No webhook is registered: nothing is recorded at once.",
                    "saymask connect registers it; saymask sync reads what was missed.",
                )  # fmt: skip
            try:
                self._client.request(
                    "POST",
                    "/api/webhooks/",
                    json={
                        "url": f"{self._wanted.backend_url.rstrip('/')}/webhook",
                        "project": self._project_id,
                        "send_payload": True,
                        "send_for_all_actions": True,
                        "headers": headers,
                        "is_active": True,
                    },
                )
            except LabelStudioError as error:
                return Check("webhook", "problem", error.cause, _ADDRESS_CURE)
            return Check("webhook", "changed", "registered")
        right = {"is_active": True, "send_payload": True, "send_for_all_actions": True}
        wrong: dict[str, Any] = {n: v for n, v in right.items() if hook.get(n) is not v}
        sent = hook.get("headers") or {}
        if any(sent.get(name) != value for name, value in headers.items()):
            wrong["headers"] = {**sent, **headers}
        if not wrong:
            return Check("webhook", "ok", "registered" + (", with its secret" if headers else ""))
        names = ", ".join(sorted(wrong))
        if not self._wanted.may_change:
            return Check("webhook", "problem", f"Wrong: {names}.", "saymask connect puts it right.")
        self._change(f"/api/webhooks/{hook['id']}/", {"url": hook["url"], **wrong})
        return Check("webhook", "changed", f"{names} set")

    def _check_event(self) -> Check:
        """Saving the project, nothing changed, makes Label Studio send a webhook."""
        before = self._count_events()
        project = self._project()
        self._change(f"/api/projects/{self._project_id}/", {"title": project["title"]})
        until = time.monotonic() + _EVENT_WAIT_S
        while time.monotonic() < until:
            if self._count_events() > before:
                return Check("test event", "ok", "Label Studio's webhook arrived")
            time.sleep(0.2)
        return Check(
            "test event", "problem",
            "Label Studio's webhook did not arrive at the backend.",
            "See the webhook's address and secret in the project's settings. "
            + self._explain_reach(),
        )  # fmt: skip

    def _count_events(self) -> int:
        try:
            answer = httpx.get(f"{self._wanted.backend_url}/ready", timeout=10).json()
            return sum(answer["events"].values())
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise LabelStudioError(
                f"{self._wanted.backend_url} does not answer: {error}.", "Start it: saymask serve"
            ) from error

    def _check_expression(self) -> Check:
        """All the way: Label Studio, backend, queue, worker and back."""
        known = self._attached()
        first = next(read_tasks(self._client, self._project_id), None)
        if known is None or first is None:
            why = "no task yet" if known else "not attached"
            return Check("test expression", "unknown", f"not tried: {why}")
        project = self._project()
        config = load_label_config(str(project["label_config"]))
        entry = {
            "value": {"text": ["the object"]}, "id": "saymask_test", "type": "textarea",
            "from_name": config.expression, "to_name": config.image, "origin": "manual",
        }  # fmt: skip
        task_id = first[0]["id"]
        started = time.monotonic()
        answer = self._client.request(
            "POST",
            f"/api/ml/{known['id']}/interactive-annotating",
            json={"task": task_id, "context": {"result": [entry]}},
            timeout=100,
        )
        took = time.monotonic() - started
        regions = (answer.get("data") or {}).get("result") or []
        masks = [region for region in regions if region.get("type") == "brushlabels"]
        if masks:
            text = f"{len(masks)} suggestions on task {task_id} after {took:.1f} s"
            return Check("test expression", "ok", text)
        said = [
            region["value"]["text"][0] for region in regions if region.get("type") == "textarea"
        ]
        reason = "; ".join([*said, *map(str, answer.get("errors") or [])]) or json.dumps(answer)
        return Check(
            "test expression", "problem", f"No suggestion on task {task_id}: {reason[:500]}",
            "The backend's page shows the request and its error.",
        )  # fmt: skip
