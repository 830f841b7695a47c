"""The order of jobs, waiting for a job, and a queue that goes away and comes back. Real Valkey."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from saymask.contract import (
    ANSWERING_KEY,
    QUEUE_BACKGROUND,
    QUEUE_INTERACTIVE,
    QUEUE_PREPARED,
    PrepareRequest,
    ProposeRequest,
    SegmentRequest,
)
from saymask.errors import CallAbandoned, JobSuperseded, QueueError, QueueUnavailable
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.pending import Call
from tests.conftest import Valkey, await_state, count_queued, log_of

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def queue(valkey: Valkey) -> Iterator[JobQueue]:
    queue = JobQueue(valkey.url, deadline_s=30)
    yield queue
    queue.close()


@pytest.fixture
def valkey(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path, keeps_data=getattr(request, "param", False))
    server.start()
    yield server
    server.stop()


KEEPS_DATA = pytest.mark.parametrize("valkey", [True], indirect=True)


def put(queue: JobQueue, content: str) -> str:
    data = content.encode()
    sha256 = hashlib.sha256(data).hexdigest()
    queue.put_image(sha256, data)
    return sha256


def ask(queue: JobQueue, sha256: str, expression: str, call: Call | None = None) -> str:
    request = SegmentRequest(image_sha256=sha256, expression=expression, k=1)
    return queue.segment(request, None, call or Call()).expression


def has_waiter(valkey: Valkey) -> bool:
    with redis.Redis.from_url(valkey.url) as connection:
        return bool(connection.keys("saymask:pending:*"))


@contextmanager
def typing(queue: JobQueue, sha256: str, count: int, expression: str) -> Iterator[Counter[int]]:
    """Annotators that ask again as soon as they are answered; yields their numbers of answers."""
    answers: Counter[int] = Counter()
    stop = threading.Event()

    def type_on(annotator: int) -> None:
        while not stop.is_set():
            ask(queue, sha256, f"{expression} {annotator} {answers[annotator]}")
            answers[annotator] += 1

    with ThreadPoolExecutor(count) as pool:
        for annotator in range(count):
            pool.submit(type_on, annotator)
        try:
            yield answers
        finally:
            stop.set()


def test_the_oldest_request_of_its_class_is_always_the_next(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    """Six annotators want more than one worker gives: each gets the same."""
    start_worker(FAKE_WORKER_QUEUES="interactive")
    sha256 = put(queue, "photo")
    ask(queue, sha256, "first")
    with typing(queue, sha256, 6, "sleep 0.1") as answers:
        await_state(lambda: answers.total() >= 60, "they are not answered", 60)
        counts = [answers[annotator] for annotator in range(6)]
    assert max(counts) - min(counts) <= 2, counts


def test_an_annotator_is_answered_although_nothing_can_be_kept(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    start_worker(FAKE_WORKER_QUEUES="interactive")
    sha256 = put(queue, "unkept photo")
    for expression in ("the cat", "the dog"):
        assert ask(queue, sha256, expression) == expression
    assert "segment the dog" in log_of(valkey)


def test_pressing_enter_again_keeps_the_place(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    start_worker(FAKE_WORKER_QUEUES="interactive")
    sha256 = put(queue, "photo")
    ask(queue, sha256, "first")
    request = SegmentRequest(image_sha256=sha256, expression="again", k=1)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, queue, sha256, "sleep 2 busy")]
        await_state(lambda: "segment sleep 2 busy" in log_of(valkey), "the worker is not busy")
        superseded = pool.submit(queue.segment, request, "1:1", Call())
        await_state(lambda: count_queued(valkey) == 1, "it does not wait")
        answers.append(pool.submit(ask, queue, sha256, "behind"))
        await_state(lambda: count_queued(valkey) == 2, "it does not wait")
        answers.append(pool.submit(queue.segment, request, "1:1", Call()))
        for answer in answers:
            answer.result(20)
        with pytest.raises(JobSuperseded):
            superseded.result(20)
    assert log_of(valkey)[2:] == ["segment again", "segment behind"]


def test_an_expression_waits_for_the_preparation_and_not_for_those_who_type(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    """A background worker pauses for annotators, but not while one waits for what it prepares."""
    for queues in ("interactive", "background"):
        start_worker(FAKE_WORKER_QUEUES=queues, FAKE_WORKER_SHARES="yes")
    sha256, slow = put(queue, "photo"), put(queue, "slow photo")
    ask(queue, sha256, "first")
    with typing(queue, sha256, 3, "sleep 0.3") as answers:
        await_state(lambda: answers.total() > 0, "nobody is answered")
        queue.prepare(PrepareRequest(image_sha256=slow))
        await_state(lambda: f"prepare {slow[:8]}" in log_of(valkey, "prepare"), "not begun")
        assert ask(queue, slow, "the cat") == "the cat"
    assert log_of(valkey, "prepare").count(f"prepare {slow[:8]}") == 1


def test_a_preparation_that_waits_is_done_at_the_priority_of_who_waits_for_it(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    sha256 = put(queue, "photo")
    queue.prepare(PrepareRequest(image_sha256=sha256))
    assert queue.get_depths()[QUEUE_BACKGROUND] == 1
    leaving = Call()
    with ThreadPoolExecutor(2) as pool:
        left = pool.submit(ask, queue, sha256, "the dog", leaving)
        await_state(lambda: queue.get_depths()[QUEUE_INTERACTIVE] == 1, "it does not move")
        assert queue.get_depths()[QUEUE_BACKGROUND] == 0
        leaving.disconnected.set()
        with pytest.raises(CallAbandoned):
            left.result(20)
        depths = queue.get_depths()
        assert (depths[QUEUE_INTERACTIVE], depths[QUEUE_BACKGROUND]) == (0, 1), "it moves back"
        answer = pool.submit(ask, queue, sha256, "the cat")
        start_worker(FAKE_WORKER_QUEUES="interactive")
        assert answer.result(30) == "the cat"
    assert log_of(valkey, "prepare", "segment") == [f"prepare {sha256[:8]}", "segment the cat"]


def test_two_annotators_who_wait_for_one_photo_have_it_prepared_once(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    for _ in range(2):
        start_worker(FAKE_WORKER_QUEUES="interactive", FAKE_WORKER_SHARES="yes")
    slow = put(queue, "slow photo")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, queue, slow, f"cat {n}") for n in range(4)]
        assert sorted(answer.result(30) for answer in answers) == [f"cat {n}" for n in range(4)]
    assert log_of(valkey, "prepare") == [f"prepare {slow[:8]}"]


def test_workers_that_share_no_cache_answer_too(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    for _ in range(2):
        start_worker()
    sha256 = put(queue, "photo")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, queue, sha256, f"sleep 0.1 {n}") for n in range(12)]
        for answer in answers:
            answer.result(30)
    assert log_of(valkey, "prepare").count(f"prepare {sha256[:8]}") >= 1


def test_an_overload_of_quick_expressions_does_not_starve_the_others(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    start_worker(FAKE_WORKER_QUEUES="interactive")
    sha256, unseen = put(queue, "photo"), put(queue, "unseen photo")
    ask(queue, sha256, "first")
    looking = SegmentRequest(
        image_sha256=unseen, expression="the cat", k=1, accepts_first_look=True
    )
    with typing(queue, sha256, 3, "sleep 0.2") as answers:
        await_state(lambda: answers.total() > 0, "nobody is answered")
        assert queue.segment(looking, None, Call()).is_first_look


def test_a_prepared_photo_that_a_worker_has_lost_is_prepared_again(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    sha256 = put(queue, "photo")
    first = start_worker()
    ask(queue, sha256, "the cat")
    first.terminate()
    first.wait(20)
    # Its cache is another one; the queue still says that the photo is prepared.
    start_worker()
    assert ask(queue, sha256, "the dog") == "the dog"
    assert log_of(valkey, "prepare", "segment") == [
        f"prepare {sha256[:8]}", "segment the cat", f"prepare {sha256[:8]}", "segment the dog",
    ]  # fmt: skip
    proposed = queue.propose(
        ProposeRequest(image_sha256=sha256, count=1, confidence_min=0.5), Call(), 20
    )
    assert len(proposed.pairs) == 1


def test_two_backends_on_one_queue_do_not_replace_each_others_requests(
    start_worker: Start, valkey: Valkey
) -> None:
    """With databases of their own they number their projects, tasks and requests alike."""
    start_worker()
    backends = [JobQueue(valkey.url, deadline_s=30) for _ in range(2)]
    sha256 = put(backends[0], "photo")
    with ThreadPoolExecutor(2) as pool:
        answers = []
        for number, backend in enumerate(backends):
            request = SegmentRequest(image_sha256=sha256, expression=f"sleep 1 {number}", k=1)
            answers.append(pool.submit(backend.segment, request, "1.1:5:field", Call()))
        assert [answer.result(20).expression for answer in answers] == ["sleep 1 0", "sleep 1 1"]
    for backend in backends:
        backend.close()


def test_two_tasks_with_one_photo_get_the_same_proposals(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    sha256 = put(queue, "slow photo")
    start_worker()
    request = ProposeRequest(image_sha256=sha256, count=2, confidence_min=0.0)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(queue.propose, request, Call(), 30) for _ in range(2)]
        assert both[0].result() == both[1].result()


def test_a_worker_that_ends_while_an_expression_waits_for_its_photo(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    ending = start_worker(FAKE_WORKER_QUEUES="background")
    slow = put(queue, "slow photo")
    queue.prepare(PrepareRequest(image_sha256=slow))
    await_state(lambda: bool(log_of(valkey, "prepare")), "it is not being prepared")
    start_worker(FAKE_WORKER_QUEUES="interactive")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, queue, slow, "the cat")
        await_state(lambda: has_waiter(valkey), "nobody waits")
        ending.kill()
        assert answer.result(30) == "the cat"


def test_a_job_for_which_the_queue_was_away_is_done_again(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    start_worker()
    assert ask(queue, put(queue, "photo"), "away cat") == "away cat"
    assert log_of(valkey) == ["segment away cat"] * 2


@KEEPS_DATA
@pytest.mark.parametrize("away_s", [0.0, 4.0])
def test_a_queue_that_is_killed_in_mid_job_and_comes_back_with_its_data(
    queue: JobQueue, start_worker: Start, valkey: Valkey, away_s: float
) -> None:
    """The annotator gets the answer, and the worker lives on; the job may end while it is away."""
    worker = start_worker()
    sha256 = put(queue, "photo")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, queue, sha256, "sleep 2 cat")
        await_state(lambda: "segment sleep 2 cat" in log_of(valkey), "the job has not begun")
        valkey.stop()
        time.sleep(away_s)
        valkey.start()
        assert answer.result(40) == "sleep 2 cat"
    assert ask(queue, sha256, "the dog") == "the dog"
    assert worker.poll() is None
    with redis.Redis.from_url(valkey.url) as connection:
        for name in (QUEUE_PREPARED, QUEUE_INTERACTIVE):
            started = StartedJobRegistry(name, connection=connection, serializer=JSONSerializer)
            await_state(lambda s=started: s.get_job_count(cleanup=False) == 0, "a job is left", 40)
        assert connection.keys("saymask:attempts:*") == [], "the photo is not to blame"


@KEEPS_DATA
def test_a_preparation_nobody_waits_for_outlives_worker_and_queue(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    sha256 = put(queue, "slow photo")
    worker = start_worker()
    queue.prepare(PrepareRequest(image_sha256=sha256))
    await_state(lambda: bool(log_of(valkey, "prepare")), "it has not begun")
    worker.kill()
    valkey.stop()
    valkey.start()
    start_worker()
    await_state(lambda: queue.get_prepare_counts().prepared == 1, "it is not done", 60)


@KEEPS_DATA
def test_a_queue_that_hangs_for_longer_than_all_timeouts(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    """The annotator is told; worker and backend go on when it does, and nothing is left behind."""
    worker = start_worker()
    sha256 = put(queue, "photo")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, queue, sha256, "sleep 2 cat")
        await_state(lambda: "segment sleep 2 cat" in log_of(valkey), "the job has not begun")
        valkey.signal(signal.SIGSTOP)
        try:
            with pytest.raises(QueueUnavailable):
                answer.result(30)
            # Longer than the worker's own timeout.
            time.sleep(10)
        finally:
            valkey.signal(signal.SIGCONT)
        assert ask(queue, sha256, "sleep 2 cat") == "sleep 2 cat"
    assert ask(queue, sha256, "the dog") == "the dog"
    assert worker.poll() is None
    with redis.Redis.from_url(valkey.url) as connection:
        await_state(lambda: connection.keys(ANSWERING_KEY.format(host="*")) == [], "it is marked")
    await_state(lambda: count_queued(valkey) == 0, "a job is left")


def test_a_queue_that_hangs_is_asked_once() -> None:
    """So one timeout is the longest that anybody waits before being told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        queue = JobQueue(url, deadline_s=30, timeout_s=0.5)
        with pytest.raises(QueueUnavailable):
            queue.has_image("a" * 64)
        listener.settimeout(1.0)
        listener.accept()[0].close()
        with pytest.raises(TimeoutError):
            listener.accept()
        queue.close()


def test_a_worker_is_told_to_end_while_the_queue_is_away(
    queue: JobQueue, start_worker: Start, valkey: Valkey
) -> None:
    idle, orphaned = start_worker(), start_worker()
    idle.terminate()
    assert idle.wait(20) == 0
    valkey.stop()
    orphaned.terminate()
    assert orphaned.wait(60) == 0
    with pytest.raises(QueueError):
        queue.has_image("a" * 64)


def test_a_preparation_may_pause_for_longer_than_an_answer_may_take(
    queue: JobQueue, start_worker: Start, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Annotators who type without end keep a background worker from its photo, not for ever."""
    monkeypatch.setattr("saymask_backend.queue.jobs._JOB_TIMEOUT_S", 3)
    for queues in ("interactive", "background"):
        start_worker(FAKE_WORKER_QUEUES=queues, FAKE_WORKER_SHARES="yes")
    sha256, slow = put(queue, "photo"), put(queue, "slow photo")
    ask(queue, sha256, "first")
    with typing(queue, sha256, 3, "sleep 0.3") as answers:
        job_id = queue.prepare(PrepareRequest(image_sha256=slow))
        await_state(lambda: f"prepare {slow[:8]}" in log_of(valkey, "prepare"), "not begun")
        begun = answers.total()
        await_state(lambda: answers.total() >= begun + 15, "they are not answered", 30)
        assert queue.read_prepared(job_id) is None, "it still pauses"
    await_state(lambda: queue.read_prepared(job_id) is not None, "it was given up")
    reply = queue.read_prepared(job_id)
    assert reply is not None
    assert reply.failure is None
