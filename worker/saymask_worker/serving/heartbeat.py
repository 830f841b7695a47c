"""Telling the backend at short intervals that this worker is alive, and what it is."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Self

import psutil
import redis

from saymask.contract import HEARTBEAT_INTERVAL_S, HEARTBEAT_TTL_S, WORKER_KEY, WorkerStatus
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.serving.rq_worker import RunningWorker

log = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 5


class Heartbeat:
    """A thread that stores the worker's status in Redis, and at its end removes it."""

    def __init__(
        self, connection: redis.Redis, settings: WorkerSettings, running: RunningWorker
    ) -> None:
        self._redis = connection
        self._key = WORKER_KEY.format(name=running.name)
        self._settings = settings
        self._running = running
        self._process = psutil.Process()
        self._started_at = time.time()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def wake(self) -> None:
        """Send the status now: it has changed."""
        self._wake.set()

    def __exit__(self, *_error: object) -> None:
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
                # A source of candidates may be another package's: whatever its fingerprint raises,
                # a worker without heartbeats would look dead for good.
                log.exception("no heartbeat")
            self._wake.wait(HEARTBEAT_INTERVAL_S)
            self._wake.clear()
            if self._stop.is_set():
                return

    def _build_status(self) -> WorkerStatus:
        running = self._running
        status = WorkerStatus(
            name=running.name,
            pid=os.getpid(),
            host=socket.gethostname(),
            state="loading",
            model_version="",
            encoder=self._settings.encoder_name,
            proposals=self._settings.generator,
            device=self._settings.device,
            started_at=self._started_at,
            rss_mb=self._process.memory_info().rss / 1e6,
            jobs_done=running.jobs_done,
            queues=self._settings.queues,
        )
        if not running.is_ready:
            return status
        worker = running.rq_worker
        is_busy = worker is not None and worker.get_current_job_id() is not None
        described = running.pipeline.describe() if running.pipeline else {}
        return status.model_copy(update={**described, "state": "busy" if is_busy else "idle"})
