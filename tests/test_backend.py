"""The backend over HTTP: recorded requests in, what Label Studio needs out.

Real queue, real database, a photo server in Label Studio's place, a worker without models.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.config import load_settings
from backend.masks import decode_brush_rle
from backend.records.store import Store
from tests.conftest import Valkey, free_port, load_capture, log_of

KEY = "0123456789abcdef0123456789abcdef01234567"


class PhotoServer:
    """Serves photos as Label Studio does: with a token only. Remembers who asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.next_tasks: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                if self.path.startswith("/data/slow"):
                    time.sleep(5)
                if self.path.startswith("/data/redirect"):
                    self.send_response(302)
                    self.send_header("Location", "http://127.0.0.1:1/secret")
                    self.end_headers()
                    return
                if self.path.startswith("/data/missing"):
                    self.send_error(404)
                    return
                if self.headers.get("Authorization") != f"Token {KEY}":
                    self.send_error(401)
                    return
                if self.path.startswith("/api/tasks"):
                    body = json.dumps({"tasks": outer.next_tasks}).encode()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                body = (
                    b"" if self.path.startswith("/data/empty") else b"photo " + self.path.encode()
                )
                if self.path.startswith("/data/large"):
                    body = b"x" * 3_000_000
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    @property
    def fetched(self) -> list[tuple[str, str | None]]:
        return [one for one in self.asked if one[0].startswith("/data/")]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def photos() -> Iterator[PhotoServer]:
    server = PhotoServer()
    yield server
    server.stop()


@pytest.fixture
def build_client(
    valkey: Valkey, photos: PhotoServer, tmp_path: Path
) -> Iterator[Callable[..., TestClient]]:
    clients: list[TestClient] = []

    def build(**overrides: Any) -> TestClient:
        settings = load_settings(
            SAYMASK_REDIS_URL=overrides.pop("redis_url", valkey.url),
            data_dir=tmp_path / "data",
            label_studio_url=photos.url,
            label_studio_api_key=KEY,
            photo_max_mb=2,
            photo_timeout_s=1,
            **overrides,
        )
        client = TestClient(create_app(settings), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield build
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'data' / 'saymask.db'}")


def typed(expression: Any, photo: str = "/data/upload/1/cat.png", task: int = 5) -> dict[str, Any]:
    """The recorded interactive request with another expression, photo and task."""
    body = load_capture("interactive_predict_request")
    body["tasks"][0]["id"] = task
    body["tasks"][0]["data"]["image"] = photo
    body["params"]["context"]["result"][0]["value"]["text"] = [expression]
    return body


def test_recorded_requests_are_answered(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    start_worker()
    client = build_client()
    assert client.get("/health").json()["status"] == "UP"
    setup = client.post("/setup", json=load_capture("setup"))
    assert setup.json() == {"model_version": "saymask-fake-1"}
    assert client.get("/versions").json() == {"versions": ["saymask-fake-1"]}
    opened = client.post("/predict", json=load_capture("batch_predict_on_task_open"))
    # No prediction: an empty one would be stored and count as this version's.
    assert opened.json() == {"results": [[]]}
    spurious = client.post(
        "/predict", json=load_capture("spurious_empty_context_predict_after_submit")
    )
    assert spurious.json() == {"results": [{"result": [], "score": 0.0}]}
    assert client.get("/ready").json()["ready"] is True
    page = client.get("/").text
    assert "saymask-fake-1" in page


def test_typed_expression_gives_k_regions_in_one_prediction(
    build_client: Callable[..., TestClient],
    start_worker: Callable[..., Any],
    photos: PhotoServer,
    store: Store,
) -> None:
    start_worker()
    client = build_client()
    body = typed("the red circle")
    results = client.post("/predict", json=body).json()["results"]
    assert len(results) == 1
    regions = [r for r in results[0]["result"] if r["type"] == "brushlabels"]
    assert len(regions) == 3
    assert len({region["id"] for region in regions}) == 3
    for region in regions:
        assert region["origin"] == "prediction"
        assert (region["original_width"], region["original_height"]) == (64, 48)
        mask = decode_brush_rle(region["value"]["rle"], (48, 64))
        assert mask.sum() == 80
    # The editor draws later regions on top, so the best is last.
    assert [region["score"] for region in regions] == sorted(r["score"] for r in regions)
    assert regions[-1]["score"] == results[0]["score"] == 1.0
    assert photos.fetched == [("/data/upload/1/cat.png", f"Token {KEY}")]
    (request,) = store.recent_requests()
    assert (request.status, request.expression, request.task_id) == (
        "answered", "the red circle", 5,
    )  # fmt: skip
    stored = store.candidates(request.id)
    assert [c["region_id"] for c in stored] == [r["id"] for r in reversed(regions)]
    again = client.post("/predict", json=body).json()["results"][0]["result"]
    assert {r["id"] for r in again}.isdisjoint(r["id"] for r in regions), "ids are per request"
    assert len(photos.fetched) == 1, "the same photo is not downloaded again"


@pytest.mark.parametrize(("k", "status"), [(1, 200), (50, 200), (0, 400), (-1, 400), (1000, 400)])
def test_k(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], k: int, status: int
) -> None:
    start_worker()
    body = typed("the cat")
    body["params"]["k"] = k
    answer = build_client().post("/predict", json=body)
    assert answer.status_code == status
    if status == 200:
        regions = answer.json()["results"][0]["result"]
        assert len([r for r in regions if r["type"] == "brushlabels"]) == k
    else:
        assert "k must be" in answer.json()["cause"]


def test_our_own_config_gets_ranked_labels_and_the_expression_per_region(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    from backend.label_studio.label_config import default_label_config

    start_worker()
    body = typed("the cat")
    body["label_config"] = default_label_config()
    regions = build_client().post("/predict", json=body).json()["results"][0]["result"]
    labels = [r["value"]["brushlabels"] for r in regions if r["type"] == "brushlabels"]
    assert labels == [["top-3"], ["top-2"], ["top-1"]]
    texts = [r["value"]["text"] for r in regions if r["from_name"] == "region_expression"]
    assert texts == [["the cat"]] * 3
    (notice,) = (r["value"]["text"][0] for r in regions if r["from_name"] == "saymask_notice")
    assert notice == '"the cat": 3 suggestions.'


def test_blank_expressions_and_nothing_found_are_empty_answers(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    start_worker()
    client = build_client()
    for expression in ("", "  \n", "\0", "nothing here"):
        answer = client.post("/predict", json=typed(expression))
        assert answer.status_code == 200
        assert answer.json()["results"][0]["result"] == []


@pytest.mark.parametrize("expression", ["🐶", "الكلب الأحمر", "a\0b", "\ud800 cat", "x" * 1990])
def test_odd_expressions_are_stored_and_answered(
    build_client: Callable[..., TestClient],
    start_worker: Callable[..., Any],
    store: Store,
    expression: str,
) -> None:
    start_worker()
    client = build_client()
    answer = client.post("/predict", content=json.dumps(typed(expression)))
    assert answer.status_code == 200, answer.text
    assert store.recent_requests()[0].status == "answered"


def test_five_thousand_words_are_refused(build_client: Callable[..., TestClient]) -> None:
    answer = build_client().post("/predict", json=typed("word " * 5000))
    assert answer.status_code == 422
    assert "25000 characters" in answer.json()["cause"]


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
        ("ftp://host/x.png", 502, "no photo address"),
        ("http://[bad/x.png", 502, "no valid address"),
        ("http://a..b/x.png", 502, ""),
        ("http://host:99999999/x.png", 502, "no valid address"),
        ("http://224.0.0.1/x.png", 403, "private address"),
        ("http://[64:ff9b::7f00:1]/x.png", 403, "private address"),
        ("/api/users", 502, "no photo address"),
        ("/data/../api/users", 502, "no photo address"),
        ("/data/%2e%2e/api/users", 502, "no photo address"),
        ("data:image/png;base64,@@@", 422, "damaged"),
    ],
)
def test_photos_that_cannot_be_had(
    build_client: Callable[..., TestClient], store: Store, photo: str, status: int, cause: str
) -> None:
    answer = build_client().post("/predict", json=typed("the cat", photo))
    assert answer.status_code == status, answer.text
    assert cause in answer.json()["cause"]
    (request,) = store.recent_requests()
    assert request.status == "failed"
    assert cause in (request.error_text or "")


def test_the_token_goes_to_label_studio_only(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    start_worker()
    other = PhotoServer()
    client = build_client(photo_private_hosts="127.0.0.1")
    answer = client.post("/predict", json=typed("the cat", f"{other.url}/x.png"))
    other.stop()
    assert answer.status_code == 403
    assert other.asked == [("/x.png", None)]


def test_cloud_photos_go_through_label_studio(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], photos: PhotoServer
) -> None:
    start_worker()
    answer = build_client().post("/predict", json=typed("the cat", "s3://bucket/key.png", task=9))
    assert answer.status_code == 200
    encoded = base64.b64encode(b"s3://bucket/key.png").decode()
    assert photos.asked[0][0] == f"/tasks/9/resolve/?fileuri={encoded}"


@pytest.mark.parametrize(
    ("change", "status", "cause"),
    [
        (lambda b: b.update(tasks=[]), 400, "tasks"),
        (lambda b: b.update(tasks=[{"id": 1, "data": {}}]), 400, "no photo"),
        (lambda b: b.update(label_config=""), 400, "label_config"),
        (lambda b: b.update(label_config="<View>"), 422, "no XML"),
        (lambda b: b.update(label_config="<View/>"), 422, "one Image"),
        (lambda b: b.update(project="x"), 400, "project"),
        (lambda b: b["tasks"][0].update(id=2**70), 400, "task id"),
        (lambda b: b["tasks"][0].update(id="x"), 400, "task id"),
        (lambda b: b.update(params={"context": {}}), 400, "context.result"),
        (lambda b: b.update(params=[1]), 400, "params"),
        (
            lambda b: b.update(
                label_config=b["label_config"].replace("<Image", "<Image name='b'/><Image")
            ),
            422,
            "found 2",
        ),
        (lambda b: b.update(label_config="<!DOCTYPE x><View/>"), 422, "entities"),
    ],
)  # fmt: skip
def test_wrong_requests_say_what_is_wrong(
    build_client: Callable[..., TestClient],
    change: Callable[[dict[str, Any]], None],
    status: int,
    cause: str,
) -> None:
    body = typed("the cat")
    change(body)
    answer = build_client().post("/predict", json=body)
    assert answer.status_code == status, answer.text
    assert cause in answer.json()["cause"]


def test_tags_may_have_other_names(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    start_worker()
    body = typed("the cat")
    body["label_config"] = (
        '<View><Image name="pic" value="$foto"/><BrushLabels name="b" toName="pic">'
        '<Label value="thing"/></BrushLabels><TextArea name="say" toName="pic"/></View>'
    )
    body["tasks"][0]["data"] = {"foto": "/data/upload/1/x.png"}
    body["params"]["context"]["result"][0]["from_name"] = "say"
    regions = build_client().post("/predict", json=body).json()["results"][0]["result"]
    assert {(r["from_name"], r["to_name"]) for r in regions} == {("b", "pic")}
    assert [r["value"]["brushlabels"] for r in regions] == [["thing"]] * 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_bodies_that_are_no_json_objects(
    build_client: Callable[..., TestClient], content: bytes
) -> None:
    client = build_client()
    for path in ("/predict", "/webhook"):
        answer = client.post(path, content=content)
        assert answer.status_code == 400
        assert answer.json()["cause"]


@pytest.mark.parametrize(
    "name",
    [
        "TASKS_CREATED",
        "TASKS_DELETED",
        "ANNOTATIONS_DELETED",
        "PROJECT_UPDATED",
        "START_TRAINING",
        "accept1_unchanged__ANNOTATION_CREATED",
        "accept_then_erase__ANNOTATION_CREATED",
        "update_after_submit__ANNOTATION_UPDATED",
        "skip_was_cancelled__ANNOTATION_CREATED",
    ],
)
def test_webhooks_are_stored_whole_but_for_the_token(
    build_client: Callable[..., TestClient], store: Store, name: str
) -> None:
    body = load_capture(name)
    body["project"]["token"] = "secret"
    answer = build_client().post("/webhook", json=body)
    assert answer.status_code == 200
    (event,) = store.events()
    del body["project"]["token"]
    assert event["body"] == body
    assert store.count_events() == {body["action"]: 1}


def test_new_tasks_and_opened_tasks_are_prepared_in_the_background(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    client = build_client()
    client.post("/webhook", json=load_capture("TASKS_CREATED"))
    client.post("/predict", json=load_capture("batch_predict_on_task_open"))
    deadline = time.monotonic() + 10
    while len([line for line in log_of(valkey) if line.startswith("prepare")]) < 2:
        assert time.monotonic() < deadline, log_of(valkey)
        time.sleep(0.05)


def test_credentials(build_client: Callable[..., TestClient]) -> None:
    client = build_client(basic_auth_user="u", basic_auth_password="p", webhook_secret="s")
    assert client.get("/health").status_code == 401
    assert client.get("/health", auth=("u", "wrong")).status_code == 401
    assert client.get("/health", headers={"Authorization": "Basic @@"}).status_code == 401
    assert client.get("/health", auth=("u", "p")).status_code == 200
    event = load_capture("TASKS_DELETED")
    assert client.post("/webhook", json=event).status_code == 401
    assert client.post("/webhook", json=event, headers={"X-Saymask-Secret": "s"}).is_success


def test_queue_down_at_start_and_later(
    build_client: Callable[..., TestClient],
    start_worker: Callable[..., Any],
    valkey: Valkey,
    store: Store,
) -> None:
    valkey.stop()
    client = build_client()
    assert client.get("/health").status_code == 200
    assert client.post("/setup", json=load_capture("setup")).status_code == 200
    assert client.get("/ready").status_code == 503
    answer = client.post("/predict", json=typed("the cat"))
    assert answer.status_code == 503
    assert "queue cannot be reached" in answer.json()["cause"]
    assert store.recent_requests()[0].status == "failed"
    assert client.post("/webhook", json=load_capture("TASKS_DELETED")).status_code == 200
    valkey.start()
    start_worker()
    assert client.post("/predict", json=typed("the cat")).status_code == 200


def test_errors_of_the_worker_come_through(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], store: Store
) -> None:
    start_worker()
    client = build_client()
    answer = client.post("/predict", json=typed("fail"))
    assert answer.status_code == 422
    assert answer.json() == {
        "error": "PhotoUnreadable", "cause": "The photo is damaged.", "cure": "No.",
    }  # fmt: skip
    answer = client.post("/predict", json=typed("bug"))
    assert answer.status_code == 500
    assert "a bug in the worker" in answer.json()["cause"]
    assert [r.status for r in store.recent_requests()] == ["failed", "failed"]


def test_a_failure_is_tried_anew(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    client = build_client()
    for _ in range(2):
        assert client.post("/predict", json=typed("fail")).status_code == 422
    assert log_of(valkey) == ["segment fail"] * 2


def test_a_worker_of_another_version_is_ignored(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    with redis.Redis.from_url(valkey.url) as client:
        client.set("saymask:worker:newer", json.dumps({"name": "newer", "unknown": 1}))
    client = build_client()
    assert client.post("/predict", json=typed("the cat")).status_code == 200
    assert len(client.get("/ready").json()["workers"]) == 1


def test_an_import_of_thousands_does_not_fill_the_queue(
    build_client: Callable[..., TestClient], valkey: Valkey
) -> None:
    client = build_client()
    body = load_capture("TASKS_CREATED")
    task = body["tasks"][0]
    body["tasks"] = [
        {**task, "id": n, "data": {"image": f"/data/upload/{n}.png"}} for n in range(1, 120)
    ]
    assert client.post("/webhook", json=body).status_code == 200
    assert client.get("/ready").json()["queues"]["saymask-background"] == 50


def test_masks_of_regions_are_exact(
    build_client: Callable[..., TestClient], start_worker: Any
) -> None:
    start_worker()
    regions = build_client().post("/predict", json=typed("the cat")).json()["results"][0]["result"]
    best = next(r for r in regions if r["score"] == 1.0)
    expected = np.zeros((48, 64), bool)
    expected[1:9, 1:11] = True
    assert np.array_equal(decode_brush_rle(best["value"]["rle"], (48, 64)), expected)


def test_a_free_port_is_free() -> None:
    from backend.stack.processes import StackError, require_free_port

    port = free_port()
    require_free_port(port, "SAYMASK_PORT")
    server = ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)
    with pytest.raises(StackError, match=f"SAYMASK_PORT={port + 1}"):
        require_free_port(port, "SAYMASK_PORT")
    server.server_close()
