"""Workers beside each other: one photo is prepared once, and people go first. Real Valkey."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from backend.contract import ANSWERING_KEY, PHOTO_KEY, PREPARING_KEY, WORKER_KEY
from tests.conftest import Valkey
from tests.test_worker_parts import prepared_image
from worker import jobs
from worker.pipeline import PreparationTimings
from worker.stages import PreparedImage

DATA = b"photo"
SHA256 = hashlib.sha256(DATA).hexdigest()


class Slow:
    """Prepares when it is let, and keeps what it prepared for everyone."""

    def __init__(self) -> None:
        self.kept: dict[str, PreparedImage] = {}
        self.prepared = 0
        self.started, self.go = threading.Event(), threading.Event()

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        return self.kept.get(sha256)

    def prepare(self, _data: bytes) -> tuple[PreparedImage, PreparationTimings]:
        self.prepared += 1
        self.started.set()
        assert self.go.wait(10)
        self.kept[SHA256] = replace(prepared_image(), sha256=SHA256)
        return self.kept[SHA256], PreparationTimings()


@pytest.fixture
def connection(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.set(PHOTO_KEY.format(sha256=SHA256), DATA)
        client.set(WORKER_KEY.format(name="living"), "yes")
        monkeypatch.setattr(jobs, "_connection", lambda: client)
        monkeypatch.setattr(jobs, "_worker_name", lambda: "living")
        yield client


def test_two_workers_prepare_a_photo_once(connection: redis.Redis) -> None:
    pipeline, found = Slow(), []

    def work() -> None:
        found.append(jobs._prepared(pipeline, SHA256))  # type: ignore[arg-type]

    first = threading.Thread(target=work)
    first.start()
    assert pipeline.started.wait(10)
    second = threading.Thread(target=work)
    second.start()
    time.sleep(0.2)
    assert second.is_alive(), "it waits for the other"
    pipeline.go.set()
    first.join(10)
    second.join(10)
    assert pipeline.prepared == 1
    assert sorted(timings is None for _, timings in found) == [False, True]
    assert not connection.exists(PREPARING_KEY.format(sha256=SHA256))


def test_a_worker_that_died_holds_nobody_up(connection: redis.Redis) -> None:
    connection.set(PREPARING_KEY.format(sha256=SHA256), "dead")
    pipeline = Slow()
    pipeline.go.set()
    jobs._prepared(pipeline, SHA256)  # type: ignore[arg-type]
    assert pipeline.prepared == 1


def test_photos_nobody_looks_at_wait_while_somebody_is_answered(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[float] = []
    with jobs._answering():
        waiting = threading.Thread(target=lambda: (jobs._let_people_go_first(), done.append(1)))
        waiting.start()
        time.sleep(0.2)
        assert done == []
        assert 0 < connection.ttl(ANSWERING_KEY) <= 30, "a killed worker blocks nobody for good"
    waiting.join(5)
    assert done == [1]
    connection.set(ANSWERING_KEY, "1")
    monkeypatch.setattr(jobs, "_ANSWERING_MAX_S", 0.1)
    jobs._let_people_go_first()


def test_failures_of_photos_prepared_ahead_are_counted(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline: Any = Slow()
    pipeline.go.set()
    pipeline.model_version = "v"
    monkeypatch.setattr(jobs, "_pipeline", pipeline)
    good = jobs.prepare({"photo_sha256": SHA256})
    assert good["failure"] is None
    bad = jobs.prepare({"photo_sha256": "f" * 64})
    assert "no longer" in bad["failure"]["cause"]
    counts = connection.hgetall("saymask:prepared")
    assert (counts[b"prepared"], counts[b"failed"]) == (b"1", b"1")
    assert b"no longer" in counts[b"last_failure"]
