"""Jobs through a real queue: shared, replaced, lost with their worker, too late."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from backend.contract import QUEUE_INTERACTIVE, PrepareRequest, SegmentRequest
from backend.dispatch import Dispatcher
from backend.errors import DeadlineExceeded, JobSuperseded, WorkerUnavailable
from tests.conftest import Valkey, log_of


@pytest.fixture
def dispatcher(valkey: Valkey) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(valkey.url, deadline_s=30)
    dispatcher.put_photo("a" * 64, b"photo")
    yield dispatcher
    dispatcher.close()


def request_for(expression: str) -> SegmentRequest:
    return SegmentRequest(photo_sha256="a" * 64, expression=expression, k=2)


def test_same_request_from_two_annotators_is_one_job(
    dispatcher: Dispatcher, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda n: dispatcher.segment(request_for("sleep 1 cat"), f"1:{n}"), range(4))
        )
    assert len({result.model_dump_json() for result in results}) == 1
    assert log_of(valkey) == ["segment sleep 1 cat"]


def test_a_job_just_popped_by_a_worker_is_not_queued_twice(
    dispatcher: Dispatcher, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    with ThreadPoolExecutor(2) as pool, redis.Redis.from_url(valkey.url) as client:
        first = pool.submit(dispatcher.segment, request_for("cat"), "1:1")
        queue = f"rq:queue:{QUEUE_INTERACTIVE}"
        taken = client.blpop([queue], timeout=10)
        # Between a worker's pop and its word that it has begun, a second annotator asks.
        second = pool.submit(dispatcher.segment, request_for("cat"), "1:2")
        time.sleep(0.5)
        assert client.llen(queue) == 0
        client.rpush(queue, taken[1])
        start_worker()
        assert first.result(20) == second.result(20)
    assert log_of(valkey) == ["segment cat"]


def test_newer_expression_of_a_task_replaces_the_waiting_one(
    dispatcher: Dispatcher, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    with ThreadPoolExecutor(4) as pool:
        busy = pool.submit(dispatcher.segment, request_for("sleep 3 other"), "1:other")
        time.sleep(0.5)
        older = pool.submit(dispatcher.segment, request_for("older"), "1:1")
        time.sleep(0.3)
        newer = pool.submit(dispatcher.segment, request_for("newer"), "1:1")
        assert newer.result(20).expression == "newer"
        with pytest.raises(JobSuperseded):
            older.result(20)
        busy.result(20)
    assert "segment older" not in log_of(valkey)


def test_a_waiting_job_that_another_task_wants_too_is_kept(
    dispatcher: Dispatcher, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    with ThreadPoolExecutor(4) as pool:
        pool.submit(dispatcher.segment, request_for("sleep 2 other"), "1:other")
        time.sleep(0.3)
        first = pool.submit(dispatcher.segment, request_for("shared"), "1:1")
        second = pool.submit(dispatcher.segment, request_for("shared"), "1:2")
        time.sleep(0.3)
        pool.submit(dispatcher.segment, request_for("newer"), "1:1").result(20)
        assert second.result(20).expression == "shared"
        with pytest.raises(JobSuperseded):
            first.result(20)


def test_worker_killed_in_mid_job_and_another_takes_over(
    dispatcher: Dispatcher, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    marker = tmp_path / "dies"
    marker.touch()
    first = start_worker(FAKE_WORKER_DIES_ONCE=str(marker))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(dispatcher.segment, request_for("die"), "1:1")
        first.wait(10)
        start_worker()
        assert result.result(30).expression == "die"


def test_no_worker_is_said_before_label_studio_gives_up(dispatcher: Dispatcher) -> None:
    with pytest.raises(WorkerUnavailable):
        dispatcher.segment(request_for("cat"), "1:1")


def test_a_worker_that_only_prepares_photos_answers_nobody(
    dispatcher: Dispatcher, start_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.dispatch._WORKER_GRACE_S", 1.0)
    start_worker(FAKE_WORKER_QUEUES="background")
    assert not dispatcher.workers()[0].answers_people
    with pytest.raises(WorkerUnavailable):
        dispatcher.segment(request_for("cat"), "1:1")


def test_a_typed_expression_does_not_wait_for_photos_being_prepared(
    dispatcher: Dispatcher, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker(FAKE_WORKER_QUEUES="interactive")
    dispatcher.prepare(PrepareRequest(photo_sha256="b" * 64))
    assert dispatcher.segment(request_for("cat"), "1:1").expression == "cat"
    assert log_of(valkey) == ["segment cat"]
    start_worker(FAKE_WORKER_QUEUES="background")
    deadline = time.monotonic() + 10
    while len(log_of(valkey)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert log_of(valkey)[1] == "prepare bbbbbbbb"


def test_deadline(valkey: Valkey, start_worker: Callable[..., Any]) -> None:
    start_worker()
    dispatcher = Dispatcher(valkey.url, deadline_s=1)
    dispatcher.put_photo("a" * 64, b"photo")
    with pytest.raises(DeadlineExceeded):
        dispatcher.segment(request_for("sleep 4 cat"), "1:1")
    dispatcher.close()


def test_no_pickle_on_the_wire(
    dispatcher: Dispatcher, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    dispatcher.segment(request_for("cat"), "1:1")
    with redis.Redis.from_url(valkey.url) as client:
        (key,) = client.keys("rq:job:saymask-segment-*")
        data = client.hget(key, "data")
    assert json.loads(zlib.decompress(data))[0] == "worker.jobs.segment"
