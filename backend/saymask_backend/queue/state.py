"""The state of workers, prepared images and the newest training run, as Redis has it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import redis
from pydantic import ValidationError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from saymask.contract import (
    PREPARED_KEY,
    TRAINING_JOB_ID,
    TRAINING_META,
    WORKER_KEY_PATTERN,
    TrainingStatus,
    WorkerStatus,
)
from saymask.errors import QueueUnavailable
from saymask.redaction import explain

log = logging.getLogger(__name__)

REDIS_CURE = "Start Redis or Valkey, or correct SAYMASK_REDIS_URL."
_LAST_VERSION_KEY = "saymask:last-model-version"


@dataclass(frozen=True)
class PrepareCounts:
    """Images prepared in the background since the queue was created.

    ``last_failure`` is the cause of the newest failure, or empty.
    """

    prepared: int = 0
    failed: int = 0
    last_failure: str = ""


class QueueState:
    """Workers and counts, as Redis has them.

    Args:
        connection: of the queue's Redis.

    Every method raises ``QueueUnavailable`` when Redis cannot be reached.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    def list_workers(self) -> list[WorkerStatus]:
        """Return the workers whose heartbeat is recent, by name."""
        with redis_errors():
            return self._read_workers()

    def _read_workers(self) -> list[WorkerStatus]:
        keys = list(self._redis.scan_iter(WORKER_KEY_PATTERN, count=100))
        values = self._redis.mget(keys) if keys else []
        workers = [status for value in values if value and (status := _read(WorkerStatus, value))]
        return sorted(workers, key=lambda worker: worker.name)

    def has_worker(self, *, background: bool) -> bool:
        """Return whether a worker takes jobs of the background or the interactive queue."""
        return any(worker.serves(background=background) for worker in self.list_workers())

    def get_model_version(self) -> str:
        """Return the model version of a live worker, else the last one seen, else a placeholder."""
        for worker in self.list_workers():
            if worker.model_version:
                with redis_errors():
                    self._redis.set(_LAST_VERSION_KEY, worker.model_version)
                return worker.model_version
        with redis_errors():
            last = self._redis.get(_LAST_VERSION_KEY)
        return last.decode() if last else "saymask-worker-never-seen"

    def get_training_status(self) -> TrainingStatus | None:
        """Return how far the newest training run is, or None where there was none."""
        with redis_errors():
            job = self._fetch(TRAINING_JOB_ID)
        value = None if job is None else job.meta.get(TRAINING_META)
        return _read(TrainingStatus, json.dumps(value)) if value else None

    def _fetch(self, job_id: str) -> Job | None:
        try:
            return Job.fetch(job_id, connection=self._redis, serializer=JSONSerializer)
        except NoSuchJobError:
            return None

    def get_prepare_counts(self) -> PrepareCounts:
        """Return how many images were prepared in the background, and how many failed."""
        with redis_errors():
            counts: dict[bytes, bytes] = self._redis.hgetall(PREPARED_KEY)
        return PrepareCounts(
            prepared=int(counts.get(b"prepared", 0)),
            failed=int(counts.get(b"failed", 0)),
            last_failure=counts.get(b"last_failure", b"").decode(),
        )

    def count_prepare_failure(self, cause: str) -> None:
        """Count an image that could not even be sent to a worker."""
        with redis_errors():
            self._redis.hincrby(PREPARED_KEY, "failed", 1)
            self._redis.hset(PREPARED_KEY, "last_failure", cause)


Status = TypeVar("Status", WorkerStatus, TrainingStatus)


def _read(kind: type[Status], value: bytes | str) -> Status | None:
    """Parse a worker's status; that of another saymask version is ignored."""
    try:
        return kind.model_validate_json(value)
    except ValidationError as error:
        log.warning("ignoring a status of another version: %s", error)
        return None


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn every failure of Redis into a QueueUnavailable."""
    try:
        yield
    except redis.exceptions.LockError as error:
        raise QueueUnavailable("The queue is too busy to take the job.", "Try again.") from error
    except redis.exceptions.OutOfMemoryError as error:
        raise QueueUnavailable(
            "The queue's memory is full.",
            "Raise maxmemory of Redis or Valkey; photos leave it after half an hour.",
        ) from error
    except redis.exceptions.RedisError as error:
        raise QueueUnavailable(
            f"The queue cannot be reached: {explain(error)}.", REDIS_CURE
        ) from error
