"""HTTP in, HTTP out: Label Studio's ML backend protocol, a status page and readiness."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, BackgroundTasks, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security.utils import get_authorization_scheme_param
from fastapi.templating import Jinja2Templates

from backend.config import Settings
from backend.errors import InvalidRequest, SaymaskError
from backend.insight import Insight
from backend.label_studio.connecting import SECRET_HEADER
from backend.label_studio.tasks import load_predict_call
from backend.records.ledger import RecordFilter
from backend.records.outcomes import OUTCOME_WORDS
from backend.records.statistics import IOU_EDGES, POLYGON_SECONDS
from backend.services import Services

Result = TypeVar("Result")

_TEMPLATES = Jinja2Templates(Path(__file__).parent / "templates")


class NotAuthorized(SaymaskError):
    """Wrong or missing credentials."""

    http_status = 401


def build_router(
    services: Services, settings: Settings, gather: Callable[[RecordFilter], Insight]
) -> APIRouter:
    """All routes over the given use cases; ``gather`` reads quality and cost."""
    router = APIRouter()
    # Requests that wait for the worker have threads of their own: while they wait, health
    # checks and webhooks, which Label Studio gives one second, are still answered at once.
    waiting = anyio.CapacityLimiter(settings.threads)

    @router.get("/health")
    async def health(request: Request) -> dict[str, str]:
        _check_login(request, settings)
        return {"status": "UP", "model_class": "saymask"}

    @router.post("/setup")
    async def setup(request: Request) -> dict[str, str]:
        _check_login(request, settings)
        return {"model_version": await _in_thread(services.model_version)}

    @router.api_route("/versions", methods=["GET", "POST"])
    async def versions(request: Request) -> dict[str, list[str]]:
        _check_login(request, settings)
        return {"versions": [await _in_thread(services.model_version)]}

    @router.post("/predict")
    async def predict(request: Request, later: BackgroundTasks) -> dict[str, Any]:
        _check_login(request, settings)
        body = await _read_json(request)
        fields = settings.expression_fields
        call = await _in_thread(partial(load_predict_call, body, fields))
        if not call.interactive or call.typed:
            later.add_task(_in_waiting_thread, partial(services.prepare_later, call), waiting)
        predictions = await _in_waiting_thread(partial(services.predict, call), waiting)
        return {"results": predictions}

    @router.post("/webhook")
    async def webhook(request: Request, later: BackgroundTasks) -> dict[str, Any]:
        _check_secret(request, settings)
        body = await _read_json(request)
        if not isinstance(body, dict) or not isinstance(body.get("action"), str):
            raise InvalidRequest("Expected a webhook: a JSON object with 'action'.")
        event_id = await _in_thread(partial(services.record_event, body["action"], body))
        if body["action"] == "TASKS_CREATED":
            later.add_task(_in_waiting_thread, partial(services.prepare_new_tasks, body), waiting)
        return {"status": "stored", "event": event_id}

    @router.get("/ready")
    async def ready() -> JSONResponse:
        status = await _in_thread(services.status)
        return JSONResponse(
            {
                "ready": status.is_ready,
                "model_version": status.model_version,
                "workers": [worker.model_dump() for worker in status.workers],
                "queues": status.queue_depths,
                "queue_error": status.queue_error,
                "photos": asdict(status.photos),
                "requests": status.requests,
                "events": status.events,
            },
            status_code=200 if status.is_ready else 503,
        )

    @router.get("/", response_class=HTMLResponse)
    @router.get("/status", response_class=HTMLResponse)
    async def page(request: Request, project: int | None = None) -> HTMLResponse:
        _check_login(request, settings)
        status = await _in_thread(services.status)
        insight = await _in_thread(partial(gather, RecordFilter(project_id=project)))
        values = {
            "status": status,
            "insight": insight,
            "words": OUTCOME_WORDS,
            "iou_edges": IOU_EDGES,
            "polygon_seconds": POLYGON_SECONDS,
        }
        return _TEMPLATES.TemplateResponse(request, "status.html", values)

    return router


async def _in_thread(function: Callable[[], Result]) -> Result:
    return await anyio.to_thread.run_sync(function)


async def _in_waiting_thread(
    function: Callable[[], Result], limiter: anyio.CapacityLimiter
) -> Result:
    return await anyio.to_thread.run_sync(function, limiter=limiter)


async def _read_json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request body is no JSON: {error}.") from error


def _check_login(request: Request, settings: Settings) -> None:
    """Label Studio sends basic credentials on every call but the webhook."""
    if not settings.basic_auth_user:
        return
    scheme, param = get_authorization_scheme_param(request.headers.get("Authorization"))
    try:
        given = base64.b64decode(param, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        given = b""
    wanted = f"{settings.basic_auth_user}:{settings.basic_auth_password.get_secret_value()}"
    if not secrets.compare_digest(given, wanted.encode()):
        raise NotAuthorized(
            "Wrong user or password.",
            "Give Label Studio the backend's SAYMASK_BASIC_AUTH_USER and _PASSWORD.",
        )


def _check_secret(request: Request, settings: Settings) -> None:
    wanted = settings.webhook_secret.get_secret_value()
    if wanted and not secrets.compare_digest(
        request.headers.get(SECRET_HEADER, "").encode(), wanted.encode()
    ):
        raise NotAuthorized(
            "The webhook's secret is missing or wrong.",
            f"Set the header {SECRET_HEADER} on the webhook in Label Studio.",
        )
