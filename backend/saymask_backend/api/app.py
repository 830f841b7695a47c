"""The backend as an ASGI application, built from explicit settings."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from saymask.errors import InvalidRequest, SaymaskError
from saymask_backend.api.authentication import AccessPolicy
from saymask_backend.api.body import BodyDeadlineMiddleware
from saymask_backend.api.metrics import Metrics, MetricsMiddleware
from saymask_backend.api.routes import WAITING_PLACES, Endpoints, build_router
from saymask_backend.config import Settings
from saymask_backend.context import build_client, build_fetcher
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.records.stores import Stores
from saymask_backend.services.background import PeriodicThread
from saymask_backend.services.export import Exporter
from saymask_backend.services.predict import Predictor
from saymask_backend.services.prepare import ImagePreparer
from saymask_backend.services.record import Recorder
from saymask_backend.services.report import Reporter
from saymask_backend.services.segment import Segmenter
from saymask_backend.services.status import StatusReader
from saymask_backend.services.sync import Synchroniser
from saymask_backend.services.train import TrainingStarter
from saymask_backend.services.upload_image import ImageUploader

log = logging.getLogger(__name__)

# A webhook wakes the recorder at once; this is for what another process left behind.
_RECORD_INTERVAL_S = 2.0
_FIRST_SYNC_S = 30.0
_EXTRA_CONNECTIONS = 64
# Label Studio waits one second for /health and three for /setup.
_STATUS_TIMEOUT_S = 1.0


def create_app(settings: Settings) -> FastAPI:
    """Build the application. The database is migrated when it starts; Redis may come later.

    Raises:
        ConfigError: the credentials do not suffice, or an address is malformed.
    """
    stores = Stores(settings.effective_database_url)
    policy = AccessPolicy(settings)
    queue = JobQueue(
        settings.redis_url,
        settings.deadline_s,
        WAITING_PLACES + _EXTRA_CONNECTIONS,
        background_grace_s=settings.background_grace_s,
    )
    status_queue = JobQueue(
        settings.redis_url, settings.deadline_s, _EXTRA_CONNECTIONS, timeout_s=_STATUS_TIMEOUT_S
    )
    fetcher = build_fetcher(settings)
    client = build_client(settings) if settings.has_label_studio else None
    images = ImageUploader(fetcher, queue)
    segmenter = Segmenter(stores.requests, queue, images)
    recorder = Recorder(stores)
    recording = PeriodicThread(
        "recorder", lambda should_stop: recorder.process_waiting(should_stop, 0), _RECORD_INTERVAL_S
    )
    threads = [recording]
    if client is not None and settings.sync_every_s:
        sync = Synchroniser(client, stores, recorder)
        first_s = min(settings.sync_every_s, _FIRST_SYNC_S)
        threads.append(PeriodicThread("sync", sync.sync_all, settings.sync_every_s, first_s))
    metrics = Metrics(stores, status_queue)
    endpoints = Endpoints(
        settings=settings,
        stores=stores,
        status=StatusReader(stores, status_queue),
        predictor=Predictor(stores.requests, segmenter, settings.k),
        preparer=ImagePreparer(queue, images, client),
        reporter=Reporter(stores),
        training=TrainingStarter(
            settings.effective_models_dir,
            Exporter(stores, fetcher, settings.image_dir),
            recorder,
            queue.training,
        ),
        metrics=metrics,
        wake_recorder=recording.wake,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stores.migrate()
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.stop()
        for resource in (client, queue, status_queue, stores):
            if resource is not None:
                resource.close()

    app = FastAPI(
        title="saymask", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None
    )
    app.add_middleware(BodyDeadlineMiddleware)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.include_router(build_router(endpoints, policy))
    app.add_exception_handler(SaymaskError, _explain)
    app.add_exception_handler(RecursionError, _explain_nesting)
    return app


def _explain_nesting(request: Request, _error: Exception) -> JSONResponse:
    return _explain(request, InvalidRequest("The body is nested too deeply."))


def _explain(request: Request, error: Exception) -> JSONResponse:
    """Answer an error with its code, cause and cure."""
    if not isinstance(error, SaymaskError):
        raise error
    log.info("%s %s: %s", request.method, request.url.path, error)
    return JSONResponse(
        {"error": error.code, "cause": error.cause, "cure": error.cure},
        status_code=error.http_status,
    )
