"""Connecting a project, and finding what keeps it from working: each check has cause and cure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from saymask.errors import InvalidLabelConfig, SaymaskError, counted
from saymask.left_out import LeftOut
from saymask.redaction import explain
from saymask_backend.label_studio.api_schema import ProjectBody, WebhookBody
from saymask_backend.label_studio.auth import LabelStudioError
from saymask_backend.label_studio.client import PROJECT_FLAGS, WEBHOOK_FLAGS, LabelStudioClient
from saymask_backend.label_studio.guarded_http import get_json
from saymask_backend.label_studio.label_config import (
    LabelConfig,
    default_label_config,
    load_label_config,
    switch_suggestions,
)
from saymask_backend.label_studio.mask_values import MaskTag
from saymask_backend.label_studio.predict_request import parse_task
from saymask_backend.label_studio.predictions import build_typed
from saymask_backend.records.requests import DOCTOR_ENTRY_ID

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


@dataclass(frozen=True)
class Check:
    """The result of one check: ``changed`` was corrected, ``unknown`` could not be checked."""

    name: str
    state: State
    text: str
    cure: str = ""


@dataclass(frozen=True)
class ConnectOptions:
    """How a project is to be connected.

    Attributes:
        backend_url: as Label Studio reaches it.
        user, password: that the backend demands, or empty.
        secret: that the backend's webhook demands, or empty.
        may_change: correct what is wrong, instead of only reporting it.
        shows_one: one suggestion at a time is shown, or several are; None to leave that as it is.
        mask_tag: of the labelling config that is written where a project has none that works.
    """

    backend_url: str
    user: str
    password: str
    secret: str
    may_change: bool
    shows_one: bool | None = None
    mask_tag: MaskTag = "BrushLabels"


class _Problem(SaymaskError):
    """The result of a check that found something wrong."""


_Result = tuple[State, str]


class Connector:
    """Checks one Label Studio and its projects, step by step; a failing step hides no other."""

    def __init__(self, client: LabelStudioClient, options: ConnectOptions) -> None:
        self._client = client
        self._options = options
        self._backend_url = options.backend_url.rstrip("/")

    def check_label_studio(self) -> list[Check]:
        """Check that Label Studio answers and accepts the key."""
        return _run({"Label Studio": self._check_version, "API key": self._check_key})

    def check_backend(self) -> list[Check]:
        """Check that the backend answers and has a worker."""
        return _run({"backend": self._check_backend})

    def check_project(self, project_id: int) -> list[Check]:
        """Check config, flags, attachment and webhook, then an event and an expression."""
        steps = {
            "labelling config": self._check_config,
            "project settings": self._check_flags,
            "attachment": self._check_attachment,
            "webhook": self._check_webhook,
            "test event": self._check_event,
            "test expression": self._check_expression,
        }
        return _run({name: partial(step, project_id) for name, step in steps.items()})

    def attach(self, project_id: int) -> list[Check]:
        """Attach backend and webhook: what a project that was just created needs."""
        steps = {"attachment": self._check_attachment, "webhook": self._check_webhook}
        return _run({name: partial(step, project_id) for name, step in steps.items()})

    def list_attached_projects(self, left_out: LeftOut) -> list[int]:
        """Return the ids of all projects to which a backend of this name is attached.

        ``left_out`` gets the projects whose ML backends cannot be listed.
        """
        found = []
        for project in self._client.list_projects():
            with left_out.guard(f"project {project.id}"):
                backends = self._client.list_ml_backends(project.id)
                found += [project.id] if any(b.title == TITLE for b in backends) else []
        return found

    def _correct(self, cause: str, cure: str, change: Callable[[], object], text: str) -> _Result:
        """Correct what is wrong; where nothing may be changed, raise cause and cure."""
        if not self._options.may_change:
            raise _Problem(cause, cure)
        change()
        return "changed", text

    def _check_version(self) -> _Result:
        release = self._client.get_release()
        try:
            version = tuple(int(part) for part in release.split(".")[:2])
        except ValueError:
            version = ()
        if version and version < _MIN_VERSION:
            raise _Problem(f"It is version {release}.", "saymask is tested with 1.23; update it.")
        return "ok", f"version {release} at {self._client.base_url}"

    def _check_key(self) -> _Result:
        try:
            return "ok", f"of {self._client.get_user_name()}"
        except LabelStudioError as error:
            if "legacy token" not in error.cause:
                raise
        raise _Problem(
            "Legacy tokens are disabled in this organization.",
            "Take a personal access token (Account & Settings), or enable legacy tokens under"
            " Organization, API Tokens Settings.",
        )

    def _check_backend(self) -> _Result:
        try:
            answer = self._read_ready()
            workers = answer["workers"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise _Problem(
                f"{self._options.backend_url}/ready does not answer as saymask does:"
                f" {explain(error)}",
                "Start it (saymask serve) and name its address with --backend-url.",
            ) from error
        if not answer["ready"]:
            raise _Problem(
                answer.get("queue_error") or "No worker answers.",
                "Start one: saymask-worker run (with the backend's SAYMASK_REDIS_URL).",
            )
        return "ok", f"{counted(len(workers), 'worker')}, {answer['model_version']}"

    def _read_ready(self) -> Any:
        options = self._options
        auth = (options.user, options.password) if options.user else None
        return get_json(f"{options.backend_url}/ready", auth, _READY_TIMEOUT_S)

    def _check_config(self, project_id: int) -> _Result:
        project = self._client.get_project(project_id)
        try:
            config = load_label_config(project.label_config or "")
        except InvalidLabelConfig as error:
            return self._replace_config(project, error)
        wanted = self._options.shows_one
        if wanted is not None and wanted != config.shows_one:
            return self._switch_suggestions(project, shows_one=wanted)
        missing = _list_missing_tags(config)
        if missing:
            return "ok", f"works, without {', '.join(missing)} (see saymask label-config)"
        return "ok", "has everything"

    def _replace_config(self, project: ProjectBody, error: InvalidLabelConfig) -> _Result:
        """Write saymask's own config, unless annotations were made with another one."""
        annotations = project.total_annotations_number or 0
        if annotations:
            raise _Problem(
                f"{error.cause} {counted(annotations, 'annotation')} made with it would be lost.",
                "Add the missing tags by hand; saymask label-config prints an example.",
            )
        shows_one = bool(self._options.shows_one)
        default = default_label_config(self._options.mask_tag)
        config = switch_suggestions(default, shows_one=shows_one)
        return self._correct(
            error.cause,
            "saymask connect writes one that works.",
            lambda: self._client.update_project(project.id, label_config=config),
            "saymask's own was written",
        )

    def _switch_suggestions(self, project: ProjectBody, *, shows_one: bool) -> _Result:
        config = switch_suggestions(project.label_config or "", shows_one=shows_one)
        shown = "one suggestion at a time" if shows_one else "several suggestions together"
        return self._correct(
            f"It does not show {shown}.",
            "saymask connect --suggestions changes it.",
            lambda: self._client.update_project(project.id, label_config=config),
            f"shows {shown}; open editors have to be reloaded",
        )

    def _check_flags(self, project_id: int) -> _Result:
        project = self._client.get_project(project_id)
        wrong = _find_differences(project, PROJECT_FLAGS)
        attached = self._client.find_ml_backends(project_id, self._backend_url)
        if project.model_version != TITLE and attached:
            wrong["model_version"] = TITLE
        if not wrong:
            return "ok", "predictions are shown, and only saymask's"
        values = ", ".join(f"{name}={value}" for name, value in wrong.items())
        return self._correct(
            f"Should be {values}.",
            "saymask connect sets them.",
            lambda: self._client.update_project(project_id, **wrong),
            values,
        )

    def _check_attachment(self, project_id: int) -> _Result:
        found = self._client.find_ml_backends(project_id, self._backend_url)
        options = self._options
        settings: dict[str, Any] = {"title": TITLE, "is_interactive": True}
        if options.user:
            settings |= {"auth_method": "BASIC_AUTH", "basic_auth_user": options.user}
        secret = {"basic_auth_pass": options.password} if options.user else {}
        if not found:
            return self._correct(
                "The backend is not attached.",
                f"saymask connect --project {project_id}",
                lambda: self._attach(project_id, {**settings, **secret}),
                f"{options.backend_url} was attached",
            )
        attached, *others = found
        if others and not options.may_change:
            raise _Problem(
                f"The backend is attached {len(found)} times.",
                "Delete all but one under Settings, Model.",
            )
        if attached.state not in ("CO", None):
            raise _Problem(
                f"Label Studio cannot reach the backend: {attached.error_message or 'error'}",
                self._explain_reach(),
            )
        wrong = _find_differences(attached, settings)
        if not wrong:
            return "ok", "attached, answers typed expressions"
        change = partial(self._client.update_ml_backend, attached.id, project_id)
        return self._correct(
            f"Should be {wrong}.",
            "saymask connect sets it.",
            lambda: change({**settings, **secret}),
            ", ".join(sorted(wrong)),
        )

    def _attach(self, project_id: int, settings: dict[str, Any]) -> None:
        try:
            self._client.attach_ml_backend(project_id, self._options.backend_url, settings)
        except LabelStudioError as error:
            raise _Problem(error.cause, self._explain(error)) from error
        # Only now does Label Studio accept the backend's name as the model to show.
        self._client.update_project(project_id, model_version=TITLE)

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
        """The one that calls this backend; two connects at once may have registered more."""
        url = f"{self._backend_url}/webhook"
        found = [w for w in self._client.list_webhooks(project_id) if w.url.rstrip("/") == url]
        found.sort(key=lambda webhook: webhook.id)
        if len(found) > 1 and not self._options.may_change:
            raise _Problem(f"It is registered {len(found)} times.", "saymask connect leaves one.")
        for other in found[1:]:
            self._client.delete_webhook(other.id)
        return found[0] if found else None

    def _check_webhook(self, project_id: int) -> _Result:
        webhook = self._find_webhook(project_id)
        headers = {SECRET_HEADER: self._options.secret} if self._options.secret else {}
        if webhook is None:
            return self._correct(
                "No webhook is registered: nothing is recorded at once.",
                "saymask connect registers it; saymask sync reads what was missed.",
                lambda: self._register_webhook(project_id, headers),
                "registered",
            )
        wrong = _find_differences(webhook, WEBHOOK_FLAGS)
        if any(webhook.headers.get(name) != value for name, value in headers.items()):
            wrong["headers"] = {**webhook.headers, **headers}
        if not wrong:
            return "ok", "registered" + (", with its secret" if headers else "")
        names = ", ".join(sorted(wrong))
        change = partial(self._client.update_webhook, webhook.id, webhook.url, wrong)
        return self._correct(
            f"Wrong: {names}.", "saymask connect corrects it.", change, f"{names} set"
        )

    def _register_webhook(self, project_id: int, headers: dict[str, str]) -> None:
        try:
            self._client.create_webhook(project_id, f"{self._backend_url}/webhook", headers)
        except LabelStudioError as error:
            raise _Problem(error.cause, _ADDRESS_CURE) from error
        self._find_webhook(project_id)

    def _check_event(self, project_id: int) -> _Result:
        """Saving the project unchanged makes Label Studio send a webhook."""
        before = self._count_events()
        title = self._client.get_project(project_id).title
        self._client.update_project(project_id, title=title)
        deadline = time.monotonic() + _EVENT_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._count_events() > before:
                return "ok", "Label Studio's webhook arrived"
            time.sleep(0.2)
        raise _Problem(
            "Label Studio's webhook did not arrive at the backend.",
            "See the webhook's address and secret in the project's settings. "
            + self._explain_reach(),
        )

    def _count_events(self) -> int:
        try:
            answer = self._read_ready()
            return sum(answer["events"].values())
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise _Problem(
                f"{self._options.backend_url} does not answer: {explain(error)}.",
                "Start it: saymask serve",
            ) from error

    def _check_expression(self, project_id: int) -> _Result:
        """The whole path: Label Studio, backend, queue, worker and back."""
        attached = self._client.find_ml_backends(project_id, self._backend_url)
        config = self._client.get_project(project_id).read_label_config()
        bodies = self._client.iterate_tasks(project_id, LeftOut())
        tasks = (parse_task(body, config) for body in bodies)
        task = next((task for task in tasks if task.fault is None), None)
        if not attached or task is None:
            reason = "no task with a photo yet" if attached else "not attached"
            return "unknown", f"not tried: {reason}"
        entry = build_typed(config, ["the object"], DOCTOR_ENTRY_ID)
        started = time.monotonic()
        answer = self._client.predict_interactively(attached[0].id, task.task_id, [entry])
        seconds = time.monotonic() - started
        entries = (answer.get("data") or {}).get("result") or []
        masks = [entry for entry in entries if entry.get("from_name") == config.mask]
        if not masks:
            raise _Problem(
                f"No suggestion on task {task.task_id}: {_find_reason(answer, entries)[:500]}",
                "The backend's page shows the request and its error.",
            )
        return (
            "ok",
            f"{counted(len(masks), 'suggestion')} on task {task.task_id} after {seconds:.1f} s",
        )


def _run(steps: Mapping[str, Callable[[], _Result]]) -> list[Check]:
    checks = []
    for name, step in steps.items():
        try:
            checks.append(Check(name, *step()))
        except SaymaskError as error:
            checks.append(Check(name, "problem", error.cause, error.cure))
    return checks


def _find_differences(body: object, expected: dict[str, Any]) -> dict[str, Any]:
    """The expected values that a project, backend or webhook does not have."""
    return {name: value for name, value in expected.items() if getattr(body, name) != value}


def _list_missing_tags(config: LabelConfig) -> list[str]:
    tags = {
        "a separate field for each region's expression": config.region_expression,
        "the choice no referent / ambiguous": config.verdict,
        "the notice that says what saymask does": config.notice,
        "clicks that refine a mask": config.click,
    }
    return [description for description, name in tags.items() if name is None]


def _find_reason(answer: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Why an interactive answer has no mask: its notices and errors, else the whole answer."""
    notices = [e["value"]["text"][0] for e in entries if e.get("type") == "textarea"]
    return "; ".join([*notices, *map(str, answer.get("errors") or [])]) or json.dumps(answer)
