"""The backend as an ASGI application, from explicit settings."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from backend.config import Settings
from backend.dispatch import Dispatcher
from backend.errors import SaymaskError
from backend.insight import gather
from backend.label_studio.client import LabelStudioClient, PhotoFetcher
from backend.label_studio.project_tasks import read_next_tasks
from backend.recorder import Loop, Recorder
from backend.records.ledger import Ledger
from backend.records.store import Store
from backend.records.sync_log import SyncLog
from backend.routes import build_router
from backend.services import PhotoShelf, Services, no_neighbours
from backend.sync import Synchroniser

log = logging.getLogger(__name__)

# A webhook wakes the recorder at once; this is for what another process left behind.
_RECORD_EVERY_S = 2.0
_FIRST_SYNC_S = 30.0
# Photos after the one in front of an annotator that are prepared meanwhile.
_PREPARE_NEXT = 2


def create_app(settings: Settings) -> FastAPI:
    """Build the application. The database is migrated when it starts; Redis may come later."""
    store = Store(settings.effective_database_url)
    dispatcher = Dispatcher(settings.redis_url, settings.deadline_s, settings.threads + 64)
    fetcher = build_fetcher(settings)
    ledger = Ledger(store.database)
    recorder = Recorder(ledger)
    recording = Loop("recorder", recorder.process_waiting, _RECORD_EVERY_S)
    client = _build_client(settings)
    services = Services(
        store, dispatcher, PhotoShelf(fetcher, dispatcher), settings.k, recording.wake,
        partial(read_next_tasks, client, count=_PREPARE_NEXT) if client else no_neighbours,
    )  # fmt: skip
    syncing = _build_sync(settings, client, ledger, recorder)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        store.migrate()
        recording.start()
        if syncing is not None:
            syncing.start()
        yield
        recording.stop()
        if syncing is not None:
            syncing.stop()
        if client is not None:
            client.close()
        fetcher.close()
        dispatcher.close()
        store.close()

    app = FastAPI(title="saymask", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(build_router(services, settings, partial(gather, store, ledger)))

    @app.exception_handler(SaymaskError)
    async def explain(request: Request, error: SaymaskError) -> JSONResponse:
        log.info("%s %s: %s", request.method, request.url.path, error)
        return JSONResponse(
            {"error": error.code, "cause": error.cause, "cure": error.cure},
            status_code=error.http_status,
        )

    return app


def build_fetcher(settings: Settings) -> PhotoFetcher:
    """Gets photos from where tasks keep them."""
    return PhotoFetcher(
        base_url=settings.label_studio_url,
        api_key=settings.label_studio_api_key.get_secret_value(),
        private_hosts=settings.photo_private_hosts,
        max_bytes=int(settings.photo_max_mb * 1e6),
        timeout_s=settings.photo_timeout_s,
    )


def _build_client(settings: Settings) -> LabelStudioClient | None:
    """Where Label Studio's address and a key are known."""
    key = settings.label_studio_api_key.get_secret_value()
    if not settings.label_studio_url or not key:
        return None
    return LabelStudioClient(settings.label_studio_url, key)


def _build_sync(
    settings: Settings, client: LabelStudioClient | None, ledger: Ledger, recorder: Recorder
) -> Loop | None:
    """The comparison in the background."""
    if client is None or not settings.sync_every_s:
        return None
    synchroniser = Synchroniser(client, ledger, SyncLog(ledger.database), recorder)
    return Loop(
        "sync", synchroniser.sync_all, settings.sync_every_s,
        first_after_s=min(settings.sync_every_s, _FIRST_SYNC_S),
    )  # fmt: skip
