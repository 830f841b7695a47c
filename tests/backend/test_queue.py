"""Jobs through a real queue: shared, replaced, lost with their worker, too late."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.job import Job

from saymask.contract import QUEUE_INTERACTIVE, PrepareRequest, SegmentRequest
from saymask.errors import DeadlineExceeded, JobSuperseded, WorkerUnavailable
from saymask_backend.queue import jobs
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.pending import Call, PendingRequest, PendingRequests
from tests.conftest import Valkey, await_state, count_queued, log_of

IMAGE = b"image"
SHA256 = hashlib.sha256(IMAGE).hexdigest()


@pytest.fixture
def queue(valkey: Valkey) -> Iterator[JobQueue]:
    queue = JobQueue(valkey.url, deadline_s=30)
    queue.put_image(SHA256, IMAGE)
    yield queue
    queue.close()


def request_for(expression: str) -> SegmentRequest:
    return SegmentRequest(image_sha256=SHA256, expression=expression, k=2)


def count_waiting(valkey: Valkey) -> list[int]:
    """How many requests wait for each job."""
    with redis.Redis.from_url(valkey.url) as client:
        return [int(client.scard(key)) for key in client.keys("saymask:pending:*")]


def test_pending_requests_are_kept_until_their_last_deadline(valkey: Valkey) -> None:
    """A short wait for a job must not end the long one of another request for it."""
    with redis.Redis.from_url(valkey.url) as client:
        requests = PendingRequests(client)
        for job, seconds in (("both", 3000), ("both", 5), ("short", 5)):
            deadline = time.monotonic() + seconds
            requests.wait_for(PendingRequest(None, True, deadline, threading.Event()), job)
        assert client.ttl("saymask:pending:both") > 2900
        assert 0 < client.ttl("saymask:pending:short") < 100


def test_a_short_wait_at_the_same_moment_does_not_end_a_long_one(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        requests = PendingRequests(client)

        def wait(seconds: int) -> None:
            deadline = time.monotonic() + seconds % 30 * 100
            pending = PendingRequest(None, True, deadline, threading.Event())
            requests.wait_for(pending, f"job {seconds // 30}")

        with ThreadPoolExecutor(30) as pool:
            list(pool.map(wait, range(900)))
        assert min(client.ttl(key) for key in client.keys("saymask:pending:*")) > 2900


def test_same_request_from_two_annotators_is_one_job(
    queue: JobQueue, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(
                lambda n: queue.segment(request_for("sleep 1 cat"), f"1:{n}", Call()), range(4)
            )
        )
    assert len({result.model_dump_json() for result in results}) == 1
    assert log_of(valkey) == ["segment sleep 1 cat"]


def test_a_job_that_starts_while_a_second_annotator_asks_is_not_run_twice(
    valkey: Valkey, start_worker: Callable[..., Any]
) -> None:
    class ReadsBeforeTheStart(JobQueue):
        """Between its reading of a queued job and the next look at it, a worker starts it."""

        def _fetch(self, job_id: str) -> Job | None:
            job = super()._fetch(job_id)
            if job is not None and not log_of(valkey):
                start_worker()
                await_state(lambda: bool(log_of(valkey)), "the job has not begun")
            return job

    first, second = JobQueue(valkey.url, deadline_s=30), ReadsBeforeTheStart(valkey.url, 30)
    first.put_image(SHA256, IMAGE)
    request = request_for("sleep 2 cat")
    with ThreadPoolExecutor(2) as pool:
        earlier = pool.submit(first.segment, request, "1:1", Call())
        await_state(lambda: count_queued(valkey) == 1, "no job is queued")
        assert second.segment(request, "1:2", Call()) == earlier.result(20)
    assert log_of(valkey) == ["segment sleep 2 cat"]
    first.close()
    second.close()


def test_a_job_just_popped_by_a_worker_is_not_queued_twice(
    queue: JobQueue, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    with ThreadPoolExecutor(2) as pool, redis.Redis.from_url(valkey.url) as client:
        first = pool.submit(queue.segment, request_for("cat"), "1:1", Call())
        key = f"rq:queue:{QUEUE_INTERACTIVE}"
        taken = client.blpop([key], timeout=10)
        # Between a worker's pop and its word that it has begun, a second annotator asks.
        second = pool.submit(queue.segment, request_for("cat"), "1:2", Call())
        time.sleep(0.5)
        assert client.llen(key) == 0
        client.rpush(key, taken[1])
        start_worker()
        assert first.result(20) == second.result(20)
    assert log_of(valkey) == ["segment cat"]


def test_newer_expression_of_a_task_replaces_the_waiting_one(
    queue: JobQueue, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    with ThreadPoolExecutor(4) as pool:
        busy = pool.submit(queue.segment, request_for("sleep 3 other"), "1:other", Call())
        await_state(lambda: len(log_of(valkey)) == 1, "the worker is not busy")
        older = pool.submit(queue.segment, request_for("older"), "1:1", Call())
        await_state(lambda: count_queued(valkey) == 1, "no job is queued")
        newer = pool.submit(queue.segment, request_for("newer"), "1:1", Call())
        assert newer.result(20).expression == "newer"
        with pytest.raises(JobSuperseded):
            older.result(20)
        busy.result(20)
    assert "segment older" not in log_of(valkey)


def test_a_waiting_job_that_another_task_wants_too_is_kept(
    queue: JobQueue, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    with ThreadPoolExecutor(4) as pool:
        pool.submit(queue.segment, request_for("sleep 3 other"), "1:other", Call())
        await_state(lambda: len(log_of(valkey)) == 1, "the worker is not busy")
        first = pool.submit(queue.segment, request_for("shared"), "1:1", Call())
        second = pool.submit(queue.segment, request_for("shared"), "1:2", Call())
        await_state(lambda: 2 in count_waiting(valkey), "two do not wait for one job")
        pool.submit(queue.segment, request_for("newer"), "1:1", Call()).result(20)
        assert second.result(20).expression == "shared"
        with pytest.raises(JobSuperseded):
            first.result(20)


def test_worker_killed_in_mid_job_and_another_takes_over(
    queue: JobQueue, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    marker = tmp_path / "dies"
    marker.touch()
    first = start_worker(FAKE_WORKER_DIES_ONCE=str(marker))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(queue.segment, request_for("die"), "1:1", Call())
        first.wait(10)
        start_worker()
        assert result.result(30).expression == "die"


def test_no_worker_is_said_before_label_studio_gives_up(queue: JobQueue) -> None:
    with pytest.raises(WorkerUnavailable):
        queue.segment(request_for("cat"), "1:1", Call())


def test_a_worker_that_only_prepares_images_does_not_answer_annotators(
    valkey: Valkey, start_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_worker(FAKE_WORKER_QUEUES="background")
    monkeypatch.setattr(jobs, "_NO_WORKER_GRACE_S", 1.0)
    impatient = JobQueue(valkey.url, deadline_s=30)
    assert not impatient.list_workers()[0].serves(background=False)
    assert impatient.list_workers()[0].serves(background=True)
    with pytest.raises(WorkerUnavailable):
        impatient.segment(request_for("cat"), "1:1", Call())
    impatient.close()


def test_a_typed_expression_does_not_wait_for_images_being_prepared(
    queue: JobQueue, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker(FAKE_WORKER_QUEUES="interactive")
    other = b"another image"
    other_sha256 = hashlib.sha256(other).hexdigest()
    queue.put_image(other_sha256, other)
    queue.prepare(PrepareRequest(image_sha256=other_sha256))
    assert queue.segment(request_for("cat"), "1:1", Call()).expression == "cat"
    assert log_of(valkey) == ["segment cat"]
    start_worker(FAKE_WORKER_QUEUES="background")
    deadline = time.monotonic() + 10
    while f"prepare {other_sha256[:8]}" not in log_of(valkey, "prepare"):
        assert time.monotonic() < deadline, log_of(valkey, "prepare")
        time.sleep(0.05)


def test_expressions_about_prepared_images_overtake_the_others(
    queue: JobQueue, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker(FAKE_WORKER_QUEUES="interactive")
    queue.segment(request_for("cat"), "1:1", Call())
    unseen = b"another image"
    sha256 = hashlib.sha256(unseen).hexdigest()
    queue.put_image(sha256, unseen)
    asked = [
        request_for("sleep 4 first"),
        SegmentRequest(image_sha256=sha256, expression="slow", k=2),
        request_for("quick"),
    ]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = []
        for number, request in enumerate(asked):
            answers.append(pool.submit(queue.segment, request, f"2:{number}", Call()))
            # The first is at work, the others wait behind it.
            await_state(
                lambda n=number: (
                    f"segment {asked[0].expression}" in log_of(valkey) and count_queued(valkey) == n
                ),
                "queued",
                10,
            )
        assert [answer.result().expression for answer in answers] == [r.expression for r in asked]
    assert log_of(valkey) == [
        f"segment {said}" for said in ("cat", "sleep 4 first", "quick", "slow")
    ]


def test_deadline(valkey: Valkey, start_worker: Callable[..., Any]) -> None:
    start_worker()
    queue = JobQueue(valkey.url, deadline_s=1)
    queue.put_image(SHA256, IMAGE)
    with pytest.raises(DeadlineExceeded):
        queue.segment(request_for("sleep 4 cat"), "1:1", Call())
    queue.close()


def test_no_pickle_on_the_wire(
    queue: JobQueue, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    queue.segment(request_for("cat"), "1:1", Call())
    with redis.Redis.from_url(valkey.url) as client:
        (key,) = client.keys("rq:job:saymask-segment-*")
        data = client.hget(key, "data")
    assert json.loads(zlib.decompress(data))[0] == "worker.jobs.segment"
