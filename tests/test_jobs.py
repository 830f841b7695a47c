"""Workers beside each other: people go first. Real Valkey."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import redis

from backend.contract import ANSWERING_KEY, PHOTO_KEY
from tests.conftest import Valkey
from tests.test_worker_parts import prepared_image
from worker import courtesy, jobs
from worker.pipeline import PreparationTimings
from worker.stages import PreparedImage

DATA = b"photo"
SHA256 = hashlib.sha256(DATA).hexdigest()


class Quick:
    """Prepares at once."""

    model_version = "v"

    def load_prepared(self, _sha256: str) -> None:
        return None

    def prepare(self, _data: bytes) -> tuple[PreparedImage, PreparationTimings]:
        return replace(prepared_image(), sha256=SHA256), PreparationTimings()


@pytest.fixture
def connection(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.set(PHOTO_KEY.format(sha256=SHA256), DATA)
        monkeypatch.setattr(jobs, "_connection", lambda: client)
        monkeypatch.setattr(jobs, "_worker_name", lambda: "living")
        yield client


def test_preparing_stops_between_batches_while_somebody_is_answered(
    connection: redis.Redis,
) -> None:
    courtesy.install(partial(jobs.give_way, connection))
    try:
        done: list[int] = []
        with jobs._answering():
            waiting = threading.Thread(target=lambda: (courtesy.between_batches(), done.append(1)))
            waiting.start()
            time.sleep(0.3)
            assert done == []
        waiting.join(5)
        assert done == [1]
        # A worker that was killed while it answered blocks nobody for good.
        key = ANSWERING_KEY.format(host=socket.gethostname())
        connection.zadd(key, {"killed": time.time() + 0.2})
        started = time.monotonic()
        courtesy.between_batches()
        assert 0.1 < time.monotonic() - started < 5
    finally:
        courtesy.install(None)
    courtesy.between_batches()


def test_failures_of_photos_prepared_ahead_are_counted(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_pipeline", Quick())
    good = jobs.prepare({"photo_sha256": SHA256})
    assert good["failure"] is None
    bad = jobs.prepare({"photo_sha256": "f" * 64})
    assert "no longer" in bad["failure"]["cause"]
    counts = connection.hgetall("saymask:prepared")
    assert (counts[b"prepared"], counts[b"failed"]) == (b"1", b"1")
    assert b"no longer" in counts[b"last_failure"]
