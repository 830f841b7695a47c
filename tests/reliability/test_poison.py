"""An image or expression that ends workers is given up alone, visibly; all others go on."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from fastapi.testclient import TestClient

from saymask.contract import ATTEMPTS_KEY
from saymask.left_out import LeftOut
from saymask_backend.label_studio.images import ImageFetcher
from saymask_backend.label_studio.predict_request import PredictTask
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.services.prepare import prepare_images
from saymask_backend.services.upload_image import ImageUploader
from tests.backend.http import KEY, ImageServer, typed
from tests.conftest import Valkey, log_of

Build = Callable[..., TestClient]
Start = Callable[..., "subprocess.Popen[bytes]"]


@contextmanager
def supervised(start_worker: Start) -> Iterator[list[int]]:
    """A worker that is started again whenever it ends, as every supervisor does."""
    ended: list[int] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            process = start_worker()
            while process.poll() is None and not stop.is_set():
                time.sleep(0.05)
            if not stop.is_set():
                ended.append(process.returncode)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ended
    finally:
        stop.set()
        thread.join()


def notices(answer: Any) -> str:
    return json.dumps(answer.json())


def test_a_poison_image_ends_two_workers_and_no_third(
    build_client: Build, start_worker: Start, valkey: Valkey
) -> None:
    client = build_client()
    with supervised(start_worker) as ended:
        for expression in ("the cat", "the dog", "the cat", "a tree"):
            answer = client.post("/predict", json=typed(expression, "/data/poison.png", task=1))
            assert "workers ended" in notices(answer), answer.text
            fine = client.post("/predict", json=typed(expression, "/data/fine.png", task=2))
            assert fine.status_code == 200
    assert ended == [-9, -9]


def test_preparing_a_project_goes_on_past_a_poison_image(
    start_worker: Start, valkey: Valkey, photos: ImageServer
) -> None:
    queue = JobQueue(valkey.url, deadline_s=60)
    fetcher = ImageFetcher(photos.url, KEY, (), 10**6, 5.0)
    failed = LeftOut()
    tasks = [
        PredictTask(number, f"/data/{name}.png")
        for number, name in enumerate(["one", "poison", "two", "three", "four", "five"])
    ]
    with supervised(start_worker) as ended:
        images = ImageUploader(fetcher, queue)
        prepared = prepare_images(queue, images, tasks, failed, lambda _done, _all: None)
    (line,) = failed.lines
    assert line.startswith("task 1: ")
    assert "workers ended" in line
    assert prepared == 5
    assert ended == [-9, -9]
    counts = queue.get_prepare_counts()
    assert (counts.prepared, counts.failed) == (5, 1)
    queue.close()


def test_a_worker_that_is_stopped_for_an_update_counts_nothing(
    build_client: Build, start_worker: Start, valkey: Valkey
) -> None:
    """SIGTERM lets the job end; its image is not blamed."""
    client = build_client()
    for _ in range(3):
        process = start_worker()
        asked = threading.Thread(
            target=client.post, args=("/predict",), kwargs={"json": typed("sleep 1 cat")}
        )
        asked.start()
        deadline = time.monotonic() + 20
        while not log_of(valkey):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        asked.join()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with redis.Redis.from_url(valkey.url) as connection:
            assert not list(connection.scan_iter(ATTEMPTS_KEY.format(sha256="*")))
            connection.flushall()
