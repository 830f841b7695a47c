"""Where images come from, and where the token goes."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.records.stores import Stores
from tests.backend.http import ImageServer, typed


@pytest.mark.parametrize(
    ("photo", "status", "cause"),
    [
        ("/data/missing.png", 502, "404"),
        ("/data/empty.png", 422, "empty"),
        ("/data/large.png", 413, "larger than 2 MB"),
        ("/data/slow.png", 502, "longer than"),
        ("/data/redirect.png", 403, "private address"),
        ("http://127.0.0.1:1/x.png", 403, "private address"),
        ("http://localhost:1/x.png", 403, "private address"),
        ("http://[::1]/x.png", 403, "private address"),
        ("http://169.254.169.254/latest", 403, "private address"),
        ("http://no-such-host.invalid/x.png", 502, "not known"),
        ("ftp://host/x.png", 502, "not an address"),
        ("http://[bad/x.png", 502, "not a valid"),
        ("http://a..b/x.png", 502, ""),
        ("http://host:99999999/x.png", 502, "not a valid"),
        ("http://224.0.0.1/x.png", 403, "private address"),
        ("http://[64:ff9b::7f00:1]/x.png", 403, "private address"),
        ("/api/users", 502, "not an address"),
        ("/data/../api/users", 502, "not an address"),
        ("/data/%2e%2e/api/users", 502, "not an address"),
        ("data:image/png;base64,@@@", 422, "damaged"),
    ],
)
def test_photos_that_cannot_be_had(
    build_client: Callable[..., TestClient], app_stores: Stores, photo: str, status: int, cause: str
) -> None:
    answer = build_client().post("/predict", json=typed("the cat", photo))
    assert answer.status_code == status, answer.text
    assert cause in answer.json()["cause"]
    (request,) = app_stores.requests.list_recent()
    assert request.status == "failed"
    assert cause in (request.error_text or "")


def test_the_token_goes_to_label_studio_only(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    start_worker()
    other = ImageServer()
    client = build_client(photo_private_hosts="127.0.0.1")
    answer = client.post("/predict", json=typed("the cat", f"{other.url}/x.png"))
    other.stop()
    assert answer.status_code == 403
    assert other.asked == [("/x.png", None)]


def test_cloud_photos_go_through_label_studio(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], photos: ImageServer
) -> None:
    start_worker()
    answer = build_client().post("/predict", json=typed("the cat", "s3://bucket/key.png", task=9))
    assert answer.status_code == 200
    encoded = base64.b64encode(b"s3://bucket/key.png").decode()
    assert photos.asked[0][0] == f"/tasks/9/resolve/?fileuri={encoded}"
