"""The backend as an ASGI application, from explicit settings."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from backend.config import Settings
from backend.dispatch import Dispatcher
from backend.errors import SaymaskError
from backend.label_studio.client import PhotoFetcher
from backend.records.store import Store
from backend.routes import build_router
from backend.services import PhotoShelf, Services

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Build the application. The database is migrated when it starts; Redis may come later."""
    store = Store(settings.effective_database_url)
    dispatcher = Dispatcher(settings.redis_url, settings.deadline_s, settings.threads + 64)
    fetcher = PhotoFetcher(
        base_url=settings.label_studio_url,
        api_key=settings.label_studio_api_key.get_secret_value(),
        private_hosts=settings.photo_private_hosts,
        max_bytes=int(settings.photo_max_mb * 1e6),
        timeout_s=settings.photo_timeout_s,
    )
    services = Services(store, dispatcher, PhotoShelf(fetcher, dispatcher), settings.k)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        store.migrate()
        yield
        fetcher.close()
        dispatcher.close()
        store.close()

    app = FastAPI(title="saymask", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(build_router(services, settings))

    @app.exception_handler(SaymaskError)
    async def explain(request: Request, error: SaymaskError) -> JSONResponse:
        log.info("%s %s: %s", request.method, request.url.path, error)
        return JSONResponse(
            {"error": error.code, "cause": error.cause, "cure": error.cure},
            status_code=error.http_status,
        )

    return app
