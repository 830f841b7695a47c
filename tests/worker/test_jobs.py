"""The jobs of one worker and of several: annotators come first. Real Valkey."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import redis

from saymask.contract import ANSWERING_KEY, IMAGE_KEY, SegmentResult, Timings
from saymask_worker.images.types import EncodedImage, PreparedImage
from saymask_worker.serving.jobs import JobHandler
from saymask_worker.serving.loaded_pipeline import LoadedPipeline
from saymask_worker.serving.other_workers import interactive_section, wait_for_interactive
from saymask_worker.serving.sessions import ImageSessions, count_bytes
from tests.conftest import Valkey
from tests.worker.scenes import prepared_image

DATA = b"image"
SHA256 = hashlib.sha256(DATA).hexdigest()


class CountingPipeline:
    """Finds some images in its cache, prepares the others, and answers with nothing."""

    model_version, encoder_description, device, cache = "v", "none", "cpu", None

    def __init__(self, *cached: str) -> None:
        self.loaded: list[str] = []
        self._cached = cached

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        self.loaded.append(sha256)
        return replace(prepared_image(), sha256=sha256) if sha256 in self._cached else None

    def prepare(self, data: bytes) -> tuple[PreparedImage, Timings]:
        sha256 = hashlib.sha256(data).hexdigest()
        return replace(prepared_image(), sha256=sha256), Timings()

    def look_first(self, data: bytes) -> tuple[PreparedImage, Timings] | None:
        return None

    def segment(
        self,
        prepared: PreparedImage,
        expression: str,
        k: int,
        *,
        preparation: Timings | None,
        encoded: EncodedImage | None = None,
    ) -> SegmentResult:
        return SegmentResult(
            image_sha256=prepared.sha256, expression=expression, size_hw=(60, 200), candidates=(),
            head_noun_phrase=None, proposals_count=k, model_version="v",
            from_cache=preparation is None, is_first_look=prepared.is_first_look, timings=Timings(),
        )  # fmt: skip


@pytest.fixture
def connection(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.set(IMAGE_KEY.format(sha256=SHA256), DATA)
        yield client


def build_handler(
    pipeline: CountingPipeline, connection: redis.Redis, name: str, max_bytes: int = 10**9
) -> JobHandler:
    served: Any = pipeline
    loaded = LoadedPipeline(lambda: served, 0, lambda: None)
    return JobHandler(loaded, connection, name, ImageSessions(max_bytes))


def segment(sha256: str, expression: str = "the cat") -> dict[str, object]:
    return {"photo_sha256": sha256, "expression": expression, "k": 3}


def test_preparing_stops_between_batches_while_an_annotator_is_answered(
    connection: redis.Redis,
) -> None:
    between_batches = partial(wait_for_interactive, connection)
    done: list[int] = []
    with interactive_section(connection, "living"):
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
    handler = build_handler(CountingPipeline(), connection, "living")
    good = handler.prepare({"photo_sha256": SHA256})
    assert good["failure"] is None
    bad = handler.prepare({"photo_sha256": "f" * 64})
    assert "no longer" in bad["failure"]["cause"]
    counts = connection.hgetall("saymask:prepared")
    assert (counts[b"prepared"], counts[b"failed"]) == (b"1", b"1")
    assert b"no longer" in counts[b"last_failure"]


class FullDiskPipeline(CountingPipeline):
    """Prepares, and cannot keep what it prepared."""

    def prepare(self, data: bytes) -> tuple[PreparedImage, Timings]:
        prepared, timings = super().prepare(data)
        return replace(prepared, not_kept=("The disk is full.", "Make room.")), timings


def test_what_could_not_be_kept_is_not_prepared(connection: redis.Redis) -> None:
    handler = build_handler(FullDiskPipeline(), connection, "living")
    reply = handler.prepare({"photo_sha256": SHA256})
    assert reply["failure"] == {
        "code": "PreparedNotKept", "cause": "The disk is full.", "cure": "Make room.",
    }  # fmt: skip
    counts = connection.hgetall("saymask:prepared")
    assert counts == {b"failed": b"1", b"last_failure": b"The disk is full."}
    # Somebody who waits is answered all the same.
    answer = handler.segment(segment(SHA256) | {"prepares": True})
    assert answer["segment"]["proposals_count"] == 3


def test_images_of_open_tasks_are_read_once(connection: redis.Redis) -> None:
    a, b, c = ("a" * 64, "b" * 64, "c" * 64)
    pipeline = CountingPipeline(a, b, c)
    room = int(2.5 * count_bytes(prepared_image()))
    handler = build_handler(pipeline, connection, "living", room)
    for sha256 in (a, b, a, b, a, c, a, b):
        reply = handler.segment(segment(sha256))
        assert reply["segment"]["photo_sha256"] == sha256
        assert reply["segment"]["from_cache"]
    assert pipeline.loaded == [a, b, c, b], "the least recently used goes first"


def test_a_damaged_image_or_message_is_a_failure_with_a_cure(connection: redis.Redis) -> None:
    handler = build_handler(CountingPipeline(), connection, "living")
    connection.set(IMAGE_KEY.format(sha256="e" * 64), b"something else")
    damaged = handler.segment(segment("e" * 64) | {"prepares": True})["failure"]
    assert (damaged["code"], "damaged" in damaged["cause"]) == ("PhotoUnreachable", True)
    unknown = handler.segment({"sentence": "the cat"})["failure"]
    assert "unknown shape" in unknown["cause"]
    assert "same saymask version" in unknown["cure"]


class SlowPipeline(CountingPipeline):
    """Prepares when it is let, into a cache that several of it share."""

    def __init__(self, cache: set[str], *, is_let: bool) -> None:
        super().__init__()
        self._shared = cache
        self.begun, self.let, self.preparations = threading.Event(), threading.Event(), 0
        if is_let:
            self.let.set()

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        return replace(prepared_image(), sha256=sha256) if sha256 in self._shared else None

    def prepare(self, data: bytes) -> tuple[PreparedImage, Timings]:
        self.preparations += 1
        self.begun.set()
        assert self.let.wait(20)
        prepared, timings = super().prepare(data)
        self._shared.add(prepared.sha256)
        return prepared, timings


def test_a_worker_without_the_prepared_image_says_so_unless_it_is_to_prepare_it(
    connection: redis.Redis,
) -> None:
    pipeline = SlowPipeline(set(), is_let=True)
    handler = build_handler(pipeline, connection, "living")
    propose = {"photo_sha256": SHA256, "count": 1, "confidence_min": 0.5}
    for reply in (handler.segment(segment(SHA256)), handler.propose(propose)):
        assert reply["failure"]["code"] == "PhotoNotPrepared"
    assert pipeline.preparations == 0
    assert handler.segment(segment(SHA256) | {"prepares": True})["failure"] is None
    assert pipeline.preparations == 1
    assert handler.segment(segment(SHA256))["segment"]["from_cache"]


def test_a_bug_is_a_failure_and_a_queue_that_is_away_is_not(connection: redis.Redis) -> None:
    """RQ does a job again that ends in an exception; with a bug that would end the same way."""

    class BrokenPipeline(CountingPipeline):
        error: Exception = KeyError("x")

        def load_prepared(self, sha256: str) -> PreparedImage | None:
            raise self.error

    pipeline = BrokenPipeline()
    handler = build_handler(pipeline, connection, "living")
    assert "KeyError: 'x'" in handler.segment(segment(SHA256))["failure"]["cause"]
    pipeline.error = redis.ConnectionError("away")
    with pytest.raises(redis.ConnectionError):
        handler.segment(segment(SHA256))


class LookingPipeline(SlowPipeline):
    """Looks first, and counts how often."""

    looks = 0

    def look_first(self, data: bytes) -> tuple[PreparedImage, Timings] | None:
        self.looks += 1
        sha256 = hashlib.sha256(data).hexdigest()
        prepared = replace(prepared_image(), sha256=sha256, is_first_look=True)
        return prepared, Timings()


def test_an_image_is_looked_at_until_it_is_prepared(connection: redis.Redis) -> None:
    cache: set[str] = set()
    pipeline = LookingPipeline(cache, is_let=True)
    handler = build_handler(pipeline, connection, "living")

    def ask(expression: str, *, accepts: bool = True) -> dict[str, object]:
        message = segment(SHA256, expression) | {"accepts_first_look": accepts}
        answer: dict[str, object] = handler.segment(message)["segment"]
        return answer

    assert [ask(text)["is_first_look"] for text in ("the cat", "the dog")] == [True, True]
    assert (pipeline.looks, pipeline.preparations) == (1, 0)
    # Meanwhile a background worker has prepared it.
    cache.add(SHA256)
    full = ask("the cat")
    assert (full["is_first_look"], full["from_cache"]) == (False, True)
    # Where a first look is not enough, the image is prepared.
    cache.clear()
    other = build_handler(pipeline, connection, "other")
    assert not other.segment(segment(SHA256) | {"prepares": True})["segment"]["is_first_look"]
    assert (pipeline.looks, pipeline.preparations) == (1, 1)


def test_a_first_look_does_not_wait_for_who_prepares_the_image(connection: redis.Redis) -> None:
    slow = SlowPipeline(set(), is_let=False)
    background = build_handler(slow, connection, "background")
    preparing = threading.Thread(target=background.prepare, args=({"photo_sha256": SHA256},))
    preparing.start()
    assert slow.begun.wait(10)
    pipeline = LookingPipeline(set(), is_let=True)
    handler = build_handler(pipeline, connection, "interactive")
    reply = handler.segment(segment(SHA256) | {"accepts_first_look": True})
    assert reply["segment"]["is_first_look"]
    slow.let.set()
    preparing.join(10)
