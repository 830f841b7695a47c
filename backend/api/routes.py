"""The endpoints: parse, call a use case, build the answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, BackgroundTasks, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.templating import Jinja2Templates

from backend.api.authentication import check_login, check_secret
from backend.api.results import to_results
from backend.config import Settings
from backend.label_studio.events import read_created_tasks, to_new_event
from backend.label_studio.predict_request import parse_predict_request
from backend.queue import JobQueue
from backend.records.decisions import OUTCOME_LABELS
from backend.records.statistics import IOU_EDGES, POLYGON_SECONDS
from backend.records.stores import Stores
from backend.records.views import RecordFilter
from backend.services.predict import Predictor
from backend.services.prepare import ImagePreparer
from backend.services.report import build_report
from backend.services.status import read_model_version, read_status
from saymask.errors import InvalidRequest, SaymaskError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_TEMPLATES = Jinja2Templates(Path(__file__).parent / "templates")


@dataclass(frozen=True)
class Dependencies:
    """What the endpoints use; ``wake_recorder`` has stored webhooks processed at once."""

    settings: Settings
    stores: Stores
    queue: JobQueue
    predictor: Predictor
    preparer: ImagePreparer
    wake_recorder: Callable[[], None]


class Endpoints:
    """One method per endpoint.

    Requests that wait for a worker have threads of their own: while they wait, health checks and
    webhooks, to which Label Studio gives one second, are still answered at once.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._settings = dependencies.settings
        self._stores = dependencies.stores
        self._queue = dependencies.queue
        self._predictor = dependencies.predictor
        self._preparer = dependencies.preparer
        self._wake_recorder = dependencies.wake_recorder
        self._waiting = anyio.CapacityLimiter(dependencies.settings.threads)

    async def health(self, request: Request) -> dict[str, str]:
        """Tell Label Studio that the backend runs."""
        check_login(request, self._settings)
        return {"status": "UP", "model_class": "saymask"}

    async def setup(self, request: Request) -> dict[str, str]:
        """Tell Label Studio the model version."""
        check_login(request, self._settings)
        return {"model_version": await _in_thread(partial(read_model_version, self._queue))}

    async def versions(self, request: Request) -> dict[str, list[str]]:
        """List the model versions."""
        check_login(request, self._settings)
        return {"versions": [await _in_thread(partial(read_model_version, self._queue))]}

    async def predict(self, request: Request, later: BackgroundTasks) -> dict[str, Any]:
        """Answer a typed expression, clicks, or a batch of tasks."""
        check_login(request, self._settings)
        body = await _read_json(request)
        fields = self._settings.expression_fields
        predict_request = await _in_thread(partial(parse_predict_request, body, fields))
        if not predict_request.is_interactive or predict_request.typed:
            later.add_task(
                self._in_waiting_thread, partial(self._preparer.prepare_opened, predict_request)
            )

        def answer() -> list[Any]:
            return to_results(predict_request, self._predictor.predict(predict_request))

        return {"results": await self._in_waiting_thread(answer)}

    async def webhook(self, request: Request, later: BackgroundTasks) -> dict[str, Any]:
        """Store a webhook; it is processed afterwards."""
        check_secret(request, self._settings)
        body = await _read_json(request)
        event = to_new_event(body)
        event_id = await _in_thread(partial(self._stores.events.append_event, event))
        self._wake_recorder()
        if event.action == "TASKS_CREATED":
            later.add_task(self._in_waiting_thread, partial(self._prepare_created, body))
        return {"status": "stored", "event": event_id}

    async def ready(self) -> JSONResponse:
        """Tell whether typed expressions are answered; status 503 when they are not."""
        status = await _in_thread(partial(read_status, self._stores, self._queue))
        return JSONResponse(
            {
                "ready": status.is_ready,
                "model_version": status.model_version,
                "workers": [worker.model_dump() for worker in status.workers],
                "queues": status.queue_depths,
                "queue_error": status.queue_error,
                "photos": asdict(status.images),
                "requests": status.requests,
                "events": status.events,
            },
            status_code=200 if status.is_ready else 503,
        )

    async def page(self, request: Request, project: int | None = None) -> HTMLResponse:
        """Show the status page, of one project or of all."""
        check_login(request, self._settings)
        record_filter = RecordFilter(project_id=project)
        values = {
            "status": await _in_thread(partial(read_status, self._stores, self._queue)),
            "report": await _in_thread(partial(build_report, self._stores, record_filter)),
            "labels": OUTCOME_LABELS,
            "iou_edges": IOU_EDGES,
            "polygon_seconds": POLYGON_SECONDS,
        }
        return _TEMPLATES.TemplateResponse(request, "status.html", values)

    def _prepare_created(self, body: Any) -> None:
        """Prepare the images of imported tasks before anyone opens them."""
        try:
            tasks = read_created_tasks(body)
        except SaymaskError as error:
            log.warning("the images of new tasks are not prepared: %s", error)
            return
        self._preparer.prepare_tasks(tasks)

    async def _in_waiting_thread(self, function: Callable[[], Result]) -> Result:
        return await anyio.to_thread.run_sync(function, limiter=self._waiting)


def build_router(dependencies: Dependencies) -> APIRouter:
    """Build all routes."""
    endpoints = Endpoints(dependencies)
    router = APIRouter()
    router.add_api_route("/health", endpoints.health)
    router.add_api_route("/setup", endpoints.setup, methods=["POST"])
    router.add_api_route("/versions", endpoints.versions, methods=["GET", "POST"])
    router.add_api_route("/predict", endpoints.predict, methods=["POST"])
    router.add_api_route("/webhook", endpoints.webhook, methods=["POST"])
    router.add_api_route("/ready", endpoints.ready, response_model=None)
    for path in ("/", "/status"):
        router.add_api_route(path, endpoints.page, response_class=HTMLResponse)
    return router


async def _in_thread(function: Callable[[], Result]) -> Result:
    return await anyio.to_thread.run_sync(function)


async def _read_json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error
