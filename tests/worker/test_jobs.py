"""The jobs of a worker, and workers beside each other: annotators come first. Real Valkey."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import redis

from saymask.contract import ANSWERING_KEY, IMAGE_KEY, SegmentResult, Timings
from tests.conftest import Valkey
from tests.worker.scenes import prepared_image
from worker.pipeline.timing import PreparationTimings
from worker.serving.cooperative_yield import mark_answering, wait_while_answering
from worker.serving.jobs import JobHandler
from worker.stages import PreparedImage

DATA = b"image"
SHA256 = hashlib.sha256(DATA).hexdigest()


class CountingPipeline:
    """Finds some images in its cache, prepares the others, and answers with nothing."""

    model_version = "v"

    def __init__(self, *cached: str) -> None:
        self.loaded: list[str] = []
        self._cached = cached

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        self.loaded.append(sha256)
        return replace(prepared_image(), sha256=sha256) if sha256 in self._cached else None

    def prepare(self, data: bytes) -> tuple[PreparedImage, PreparationTimings]:
        sha256 = hashlib.sha256(data).hexdigest()
        return replace(prepared_image(), sha256=sha256), PreparationTimings()

    def segment(
        self,
        prepared: PreparedImage,
        expression: str,
        k: int,
        *,
        preparation: PreparationTimings | None,
        read_image: Callable[[], bytes] | None = None,
    ) -> SegmentResult:
        return SegmentResult(
            image_sha256=prepared.sha256, expression=expression, size_hw=(60, 200), candidates=(),
            head_noun_phrase=None, proposals_count=k, model_version="v",
            from_cache=preparation is None, timings=Timings(),
        )  # fmt: skip


@pytest.fixture
def connection(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.set(IMAGE_KEY.format(sha256=SHA256), DATA)
        yield client


def segment(sha256: str, expression: str = "the cat") -> dict[str, object]:
    return {"photo_sha256": sha256, "expression": expression, "k": 3}


def test_preparing_stops_between_batches_while_an_annotator_is_answered(
    connection: redis.Redis,
) -> None:
    between_batches = partial(wait_while_answering, connection)
    done: list[int] = []
    with mark_answering(connection, "living"):
        waiting = threading.Thread(target=lambda: (between_batches(), done.append(1)))
        waiting.start()
        waiting.join(0.3)
        assert done == []
    waiting.join(5)
    assert done == [1]
    # A worker that was killed while it answered does not block the others for good.
    key = ANSWERING_KEY.format(host=socket.gethostname())
    connection.zadd(key, {"killed": time.time() + 0.2})
    between_batches()
    assert connection.zcount(key, time.time(), "+inf") == 0
    connection.delete(key)
    between_batches()


def test_failures_of_images_prepared_in_the_background_are_counted(
    connection: redis.Redis,
) -> None:
    handler = JobHandler(CountingPipeline(), connection, "living")  # type: ignore[arg-type]
    good = handler.prepare({"photo_sha256": SHA256})
    assert good["failure"] is None
    bad = handler.prepare({"photo_sha256": "f" * 64})
    assert "no longer" in bad["failure"]["cause"]
    counts = connection.hgetall("saymask:prepared")
    assert (counts[b"prepared"], counts[b"failed"]) == (b"1", b"1")
    assert b"no longer" in counts[b"last_failure"]
    assert handler.jobs_done == 2


def test_images_of_open_tasks_are_read_once(connection: redis.Redis) -> None:
    a, b, c = ("a" * 64, "b" * 64, "c" * 64)
    pipeline = CountingPipeline(a, b, c)
    handler = JobHandler(pipeline, connection, "living")  # type: ignore[arg-type]
    for sha256 in (a, b, a, b, a, c, a, b):
        reply = handler.segment(segment(sha256))
        assert reply["segment"]["photo_sha256"] == sha256
        assert reply["segment"]["from_cache"]
    assert pipeline.loaded == [a, b, c, b], "the least recently used goes first"


def test_a_damaged_image_or_message_is_a_failure_with_a_cure(connection: redis.Redis) -> None:
    handler = JobHandler(CountingPipeline(), connection, "living")  # type: ignore[arg-type]
    connection.set(IMAGE_KEY.format(sha256="e" * 64), b"something else")
    damaged = handler.segment(segment("e" * 64))["failure"]
    assert (damaged["code"], "damaged" in damaged["cause"]) == ("PhotoUnreachable", True)
    unknown = handler.segment({"sentence": "the cat"})["failure"]
    assert "unknown shape" in unknown["cause"]
    assert "same saymask version" in unknown["cure"]
