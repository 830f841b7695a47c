"""No hang and no collapse: many callers, callers that leave, a queue that forgets or hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
import redis
import uvicorn
from fastapi.testclient import TestClient

from saymask.errors import CallAbandoned, DeadlineExceeded, SaymaskError
from saymask_backend.api import routes
from saymask_backend.api.app import create_app
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.images import ImageFetcher
from saymask_backend.label_studio.predict_request import PredictTask
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.pending import Call
from saymask_backend.records.stores import Stores
from saymask_backend.services.report import Reporter
from saymask_backend.services.upload_image import ImageUploader
from tests.backend.http import KEY, ImageServer, typed
from tests.backend.submissions import ALL, A, B, process
from tests.backend.test_queue import request_for
from tests.conftest import Valkey, await_state, count_queued, free_port, load_capture, log_of
from tests.factories import annotation, brush, event

Build = Callable[..., TestClient]
Start = Callable[..., Any]
EVENT = load_capture("TASKS_DELETED")


@contextmanager
def served(client: TestClient) -> Iterator[str]:
    """The application of a test client on a real port: callers can leave, and wait in line."""
    port = free_port()
    config = uvicorn.Config(client.app, port=port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def ask(url: str, expression: str, task: int, photo: str = "/data/upload/1/cat.png") -> Any:
    return httpx.post(f"{url}/predict", json=with_id(typed(expression, photo, task)), timeout=60)


def with_id(body: dict[str, Any], field: str | None = None) -> dict[str, Any]:
    body["params"]["context"]["result"][0]["id"] = field or os.urandom(5).hex()
    return body


def test_two_annotators_of_one_task_are_both_answered(
    build_client: Build, start_worker: Start
) -> None:
    start_worker()
    with served(build_client()) as url, ThreadPoolExecutor(3) as pool:
        busy = pool.submit(ask, url, "sleep 1 other", 9)
        first = pool.submit(ask, url, "the cat", 5)
        time.sleep(0.2)
        second = pool.submit(ask, url, "the dog", 5)
        for answer in (first, second, busy):
            (result,) = answer.result().json()["results"]
            assert any(entry["type"] == "brushlabels" for entry in result["result"])


def test_when_all_places_are_taken_the_next_is_told_at_once(
    build_client: Build, start_worker: Start, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_worker()
    monkeypatch.setattr(routes, "WAITING_PLACES", 4)
    client = build_client()
    with served(client) as url, ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(ask, url, f"sleep 1 {n}", n) for n in range(1, 5)]
        await_state(lambda: count_queued(valkey) >= 3, "the places are not taken")
        declined = [pool.submit(ask, url, f"the cat {n}", n) for n in range(10, 20)]
        for answer in declined:
            assert "Too many expressions" in json.dumps(answer.result().json())
        # Declined requests never overtake waiting ones.
        assert not all(answer.done() for answer in waiting)
        opened = httpx.post(f"{url}/predict", json=load_capture("batch_predict_on_task_open"))
        assert opened.status_code == 200
        for answer in waiting:
            assert "brushlabels" in json.dumps(answer.result().json())


def test_callers_that_leave_delay_nobody(
    build_client: Build, start_worker: Start, valkey: Valkey
) -> None:
    """Thirty callers give up; their jobs leave the queue, and the next is answered."""
    start_worker()
    with served(build_client()) as url, ThreadPoolExecutor(32) as pool:
        busy = pool.submit(ask, url, "sleep 4 busy", 1)
        await_state(lambda: len(log_of(valkey)) == 1, "the worker is not busy")

        def leave(number: int) -> None:
            with suppress(httpx.TimeoutException):
                body = with_id(typed(f"sleep 3 {number}", task=number))
                httpx.post(f"{url}/predict", json=body, timeout=1)

        list(pool.map(leave, range(10, 40)))
        await_state(lambda: count_queued(valkey) == 0, "their jobs still wait")
        assert ask(url, "the cat", 2).status_code == 200
        assert busy.result().status_code == 200
    assert log_of(valkey) == ["segment sleep 4 busy", "segment the cat"]


def test_a_caller_that_left_is_told_apart_from_a_failure(
    valkey: Valkey, app_stores: Stores
) -> None:
    queue = JobQueue(valkey.url, deadline_s=30)
    call = Call()
    call.disconnected.set()
    with pytest.raises(CallAbandoned):
        queue.segment(request_for("cat"), "1:1", call)
    assert count_queued(valkey) == 0
    queue.close()


def test_a_hung_queue_delays_no_webhook(
    build_client: Build, valkey: Valkey, app_stores: Stores
) -> None:
    """The queue answers nothing at all, 45 callers ask for the state: webhooks come through."""
    client = build_client()
    with served(client) as url, ThreadPoolExecutor(64) as pool:
        valkey.signal(signal.SIGSTOP)
        try:
            asking = [pool.submit(httpx.get, f"{url}/ready", timeout=60) for _ in range(45)]
            typing = [pool.submit(ask, url, "the cat", n) for n in range(1, 9)]
            hooks = [pool.submit(httpx.post, f"{url}/webhook", json=EVENT) for _ in range(5)]
            for hook in hooks:
                # All the others still wait for the queue: it was stopped before they began.
                assert hook.result(30).status_code == 200
            assert not all(answer.done() for answer in asking)
            health = httpx.get(f"{url}/health", timeout=5)
            assert health.status_code == 200
        finally:
            valkey.signal(signal.SIGCONT)
        for answer in asking:
            assert answer.result().status_code == 503
        for answer in typing:
            assert answer.result().json()["error"] in ("QueueUnavailable", "WorkerUnavailable")
    assert app_stores.events.count_events_by_action() == {"TASKS_DELETED": 5}


def test_a_queue_that_forgets_everything_under_a_waiting_request(
    build_client: Build, start_worker: Start, valkey: Valkey
) -> None:
    start_worker()
    client = build_client()
    with ThreadPoolExecutor(2) as pool, redis.Redis.from_url(valkey.url) as connection:
        busy = pool.submit(client.post, "/predict", json=with_id(typed("sleep 3 a", task=1)))
        await_state(lambda: len(log_of(valkey)) == 1, "the worker is not busy")
        other = typed("the cat", "/data/other.png", task=2)
        waiting = pool.submit(client.post, "/predict", json=with_id(other))
        await_state(lambda: count_queued(valkey) == 1, "nothing waits")
        connection.flushall()
        for answer in (busy, waiting):
            assert "brushlabels" in json.dumps(answer.result(60).json()), answer.result().text


def test_a_queue_without_memory_says_so_and_recovers(
    build_client: Build, start_worker: Start, valkey: Valkey
) -> None:
    start_worker()
    client = build_client()
    with redis.Redis.from_url(valkey.url) as connection:
        connection.config_set("maxmemory-policy", "noeviction")
        connection.config_set("maxmemory", 1)
        answer = client.post("/predict", json=with_id(typed("the cat", "/data/new.png")))
        assert "memory is full" in json.dumps(answer.json())
        connection.config_set("maxmemory", 0)
    answer = client.post("/predict", json=with_id(typed("the cat", "/data/new.png")))
    assert "brushlabels" in json.dumps(answer.json())


def test_one_new_image_is_downloaded_once(photos: ImageServer, valkey: Valkey) -> None:
    queue = JobQueue(valkey.url, deadline_s=30)
    uploader = ImageUploader(ImageFetcher(photos.url, KEY, (), 10**6, 5.0), queue)
    task = PredictTask(1, "/data/new.png")
    with ThreadPoolExecutor(20) as pool:
        hashes = set(pool.map(lambda _: uploader.upload(task), range(20)))
    assert len(hashes) == 1
    assert len(photos.fetched) == 1
    queue.close()


def test_a_photo_that_cannot_be_fetched_fails_for_all_at_once(valkey: Valkey) -> None:
    """Six requests that wait for one failing download all fail with it, not one after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    queue = JobQueue(valkey.url, deadline_s=30)
    fetcher = ImageFetcher("", "", ("127.0.0.1",), 10**6, 1.5)
    uploader = ImageUploader(fetcher, queue)
    task = PredictTask(1, f"http://127.0.0.1:{listener.getsockname()[1]}/x.png")
    started = time.monotonic()

    def upload(_: int) -> str:
        with pytest.raises(SaymaskError) as caught:
            uploader.upload(task)
        return caught.value.cause

    with ThreadPoolExecutor(6) as pool:
        causes = set(pool.map(upload, range(6)))
    assert len(causes) == 1
    # One after the other they would have waited nine seconds.
    assert time.monotonic() - started < 6
    listener.close()
    queue.close()


def test_disagreements_are_computed_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, mask in enumerate((A, B), start=1):
        drawn = brush(f"own{number}", mask, "referent", "manual", "the cat")
        process(stores, event(1, annotation(number, drawn, completed_by=number)))
    loaded: list[int] = []
    load = stores.records.load_record
    monkeypatch.setattr(stores.records, "load_record", lambda n: loaded.append(n) or load(n))
    reporter = Reporter(stores)
    with ThreadPoolExecutor(5) as pool:
        reports = list(pool.map(lambda _: reporter.build_report(ALL), range(5)))
    assert {report.shared for report in reports} == {1}
    assert len(loaded) == 2
    # Another decision by one of them is another comparison.
    drawn = brush("own1", B, "referent", "manual", "the cat")
    process(stores, event(1, annotation(1, drawn, completed_by=1, after_s=60)))
    assert len(reports[0].disagreements) == 1
    assert len(reporter.build_report(ALL).disagreements) == 0


def test_deadlines_count_from_arrival(valkey: Valkey, start_worker: Start) -> None:
    """A request that waited for a thread has that much less time for the worker."""
    start_worker()
    queue = JobQueue(valkey.url, deadline_s=30)
    queue.put_image(request_for("cat").image_sha256, b"image")
    late = Call(arrived=time.monotonic() - 29)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="No answer in time"):
        queue.segment(request_for("sleep 10 cat"), "1:1", late)
    assert time.monotonic() - started < 10
    queue.close()


def test_a_connection_that_sends_nothing_holds_nothing(
    build_client: Build, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_worker()
    monkeypatch.setattr(routes, "WAITING_PLACES", 4)
    with served(build_client()) as url:
        address = url.removeprefix("http://").split(":")
        idle = [socket.create_connection((address[0], int(address[1]))) for _ in range(60)]
        head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        for connection in idle:
            connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert ask(url, "the cat", 1).status_code == 200
        for connection in idle:
            connection.close()


def test_the_application_starts_again_on_the_same_data(
    valkey: Valkey, photos: ImageServer, tmp_path: Any
) -> None:
    from saymask_backend.config import load_settings

    settings = load_settings(SAYMASK_REDIS_URL=valkey.url, data_dir=tmp_path / "data")
    for _ in range(2):
        with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
            assert client.get("/health").status_code == 200


def test_a_slow_label_studio_delays_no_preparation(
    build_client: Build,
    start_worker: Start,
    valkey: Valkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking for the next tasks takes as long as Label Studio takes; opened tasks do not wait."""
    start_worker()
    answered = threading.Event()

    def wait_for_label_studio(*_: object) -> list[Any]:
        answered.wait(60)
        return []

    monkeypatch.setattr(LabelStudioClient, "list_tasks_after", wait_for_label_studio)
    with served(build_client()) as url:
        try:
            for number in range(30):
                ask(url, "the cat", number, f"/data/{number}.png")
            await_state(
                lambda: len(set(log_of(valkey, "prepare"))) == 30, "opened tasks are not prepared"
            )
        finally:
            answered.set()


def test_building_a_large_answer_delays_no_webhook(
    build_client: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dozens of large masks take seconds to be written."""
    is_building, may_end = threading.Event(), threading.Event()

    def build_slowly(*_: object) -> list[Any]:
        is_building.set()
        return [{"result": [], "score": float(may_end.wait(20))}]

    monkeypatch.setattr(routes, "to_results", build_slowly)
    with served(build_client()) as url, ThreadPoolExecutor(1) as pool:
        body = load_capture("batch_predict_on_task_open")
        large = pool.submit(httpx.post, f"{url}/predict", json=body, timeout=60)
        assert is_building.wait(20)
        httpx.post(f"{url}/webhook", json=EVENT, timeout=60).raise_for_status()
        may_end.set()
        assert large.result().json() == {"results": [{"result": [], "score": 1.0}]}
