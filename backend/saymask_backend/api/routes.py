"""The endpoints: parse, call a use case, build the answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.templating import Jinja2Templates
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter

from saymask.errors import SaymaskError
from saymask.logs import call_id
from saymask_backend.api.authentication import AccessPolicy
from saymask_backend.api.body import BodyReader, BodyTooLarge
from saymask_backend.api.metrics import Metrics
from saymask_backend.api.results import to_results
from saymask_backend.config import Settings
from saymask_backend.label_studio.events import (
    EVENT,
    read_created_tasks,
    to_new_event,
    to_oversized_event,
)
from saymask_backend.label_studio.predict_request import (
    PredictRequest,
    PredictTask,
    parse_predict_request,
)
from saymask_backend.label_studio.schema import PredictBody
from saymask_backend.queue.pending import Call, new_call_id
from saymask_backend.records.decisions import OUTCOME_LABELS
from saymask_backend.records.statistics import IOU_EDGES, POLYGON_SECONDS
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.predict import Answer, Predictor, decline
from saymask_backend.services.prepare import ImagePreparer
from saymask_backend.services.report import Reporter
from saymask_backend.services.status import StatusReader
from saymask_backend.services.train import TrainingStarter

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_BODY_SCHEMAS: dict[str, TypeAdapter[Any]] = {
    "/predict": TypeAdapter(PredictBody),
    "/webhook": EVENT,
}
_TEMPLATES = Jinja2Templates(Path(__file__).parent / "templates")

WAITING_PLACES = 128
"""Requests that may wait for the workers at one time."""
_PREDICT_MAX_MB = 64.0
_WEBHOOK_MAX_MB = 16.0
_STORING_THREADS = 8
_PREPARING_THREADS = 8
# More work of one kind after answers is left out.
_MAX_WAITING = 32
_TRAINING_THREADS = 2
_QUESTION_THREADS = 8
_BUILDING_THREADS = 4
_WATCH_INTERVAL_S = 0.5
_MAX_CALL_ID_CHARS = 64
CALL_HEADER = "X-Request-ID"

ProjectNumber = Annotated[int | None, Query(ge=0, lt=2**31)]


@dataclass(frozen=True)
class _Webhook:
    """The parts of a stored webhook that are needed after the answer."""

    event_id: int
    action: str
    project_id: int | None
    tasks: tuple[PredictTask, ...]


@dataclass(eq=False)
class Endpoints:
    """One method per endpoint.

    Requests that wait for a worker, webhooks, each kind of work after an answer and requests for
    the state have separate threads, so that none of them delays another: Label Studio waits one
    second for a webhook, and may itself be slow to answer. ``wake_recorder`` has stored webhooks
    processed at once.
    """

    settings: Settings
    stores: Stores
    status: StatusReader
    predictor: Predictor
    preparer: ImagePreparer
    reporter: Reporter
    training: TrainingStarter
    metrics: Metrics
    wake_recorder: Callable[[], None]

    def __post_init__(self) -> None:
        self._predict_bodies = BodyReader(_PREDICT_MAX_MB, "Send fewer tasks in one request.")
        self._webhook_bodies = BodyReader(
            _WEBHOOK_MAX_MB, "saymask sync reads from Label Studio what it reports."
        )
        self._waiting = anyio.CapacityLimiter(WAITING_PLACES)
        self._storing = anyio.CapacityLimiter(_STORING_THREADS)
        self._preparing = anyio.CapacityLimiter(_PREPARING_THREADS)
        self._looking_ahead = anyio.CapacityLimiter(_PREPARING_THREADS)
        self._importing = anyio.CapacityLimiter(_PREPARING_THREADS)
        self._starting = anyio.CapacityLimiter(_TRAINING_THREADS)
        self._questions = anyio.CapacityLimiter(_QUESTION_THREADS)
        self._building = anyio.CapacityLimiter(_BUILDING_THREADS)

    async def live(self) -> dict[str, str]:
        """Return that the process answers, and nothing else; without login."""
        return {"status": "UP"}

    async def health(self) -> dict[str, str]:
        """Return that the backend runs, as Label Studio expects it."""
        return {"status": "UP", "model_class": "saymask"}

    async def setup(self) -> dict[str, str]:
        """Return the model version."""
        return {"model_version": await self._ask(self.status.read_model_version)}

    async def versions(self) -> dict[str, list[str]]:
        """List the model versions."""
        return {"versions": [await self._ask(self.status.read_model_version)]}

    async def predict(self, request: Request, later: BackgroundTasks) -> Response:
        """Answer a typed expression, clicks, or a batch of tasks."""
        call = Call(id=read_call_id(request))
        call_id.set(call.id)
        fields = self.settings.expression_fields
        predict_request = await self._predict_bodies.read(
            request, lambda body: parse_predict_request(body, fields)
        )
        if not predict_request.is_interactive or predict_request.typed:
            prepare = partial(self.preparer.prepare_tasks, predict_request.tasks)
            later.add_task(_run_behind, prepare, self._preparing)
            look_ahead = partial(self.preparer.prepare_next, predict_request)
            later.add_task(_run_behind, look_ahead, self._looking_ahead)
        if self._waiting.available_tokens < 1:
            answers = decline(predict_request)
        else:
            answers = await self._predict(request, predict_request, call)
        build = partial(_build_results, predict_request, answers)
        return await anyio.to_thread.run_sync(build, limiter=self._building)

    async def webhook(self, request: Request, later: BackgroundTasks) -> dict[str, Any]:
        """Store a webhook; it is processed afterwards."""
        call_id.set(read_call_id(request))
        try:
            stored = await self._webhook_bodies.read(request, self._store)
        except BodyTooLarge:
            event = to_oversized_event(_WEBHOOK_MAX_MB)
            store = partial(self.stores.events.append_event, event)
            await anyio.to_thread.run_sync(store, limiter=self._storing)
            raise
        self.wake_recorder()
        if stored.tasks:
            prepare = partial(self.preparer.prepare_tasks, stored.tasks)
            later.add_task(_run_behind, prepare, self._importing)
        if stored.action == "START_TRAINING":
            train = partial(self._start_training, stored.project_id)
            later.add_task(_run_behind, train, self._starting)
        return {"status": "stored", "event": stored.event_id}

    def _store(self, body: Any) -> _Webhook:
        """Store a webhook; return what is needed after the answer."""
        event = to_new_event(body)
        event_id = self.stores.events.append_event(event)
        project_id = event.project.id if event.project else None
        return _Webhook(event_id, event.action, project_id, _read_tasks_to_prepare(body))

    async def ready(self) -> JSONResponse:
        """Return whether typed expressions are answered; status 503 when they are not."""
        status = await self._ask(self.status.read_status)
        return JSONResponse(
            {
                "ready": status.is_ready,
                "model_version": status.model_version,
                "workers": [worker.model_dump() for worker in status.workers],
                "queues": status.queue_depths,
                "queue_error": status.queue_error,
                "photos": asdict(status.images),
                "training": status.training.model_dump() if status.training else None,
                "requests": status.requests,
                "events": status.events,
            },
            status_code=200 if status.is_ready else 503,
        )

    async def show_metrics(self) -> Response:
        """Return the metrics in Prometheus' text format."""
        content = await self._ask(self.metrics.render)
        return Response(content, media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request, project: ProjectNumber = None) -> HTMLResponse:
        """Show the status page, of one project or of all."""
        record_filter = RecordFilter(project_id=project)
        values = {
            "status": await self._ask(self.status.read_status),
            "report": await self._ask(partial(self.reporter.build_report, record_filter)),
            "labels": OUTCOME_LABELS,
            "iou_edges": IOU_EDGES,
            "polygon_seconds": POLYGON_SECONDS,
        }
        return _TEMPLATES.TemplateResponse(request, "status.html", values)

    async def _predict(
        self, request: Request, predict_request: PredictRequest, call: Call
    ) -> list[Answer]:
        """Wait for the answers; the call is marked when the caller disconnects."""
        watcher = asyncio.create_task(_watch_connection(request, call))
        try:
            answers = await anyio.to_thread.run_sync(
                partial(self.predictor.predict, predict_request, call),
                limiter=self._waiting,
            )
        finally:
            watcher.cancel()
        for answer in answers:
            self.metrics.observe_answer(answer)
        return answers

    def _start_training(self, project_id: int | None) -> None:
        """Do what Label Studio's button asks for; the result is on the status page."""
        if not project_id:
            log.warning("no training: the webhook names no project")
            return
        try:
            self.training.start_unattended(project_id)
        except SaymaskError as error:
            log.warning("no training: %s", error)

    async def _ask(self, function: Callable[[], Result]) -> Result:
        return await anyio.to_thread.run_sync(function, limiter=self._questions)


def build_router(endpoints: Endpoints, policy: AccessPolicy) -> APIRouter:
    """Build all routes. All but two demand the login: ``/live``, and ``/webhook`` with a secret."""
    private = APIRouter(dependencies=[Depends(policy.check_login)])
    private.add_api_route("/health", endpoints.health)
    private.add_api_route("/setup", endpoints.setup, methods=["POST"])
    for method in ("GET", "POST"):
        private.add_api_route("/versions", endpoints.versions, methods=[method])
    private.add_api_route("/predict", endpoints.predict, methods=["POST"], response_model=None)
    private.add_api_route("/ready", endpoints.ready, response_model=None)
    private.add_api_route("/metrics", endpoints.show_metrics, response_class=Response)
    for path in ("/", "/status"):
        private.add_api_route(path, endpoints.page, response_class=HTMLResponse)
    private.add_api_route("/openapi.json", _describe_api, include_in_schema=False)
    router = APIRouter(dependencies=[Depends(policy.check_sender)])
    router.include_router(private)
    router.add_api_route("/live", endpoints.live)
    router.add_api_route(
        "/webhook", endpoints.webhook, methods=["POST"], dependencies=[Depends(policy.check_secret)]
    )
    return router


def _read_tasks_to_prepare(body: Any) -> tuple[PredictTask, ...]:
    """The imported tasks of a webhook, whose images are prepared before anyone opens them."""
    try:
        return read_created_tasks(body)
    except SaymaskError as error:
        log.warning("the images of new tasks are not prepared: %s", error)
        return ()


def _build_results(request: PredictRequest, answers: list[Answer]) -> Response:
    """The whole answer. Masks of large images take seconds, which the event loop does not have.

    Task by task: while one is encoded, no other thread runs.
    """
    results = [json.dumps(result, allow_nan=False) for result in to_results(request, answers)]
    return Response(f'{{"results": [{", ".join(results)}]}}', media_type="application/json")


async def _run_behind(work: Callable[[], None], limiter: anyio.CapacityLimiter) -> None:
    """Do something after an answer, unless too many such tasks wait already."""
    if limiter.statistics().tasks_waiting >= _MAX_WAITING:
        log.info("too many tasks wait after answers; left out: %s", work)
        return
    await anyio.to_thread.run_sync(work, limiter=limiter)


async def _describe_api(request: Request) -> JSONResponse:
    """The OpenAPI document; bodies are read by hand, so their schemas are added here."""
    document = request.app.openapi()
    components = document.setdefault("components", {}).setdefault("schemas", {})
    for path, adapter in _BODY_SCHEMAS.items():
        schema = adapter.json_schema(ref_template="#/components/schemas/{model}")
        components.update(schema.pop("$defs", {}))
        content = {"application/json": {"schema": schema}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    return JSONResponse(document)


def read_call_id(request: Request) -> str:
    """The caller's own id for the call where it gave a plain one, else a new id."""
    given = request.headers.get(CALL_HEADER, "")
    is_plain = 0 < len(given) <= _MAX_CALL_ID_CHARS and given.isascii() and given.isprintable()
    return given if is_plain else new_call_id()


async def _watch_connection(request: Request, call: Call) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(_WATCH_INTERVAL_S)
    call.disconnected.set()
