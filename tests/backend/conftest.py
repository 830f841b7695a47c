"""Fixtures of the backend over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from saymask_backend import context
from saymask_backend.api.app import create_app
from saymask_backend.config import load_settings
from saymask_backend.records.stores import Stores
from tests.backend.http import KEY, ImageServer
from tests.backend.label_studio import LabelStudioServer
from tests.conftest import Valkey


@pytest.fixture
def photos() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.stop()


@pytest.fixture
def studio() -> Iterator[LabelStudioServer]:
    server = LabelStudioServer()
    yield server
    server.stop()


@pytest.fixture
def build_client(
    valkey: Valkey, photos: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TestClient]]:
    clients: list[TestClient] = []
    monkeypatch.setattr(context, "_PHOTO_TIMEOUT_S", 1.0)

    def build(**overrides: Any) -> TestClient:
        settings = load_settings(
            SAYMASK_REDIS_URL=overrides.pop("redis_url", valkey.url),
            data_dir=tmp_path / "data",
            label_studio_url=photos.url,
            label_studio_api_key=KEY,
            photo_max_mb=2,
            **overrides,
        )
        client = TestClient(
            create_app(settings), base_url="http://127.0.0.1:9090", raise_server_exceptions=False
        )
        client.__enter__()
        clients.append(client)
        return client

    yield build
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def app_stores(tmp_path: Path) -> Stores:
    return Stores(f"sqlite:///{tmp_path / 'data' / 'saymask.db'}")
