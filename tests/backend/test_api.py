"""Webhooks, credentials, broken bodies, and a queue that is down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from saymask_backend.label_studio.events import (
    SubmissionEvent,
    TasksCreatedEvent,
    parse_event,
    to_new_event,
)
from saymask_backend.records.stores import Stores
from tests.backend.http import JSON_TYPE, typed
from tests.conftest import Valkey, await_state, list_bodies, load_capture, log_of


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_bodies_that_are_no_json_objects(
    build_client: Callable[..., TestClient], content: bytes
) -> None:
    client = build_client()
    for path in ("/predict", "/webhook"):
        answer = client.post(path, content=content, headers=JSON_TYPE)
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
def test_webhooks_are_stored_without_what_recording_does_not_read(
    build_client: Callable[..., TestClient], app_stores: Stores, name: str
) -> None:
    body = load_capture(name)
    body["project"]["token"] = "secret"
    stored = to_new_event(body)
    assert stored.body is not None
    assert set(stored.body["project"]) <= {"id", "created_at", "label_config"}
    read, whole = parse_event(json.dumps(stored.body)), parse_event(json.dumps(body))
    if isinstance(whole, SubmissionEvent):
        assert isinstance(read, SubmissionEvent)
        assert (read.project, read.annotation) == (whole.project, whole.annotation)
        assert (read.task.id, read.task.data) == (whole.task.id, whole.task.data)
    elif not isinstance(whole, TasksCreatedEvent):
        assert read == whole

    answer = build_client().post("/webhook", json=body)
    assert answer.status_code == 200
    assert app_stores.events.count_events_by_action() == {body["action"]: 1}
    await_state(
        lambda: "waiting" not in app_stores.events.count_events_by_state(), "it is not processed"
    )
    assert "problem" not in app_stores.events.count_events_by_state()
    assert list_bodies(app_stores)[0] is None, "nothing reads it again"


def test_new_tasks_and_opened_tasks_are_prepared_in_the_background(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    client = build_client()
    client.post("/webhook", json=load_capture("TASKS_CREATED"))
    client.post("/predict", json=load_capture("batch_predict_on_task_open"))
    deadline = time.monotonic() + 10
    while len(log_of(valkey, "prepare")) < 2:
        assert time.monotonic() < deadline, log_of(valkey, "prepare")
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
    app_stores: Stores,
) -> None:
    valkey.stop()
    client = build_client()
    assert client.get("/health").status_code == 200
    assert client.post("/setup", json=load_capture("setup")).status_code == 200
    assert client.get("/ready").status_code == 503
    answer = client.post("/predict", json=typed("the cat"))
    assert answer.status_code == 503
    assert "queue cannot be reached" in answer.json()["cause"]
    assert app_stores.requests.list_recent()[0].status == "failed"
    assert client.post("/webhook", json=load_capture("TASKS_DELETED")).status_code == 200
    valkey.start()
    start_worker()
    assert client.post("/predict", json=typed("the cat")).status_code == 200


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
