"""Predict requests over HTTP: recorded bodies in, what Label Studio needs out."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis
from fastapi.testclient import TestClient

from saymask.contract import QUEUE_BACKGROUND
from saymask.errors import InternalError
from saymask.masks import decode_brush_rle
from saymask_backend.label_studio.connect import ConnectOptions, Connector
from saymask_backend.label_studio.label_config import default_label_config, load_label_config
from saymask_backend.label_studio.schema import TaskBody
from saymask_backend.records.requests import DOCTOR_ENTRY_ID, NewRequest
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import ProjectKey
from tests.backend.http import JSON_TYPE, KEY, ImageServer, typed
from tests.conftest import Valkey, load_capture, log_of


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
    assert "<td>fake encoder</td>" in page


def test_typed_expression_gives_separate_regions_in_one_prediction(
    build_client: Callable[..., TestClient],
    start_worker: Callable[..., Any],
    photos: ImageServer,
    app_stores: Stores,
) -> None:
    start_worker()
    client = build_client()
    body = typed("the red circle")
    results = client.post("/predict", json=body).json()["results"]
    assert len(results) == 1
    regions = [r for r in results[0]["result"] if r["type"] == "brushlabels"]
    assert [region["value"]["brushlabels"] for region in regions] == [["candidate"]] * 2
    for region in regions:
        assert region["origin"] == "prediction"
        assert (region["original_width"], region["original_height"]) == (64, 48)
        mask = decode_brush_rle(region["value"]["rle"], (48, 64))
        assert mask.sum() == 80
    # The editor draws later regions on top, so the best is last.
    assert [region["score"] for region in regions] == sorted(r["score"] for r in regions)
    assert regions[-1]["score"] == results[0]["score"] == 1.0
    assert photos.fetched == [("/data/upload/1/cat.png", f"Token {KEY}")]
    (request,) = app_stores.requests.list_recent()
    assert (request.status, request.expression, request.task_id) == (
        "answered", "the red circle", 5,
    )  # fmt: skip
    stored = app_stores.requests.load_offer(request.id)
    assert stored is not None
    assert [c.rank for c in stored.candidates] == [1, 2, 3]
    assert stored.shown == (1, 3), "the second covers a part of the first"
    assert [r["id"] for r in regions] == [stored.candidates[2].region_id, stored.region_id]
    again = client.post("/predict", json=body).json()["results"][0]["result"]
    assert {r["id"] for r in again}.isdisjoint(r["id"] for r in regions), "ids are per request"
    assert len(photos.fetched) == 1, "the same photo is not downloaded again"


def test_enter_again_after_a_first_look_gives_the_prepared_image_s_answer(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker(FAKE_WORKER_QUEUES="interactive")
    client = build_client()

    kinds = ("look", "prepare", "segment")

    def ask(expression: str) -> list[str]:
        """Ask, and return what the workers did for it."""
        before = len(log_of(valkey, *kinds))
        client.post("/predict", json=typed(expression, "/data/unseen.png")).raise_for_status()
        return [line.split()[0] for line in log_of(valkey, *kinds)[before:]]

    assert ask("the cat") == ["look", "segment"]
    assert ask("the dog") == ["segment"], "the look is remembered"
    with redis.Redis.from_url(valkey.url) as connection:
        assert connection.llen(f"rq:queue:{QUEUE_BACKGROUND}") == 1, "prepared once, behind"
    assert ask("the cat") == ["prepare", "segment"]
    assert ask("the cat") == [], "a full answer is shared"
    assert ask("the bird") == ["segment"]


@pytest.mark.parametrize(("k", "status"), [(1, 200), (50, 200), (0, 400), (-1, 400), (1000, 400)])
def test_k(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any],
    app_stores: Stores, k: int, status: int,
) -> None:  # fmt: skip
    start_worker()
    body = typed("the cat")
    body["params"]["k"] = k
    answer = build_client().post("/predict", json=body)
    assert answer.status_code == status
    if status == 200:
        offer = app_stores.requests.load_offer(app_stores.requests.list_recent()[0].id)
        assert offer is not None
        assert len(offer.candidates) == k
    else:
        assert "k must be" in answer.json()["cause"]


def test_our_own_config_gets_ranked_labels_and_the_expression_per_region(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    from saymask_backend.label_studio.label_config import default_label_config

    start_worker()
    body = typed("the cat")
    body["label_config"] = default_label_config()
    regions = build_client().post("/predict", json=body).json()["results"][0]["result"]
    labels = [r["value"]["brushlabels"] for r in regions if r["type"] == "brushlabels"]
    assert labels == [["top-3"], ["top-1"]]
    texts = [r["value"]["text"] for r in regions if r["from_name"] == "region_expression"]
    assert texts == [["the cat"]] * 2
    (notice,) = (r["value"]["text"][0] for r in regions if r["from_name"] == "saymask_notice")
    assert notice == '"the cat": 3 suggestions, 2 shown; type 2 for another.'


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
    app_stores: Stores,
    expression: str,
) -> None:
    start_worker()
    client = build_client()
    answer = client.post("/predict", content=json.dumps(typed(expression)), headers=JSON_TYPE)
    assert answer.status_code == 200, answer.text
    assert app_stores.requests.list_recent()[0].status == "answered"


def test_five_thousand_words_are_refused(build_client: Callable[..., TestClient]) -> None:
    answer = build_client().post("/predict", json=typed("word " * 5000))
    assert answer.status_code == 422
    assert "25000 characters" in answer.json()["cause"]


@pytest.mark.parametrize(
    ("change", "status", "cause"),
    [
        (lambda b: b.update(tasks=[]), 400, "tasks"),
        (lambda b: b.update(tasks=[{"id": 1, "data": {}}]), 400, "no photo"),
        (lambda b: b.update(label_config=""), 400, "label_config"),
        (lambda b: b.update(label_config="<View>"), 422, "not valid XML"),
        (lambda b: b.update(label_config="<View/>"), 422, "one Image"),
        (lambda b: b.update(project="x"), 400, "project"),
        (lambda b: b["tasks"][0].update(id=2**70), 400, "tasks.0"),
        (lambda b: b["tasks"][0].update(id="x"), 400, "tasks.0"),
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
    assert [r["value"]["brushlabels"] for r in regions] == [["thing"]] * 2


def test_errors_of_the_worker_come_through(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], app_stores: Stores
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
    assert [r.status for r in app_stores.requests.list_recent()] == ["failed", "failed"]


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


def test_masks_of_regions_are_exact(
    build_client: Callable[..., TestClient], start_worker: Any
) -> None:
    start_worker()
    regions = build_client().post("/predict", json=typed("the cat")).json()["results"][0]["result"]
    best = next(r for r in regions if r["score"] == 1.0)
    expected = np.zeros((48, 64), bool)
    expected[1:9, 1:11] = True
    assert np.array_equal(decode_brush_rle(best["value"]["rle"], (48, 64)), expected)


def test_what_the_doctor_asks_is_nobody_s(
    build_client: Callable[..., TestClient],
    start_worker: Callable[..., Any],
    app_stores: Stores,
) -> None:
    start_worker()
    client = build_client()
    body = typed("the object")
    body["params"]["context"]["result"][0]["id"] = DOCTOR_ENTRY_ID
    assert client.post("/predict", json=body).json()["results"][0]["result"]
    requests = app_stores.requests
    assert (requests.list_recent(), requests.count_requests()) == ([], {})
    assert requests.list_latencies_ms() == []
    assert requests.load_last_answer(ProjectKey(1), 5) is None
    assert "the object" not in client.get("/").text


def test_the_doctor_s_expression_is_marked_as_its_own() -> None:
    sent: list[Any] = []
    config = load_label_config(default_label_config())
    mask = {"from_name": config.mask, "type": "brushlabels"}
    client: Any = SimpleNamespace(
        find_ml_backends=lambda *_: [SimpleNamespace(id=1)],
        get_project=lambda _: SimpleNamespace(read_label_config=lambda: config),
        iterate_tasks=lambda *_: [TaskBody.model_validate({"id": 5, "data": {"image": "/a.png"}})],
        predict_interactively=lambda *given: sent.extend(given) or {"data": {"result": [mask]}},
    )
    connector = Connector(client, ConnectOptions("http://localhost:9090", "", "", "", False))
    assert connector._check_expression(1)[0] == "ok"
    assert sent[2][0]["id"] == DOCTOR_ENTRY_ID


def test_the_page_shows_long_answers_in_seconds(
    build_client: Callable[..., TestClient], app_stores: Stores
) -> None:
    client = build_client()
    for latency_ms in (420.0, 55365.0):
        new = NewRequest(ProjectKey(1), 5, "the cat", 3, "/a.png")
        number = app_stores.requests.add_request(new)
        app_stores.requests.save_failure(number, InternalError("broken"), latency_ms)
    page = client.get("/").text
    assert ">420 ms</td>" in page
    assert ">55.4 s</td>" in page
