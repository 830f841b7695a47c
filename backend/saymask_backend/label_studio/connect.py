"""Connecting a project, and finding what keeps it from working: each check has cause and cure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from saymask.errors import InvalidLabelConfig, SaymaskError
from saymask.left_out import LeftOut
from saymask.redaction import explain
from saymask_backend.label_studio.api_schema import ProjectBody, WebhookBody
from saymask_backend.label_studio.auth import LabelStudioError
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.guarded_http import get_json
from saymask_backend.label_studio.label_config import (
    LabelConfig,
    default_label_config,
    load_label_config,
)
from saymask_backend.label_studio.predict_request import parse_task
from saymask_backend.label_studio.predictions import build_typed

State = Literal["ok", "changed", "problem", "unknown"]
TITLE = "saymask"
SECRET_HEADER = "X-Saymask-Secret"
_MIN_VERSION = (1, 20)
_EVENT_TIMEOUT_S = 8.0
_READY_TIMEOUT_S = 10.0
_ADDRESS_CURE = (
    "Label Studio refuses to call private addresses. Start it with ML_BLOCK_LOCAL_IP=false and"
    " SSRF_PROTECTION_ENABLED=false (both: without the second the backend is attached but no"
    " webhook is registered, and nothing is recorded)."
)
_PROJECT_FLAGS: dict[str, Any] = {
    "show_collab_predictions": True,
    "evaluate_predictions_automatically": False,
}
_WEBHOOK_FLAGS: dict[str, Any] = {
    "is_active": True,
    "send_payload": True,
    "send_for_all_actions": True,
}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    ``state`` is ``ok``, ``changed`` (it was wrong and has been corrected), ``problem``, or
    ``unknown`` (it could not be checked).
    """

    name: str
    state: State
    text: str
    cure: str = ""


@dataclass(frozen=True)
class ConnectOptions:
    """How a project is to be connected.

    Attributes:
        backend_url: as Label Studio reaches it.
        user: name that the backend demands, or empty.
        password: of that user.
        secret: that the backend's webhook demands, or empty.
        may_change: correct what is wrong, or only look.
    """

    backend_url: str
    user: str
    password: str
    secret: str
    may_change: bool


class Connector:
    """Checks one Label Studio and its projects, step by step; a failing step hides no other."""

    def __init__(self, client: LabelStudioClient, options: ConnectOptions) -> None:
        self._client = client
        self._options = options
        self._backend_url = options.backend_url.rstrip("/")

    def check_label_studio(self) -> list[Check]:
        """Check that Label Studio answers and accepts the key."""
        return _run(("Label Studio", self._check_version), ("API key", self._check_key))

    def check_backend(self) -> list[Check]:
        """Check that the backend answers and has a worker."""
        return _run(("backend", self._check_backend))

    def check_project(self, project_id: int) -> list[Check]:
        """Check config, flags, attachment and webhook, then an event and an expression."""
        return _run(
            ("labelling config", lambda: self._check_config(project_id)),
            ("project settings", lambda: self._check_flags(project_id)),
            ("attachment", lambda: self._check_attachment(project_id)),
            ("webhook", lambda: self._check_webhook(project_id)),
            ("test event", lambda: self._check_event(project_id)),
            ("test expression", lambda: self._check_expression(project_id)),
        )

    def attach(self, project_id: int) -> list[Check]:
        """Attach backend and webhook: what a project that was just created needs."""
        return _run(
            ("attachment", lambda: self._check_attachment(project_id)),
            ("webhook", lambda: self._check_webhook(project_id)),
        )

    def list_attached_projects(self, left_out: LeftOut) -> list[int]:
        """Return the ids of all projects to which a backend of this name is attached.

        Args:
            left_out: gets the projects about which Label Studio does not say.
        """
        found = []
        for project in self._client.list_projects():
            with left_out.guard(f"project {project.id}"):
                backends = self._client.list_ml_backends(project.id)
                found += [project.id] if any(b.title == TITLE for b in backends) else []
        return found

    def _check_version(self) -> Check:
        release = self._client.get_release()
        try:
            version = tuple(int(part) for part in release.split(".")[:2])
        except ValueError:
            version = ()
        if version and version < _MIN_VERSION:
            return Check(
                "Label Studio", "problem", f"It is version {release}.",
                "saymask is tested with 1.23; update it.",
            )  # fmt: skip
        return Check("Label Studio", "ok", f"version {release} at {self._client.base_url}")

    def _check_key(self) -> Check:
        try:
            return Check("API key", "ok", f"of {self._client.get_user_name()}")
        except LabelStudioError as error:
            if "legacy token" not in error.cause:
                raise
        return Check(
            "API key", "problem", "Legacy tokens are disabled in this organization.",
            "Take a personal access token (Account & Settings), or enable legacy tokens under"
            " Organization, API Tokens Settings.",
        )  # fmt: skip

    def _check_backend(self) -> Check:
        url = f"{self._options.backend_url}/ready"
        try:
            answer = self._read_ready()
            workers = answer["workers"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return Check(
                "backend", "problem", f"{url} does not answer as saymask does: {explain(error)}",
                "Start it (saymask serve) and name its address with --backend-url.",
            )  # fmt: skip
        if not answer["ready"]:
            return Check(
                "backend", "problem", answer.get("queue_error") or "No worker answers.",
                "Start one: saymask-worker run (with the backend's SAYMASK_REDIS_URL).",
            )  # fmt: skip
        return Check("backend", "ok", f"{len(workers)} workers, {answer['model_version']}")

    def _read_ready(self) -> Any:
        options = self._options
        auth = (options.user, options.password) if options.user else None
        return get_json(f"{options.backend_url}/ready", auth, _READY_TIMEOUT_S)

    def _check_config(self, project_id: int) -> Check:
        project = self._client.get_project(project_id)
        try:
            config = load_label_config(project.label_config or "")
        except InvalidLabelConfig as error:
            return self._replace_config(project, error)
        missing = _list_missing_tags(config)
        text = (
            f"works, without {', '.join(missing)} (see saymask label-config)"
            if missing
            else "has everything"
        )
        return Check("labelling config", "ok", text)

    def _replace_config(self, project: ProjectBody, error: InvalidLabelConfig) -> Check:
        """Write saymask's own config, unless annotations were made with another one."""
        annotations = project.total_annotations_number or 0
        if self._options.may_change and not annotations:
            self._client.update_project(project.id, label_config=default_label_config())
            return Check("labelling config", "changed", "saymask's own was written")
        if not annotations:
            cure = "saymask connect writes one that works."
            return Check("labelling config", "problem", error.cause, cure)
        return Check(
            "labelling config", "problem",
            f"{error.cause} {annotations} annotations were made with it.",
            "Add the missing tags by hand; saymask label-config prints an example.",
        )  # fmt: skip

    def _check_flags(self, project_id: int) -> Check:
        project = self._client.get_project(project_id)
        wrong = _find_differences(project, _PROJECT_FLAGS)
        attached = self._client.find_ml_backends(project_id, self._backend_url)
        if project.model_version != TITLE and attached:
            wrong["model_version"] = TITLE
        if not wrong:
            return Check("project settings", "ok", "predictions are shown, and only saymask's")
        values = ", ".join(f"{name}={value}" for name, value in wrong.items())
        if not self._options.may_change:
            cure = "saymask connect sets them."
            return Check("project settings", "problem", f"Should be {values}.", cure)
        self._client.update_project(project_id, **wrong)
        return Check("project settings", "changed", values)

    def _check_attachment(self, project_id: int) -> Check:
        found = self._client.find_ml_backends(project_id, self._backend_url)
        settings = self._attachment_settings()
        if not found:
            return self._attach(project_id, settings)
        attached, *others = found
        if others and not self._options.may_change:
            return Check(
                "attachment", "problem", f"The backend is attached {len(found)} times.",
                "Delete all but one under Settings, Model.",
            )  # fmt: skip
        if attached.state not in ("CO", None):
            return Check(
                "attachment", "problem",
                f"Label Studio cannot reach the backend: {attached.error_message or 'error'}",
                self._explain_reach(),
            )  # fmt: skip
        visible = {n: v for n, v in settings.items() if n != "basic_auth_pass"}
        wrong = _find_differences(attached, visible)
        if not wrong:
            return Check("attachment", "ok", "attached, answers typed expressions")
        if not self._options.may_change:
            return Check("attachment", "problem", f"Should be {wrong}.", "saymask connect sets it.")
        self._client.update_ml_backend(attached.id, project_id, settings)
        return Check("attachment", "changed", ", ".join(sorted(wrong)))

    def _attachment_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"title": TITLE, "is_interactive": True}
        if self._options.user:
            settings["auth_method"] = "BASIC_AUTH"
            settings["basic_auth_user"] = self._options.user
            settings["basic_auth_pass"] = self._options.password
        return settings

    def _attach(self, project_id: int, settings: dict[str, Any]) -> Check:
        url = self._options.backend_url
        if not self._options.may_change:
            cure = f"saymask connect --project {project_id}"
            return Check("attachment", "problem", "The backend is not attached.", cure)
        try:
            self._client.attach_ml_backend(project_id, url, settings)
        except LabelStudioError as error:
            return Check("attachment", "problem", error.cause, self._explain(error))
        # Only now does Label Studio accept the backend's name as the model to show.
        self._client.update_project(project_id, model_version=TITLE)
        return Check("attachment", "changed", f"{url} was attached")

    def _explain(self, error: LabelStudioError) -> str:
        if "reserved network address" in error.cause:
            return _ADDRESS_CURE
        if "health check failed" in error.cause or "connect" in error.cause.lower():
            return self._explain_reach()
        return error.cure

    def _explain_reach(self) -> str:
        host = urlsplit(self._options.backend_url).hostname
        is_loopback = host in ("127.0.0.1", "localhost", "::1")
        return f"From where Label Studio runs, {self._options.backend_url} must answer" + (
            "; inside a container this address is the container itself: name the machine's"
            " address with --backend-url, and start the backend with SAYMASK_HOST=0.0.0.0."
            if is_loopback
            else ". Check address, firewall and SAYMASK_HOST."
        )

    def _find_webhook(self, project_id: int) -> WebhookBody | None:
        """The one that calls this backend; two connects at once may have registered more.

        Raises:
            LabelStudioError: there are several, and nothing may be changed.
        """
        url = f"{self._backend_url}/webhook"
        found = [w for w in self._client.list_webhooks(project_id) if w.url.rstrip("/") == url]
        found.sort(key=lambda webhook: webhook.id)
        if len(found) > 1 and not self._options.may_change:
            raise LabelStudioError(
                f"It is registered {len(found)} times.", "saymask connect leaves one."
            )
        for other in found[1:]:
            self._client.delete_webhook(other.id)
        return found[0] if found else None

    def _check_webhook(self, project_id: int) -> Check:
        webhook = self._find_webhook(project_id)
        headers = {SECRET_HEADER: self._options.secret} if self._options.secret else {}
        if webhook is None:
            return self._register_webhook(project_id, headers)
        wrong = _find_differences(webhook, _WEBHOOK_FLAGS)
        if any(webhook.headers.get(name) != value for name, value in headers.items()):
            wrong["headers"] = {**webhook.headers, **headers}
        if not wrong:
            return Check("webhook", "ok", "registered" + (", with its secret" if headers else ""))
        names = ", ".join(sorted(wrong))
        if not self._options.may_change:
            return Check("webhook", "problem", f"Wrong: {names}.", "saymask connect corrects it.")
        self._client.update_webhook(webhook.id, webhook.url, wrong)
        return Check("webhook", "changed", f"{names} set")

    def _register_webhook(self, project_id: int, headers: dict[str, str]) -> Check:
        if not self._options.may_change:
            return Check(
                "webhook", "problem", "No webhook is registered: nothing is recorded at once.",
                "saymask connect registers it; saymask sync reads what was missed.",
            )  # fmt: skip
        try:
            self._client.create_webhook(project_id, f"{self._backend_url}/webhook", headers)
        except LabelStudioError as error:
            return Check("webhook", "problem", error.cause, _ADDRESS_CURE)
        self._find_webhook(project_id)
        return Check("webhook", "changed", "registered")

    def _check_event(self, project_id: int) -> Check:
        """Saving the project unchanged makes Label Studio send a webhook."""
        before = self._count_events()
        title = self._client.get_project(project_id).title
        self._client.update_project(project_id, title=title)
        deadline = time.monotonic() + _EVENT_TIMEOUT_S
        while time.monotonic() < deadline:
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
            answer = self._read_ready()
            return sum(answer["events"].values())
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise LabelStudioError(
                f"{self._options.backend_url} does not answer: {explain(error)}.",
                "Start it: saymask serve",
            ) from error

    def _check_expression(self, project_id: int) -> Check:
        """The whole path: Label Studio, backend, queue, worker and back."""
        attached = self._client.find_ml_backends(project_id, self._backend_url)
        config = self._client.get_label_config(project_id)
        bodies = self._client.iterate_tasks(project_id, LeftOut())
        tasks = (parse_task(body, config) for body in bodies)
        task = next((task for task in tasks if task.fault is None), None)
        if not attached or task is None:
            reason = "no task with a photo yet" if attached else "not attached"
            return Check("test expression", "unknown", f"not tried: {reason}")
        entry = build_typed(config, "the object")
        started = time.monotonic()
        answer = self._client.predict_interactively(attached[0].id, task.task_id, [entry])
        seconds = time.monotonic() - started
        entries = (answer.get("data") or {}).get("result") or []
        masks = [entry for entry in entries if entry.get("type") == "brushlabels"]
        if masks:
            text = f"{len(masks)} suggestions on task {task.task_id} after {seconds:.1f} s"
            return Check("test expression", "ok", text)
        return Check(
            "test expression", "problem",
            f"No suggestion on task {task.task_id}: {_find_reason(answer, entries)[:500]}",
            "The backend's page shows the request and its error.",
        )  # fmt: skip


def _run(*steps: tuple[str, Callable[[], Check]]) -> list[Check]:
    checks = []
    for name, step in steps:
        try:
            checks.append(step())
        except SaymaskError as error:
            checks.append(Check(name, "problem", error.cause, error.cure))
    return checks


def _find_differences(body: object, expected: dict[str, Any]) -> dict[str, Any]:
    """The expected values that a project, backend or webhook does not have."""
    return {name: value for name, value in expected.items() if getattr(body, name) != value}


def _list_missing_tags(config: LabelConfig) -> list[str]:
    tags = {
        "a field of its own for each region's expression": config.region_expression,
        "the choice no referent / ambiguous": config.verdict,
        "the notice that says what saymask does": config.notice,
        "clicks that refine a mask": config.click,
    }
    return [description for description, name in tags.items() if name is None]


def _find_reason(answer: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Why an interactive answer has no mask: its notices and errors, else the whole answer."""
    notices = [e["value"]["text"][0] for e in entries if e.get("type") == "textarea"]
    return "; ".join([*notices, *map(str, answer.get("errors") or [])]) or json.dumps(answer)
