"""Telling the backend at short intervals that this worker is alive, and what it is."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass

import psutil
import redis

from saymask.contract import HEARTBEAT_INTERVAL_S, HEARTBEAT_TTL_S, WORKER_KEY, WorkerStatus
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.serving.jobs import AnswersJobs
from saymask_worker.serving.rq_worker import ServingWorker
from saymask_worker.serving.served_pipeline import ServedPipeline

log = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 5


@dataclass
class WorkerState:
    """What a worker process has so far; each part is None until it exists.

    A worker without ``pipeline`` loads models for each job.
    """

    pipeline: ServedPipeline | None = None
    handler: AnswersJobs | None = None
    rq_worker: ServingWorker | None = None


class Heartbeat:
    """A thread that stores the worker's status in Redis.

    Args:
        connection: of the queue's Redis.
        name: of the worker.
        settings: of the worker.
        state: filled by the process while it starts.
    """

    def __init__(
        self, connection: redis.Redis, name: str, settings: WorkerSettings, state: WorkerState
    ) -> None:
        self._redis = connection
        self._key = WORKER_KEY.format(name=name)
        self._name = name
        self._settings = settings
        self._state = state
        self._process = psutil.Process()
        self._started_at = time.time()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Send the status now: it has changed."""
        self._wake.set()

    def stop(self) -> None:
        """Stop the thread and remove the status."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=_JOIN_TIMEOUT_S)
        try:
            self._redis.delete(self._key)
        except redis.RedisError as error:
            log.warning("the worker's status could not be removed: %s", error)

    def _run(self) -> None:
        while True:
            try:
                status = self._build_status().model_dump_json()
                self._redis.set(self._key, status, px=int(HEARTBEAT_TTL_S * 1000))
            except redis.RedisError as error:
                log.warning("no heartbeat: %s", error)
            except Exception:
                # Without heartbeats a working worker would look dead for good.
                log.exception("no heartbeat")
            self._wake.wait(HEARTBEAT_INTERVAL_S)
            self._wake.clear()
            if self._stop.is_set():
                return

    def _build_status(self) -> WorkerStatus:
        pipeline, handler = self._state.pipeline, self._state.handler
        status = WorkerStatus(
            name=self._name,
            pid=os.getpid(),
            host=socket.gethostname(),
            state="loading",
            model_version="",
            encoder=self._settings.encoder_name,
            proposals=self._settings.generator,
            device=self._settings.device,
            started_at=self._started_at,
            rss_mb=self._process.memory_info().rss / 1e6,
            jobs_done=handler.jobs_done if handler else 0,
            queues=self._settings.queues,
        )
        if handler is None:
            return status
        described = _describe(pipeline) if pipeline else {}
        return status.model_copy(update={**described, "state": self._find_state()})

    def _find_state(self) -> str:
        worker = self._state.rq_worker
        is_busy = worker is not None and worker.get_current_job_id() is not None
        return "busy" if is_busy else "idle"


def _describe(pipeline: ServedPipeline) -> dict[str, object]:
    described: dict[str, object] = {
        "model_version": pipeline.model_version,
        "encoder": pipeline.encoder_description,
        "device": pipeline.device,
    }
    cache = pipeline.cache
    if cache is not None:
        entries, megabytes = cache.usage()
        described |= {
            "cache_entries": entries,
            "cache_mb": megabytes,
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
        }
    return described
