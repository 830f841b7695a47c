"""What a team sees: metrics, logs that follow one call, and models that leave when idle."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from saymask.logs import CallFilter, JsonFormatter
from saymask_backend.label_studio.label_config import default_label_config
from tests.backend.http import typed
from tests.backend.test_answers import wait_for_records
from tests.conftest import Valkey, load_capture, log_of
from tests.factories import annotation, event
from tests.factories import typed as typed_entry

Build = Callable[..., TestClient]
Start = Callable[..., Any]


def read_metrics(client: TestClient) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics(build_client: Build, start_worker: Start, app_stores: Any) -> None:
    start_worker()
    client = build_client()
    for expression in ("the cat", "the dog", "fail"):
        client.post("/predict", json=typed(expression))
    client.post("/webhook", json=event(5, annotation(1, [typed_entry("the cat")])))
    wait_for_records(app_stores)
    client.get("/nowhere/1")
    metrics = read_metrics(client)
    assert metrics["saymask_http_requests_total", "/predict", "200"] == 2
    assert metrics["saymask_http_requests_total", "/webhook", "200"] == 1
    assert metrics["saymask_http_requests_total", "other", "404"] == 1
    assert metrics["saymask_http_request_seconds_count", "/predict"] == 3
    assert metrics["saymask_asked", "answered"] == 2
    assert metrics["saymask_asked", "failed"] == 1
    assert metrics["saymask_events", "understood"] == 1
    assert metrics["saymask_records", "no_mask"] == 1
    assert metrics["saymask_workers", "idle"] + metrics["saymask_workers", "busy"] == 1
    for queue in ("saymask-interactive-prepared", "saymask-interactive"):
        assert metrics["saymask_queue_depth", queue] == 0
        assert metrics["saymask_queue_age_seconds", queue] == 0
    assert metrics["saymask_queue_up",] == 1


def test_the_age_of_the_queue_and_its_absence(build_client: Build, valkey: Valkey) -> None:
    client = build_client()
    client.post("/webhook", json=load_capture("TASKS_CREATED"))
    deadline = time.monotonic() + 20
    while read_metrics(client)["saymask_queue_age_seconds", "saymask-background"] <= 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    valkey.stop()
    metrics = read_metrics(client)
    assert metrics["saymask_queue_up",] == 0
    assert ("saymask_queue_depth", "saymask-interactive") not in metrics


def test_one_id_from_the_request_to_the_workers_log(
    build_client: Build, start_worker: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "worker.log"
    start_worker(SAYMASK_LOG_FORMAT="json", FAKE_WORKER_LOG=str(log))
    client = build_client()
    caplog.handler.addFilter(CallFilter())
    with caplog.at_level(logging.INFO):
        body = typed("fail")
        body["label_config"] = default_label_config()
        assert client.post("/predict", json=body, headers={"X-Request-ID": "c-1"}).is_success
        assert client.post("/predict", json=typed("the cat"), headers={"X-Request-ID": "c-2"})
    calls = {getattr(record, "call", None) for record in caplog.records}
    assert "c-1" in calls
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any(line["call"] == "c-1" and "damaged" in line["message"] for line in lines)
    (answered,) = [line for line in lines if line["message"].startswith("expression answered")]
    assert answered["call"] == "c-2"
    assert answered["ms"] > 0
    assert len(answered["image"]) == 12


@pytest.mark.parametrize("given", ["", "x" * 65, "a\tb", "é"])
def test_an_id_that_could_forge_log_lines_is_replaced(given: str) -> None:
    from starlette.requests import Request

    from saymask_backend.api.routes import read_call_id

    headers = [(b"x-request-id", given.encode("latin-1"))]
    call = read_call_id(Request({"type": "http", "headers": headers}))
    assert call != given
    assert len(call) == 12


def test_a_trace_is_one_json_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "f", 1, "failed\nbadly", (), __import__("sys").exc_info()
        )
    CallFilter().filter(record)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["trace"]


def test_models_leave_when_idle_and_return_without_an_error(
    build_client: Build, start_worker: Start, valkey: Valkey, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    start_worker(SAYMASK_IDLE_UNLOAD_S="0.5", FAKE_WORKER_LOG=str(log))
    client = build_client()
    for number in range(1, 4):
        deadline = time.monotonic() + 20
        while log.read_text().count("models are unloaded") < number:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        version = client.get("/ready").json()["model_version"]
        answer = client.post("/predict", json=typed(f"the cat {number}"))
        assert answer.status_code == 200
        assert version == "saymask-fake-1"
    assert len(log_of(valkey, "build")) == 4


def test_a_supervisor_learns_whether_a_worker_serves(valkey: Valkey, start_worker: Start) -> None:
    command = [str(Path(sys.executable).parent / "saymask-worker"), "health"]
    environment = {**os.environ, "SAYMASK_REDIS_URL": valkey.url}

    def check(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options], env=environment, capture_output=True, text=True, check=False
        )

    assert check().returncode == 2
    process = start_worker()
    healthy = check("--json")
    status = json.loads(healthy.stdout)
    assert (healthy.returncode, status["state"], status["encoder"]) == (0, "idle", "fake encoder")
    assert ": idle, fake encoder" in check().stdout
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while check().returncode == 0:
        assert time.monotonic() < deadline
    valkey.stop()
    assert "queue cannot be reached" in check().stderr
