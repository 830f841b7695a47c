"""The worker process: load the models once, then serve the queue, interactive jobs first."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from functools import partial

import psutil
import redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from backend.contract import (
    QUEUE_BACKGROUND,
    QUEUE_INTERACTIVE,
    WORKER_BEAT_S,
    WORKER_KEY,
    WORKER_TTL_S,
    WorkerStatus,
)
from backend.errors import QueueUnavailable
from worker import courtesy, jobs
from worker.config import WorkerSettings
from worker.pipeline import Pipeline, build_pipeline, choose_device

log = logging.getLogger(__name__)

_RECONNECT_S = 2.0
_BACKGROUND_NICENESS = 10
_QUEUES = {
    "all": (QUEUE_INTERACTIVE, QUEUE_BACKGROUND),
    "interactive": (QUEUE_INTERACTIVE,),
    "background": (QUEUE_BACKGROUND,),
}


class _Heart:
    """Tells the backend every moment that this worker lives, and what it is."""

    def __init__(self, connection: redis.Redis, name: str, settings: WorkerSettings) -> None:
        self._redis = connection
        self._name = name
        self._settings = settings
        self._process = psutil.Process()
        self._started_at = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heart", daemon=True)
        self.pipeline: Pipeline | None = None
        self.worker: SimpleWorker | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        try:
            self._redis.delete(WORKER_KEY.format(name=self._name))
        except redis.RedisError as error:
            log.warning("could not say goodbye: %s", error)

    def _beat_on(self) -> None:
        while True:
            try:
                self._redis.set(
                    WORKER_KEY.format(name=self._name),
                    self._status().model_dump_json(),
                    px=int(WORKER_TTL_S * 1000),
                )
            except redis.RedisError as error:
                log.warning("no heartbeat: %s", error)
            except Exception:
                # A silent heart would make a working worker look dead for good.
                log.exception("no heartbeat")
            if self._stop.wait(WORKER_BEAT_S):
                return

    def _status(self) -> WorkerStatus:
        pipeline, worker = self.pipeline, self.worker
        cache = pipeline.cache if pipeline else None
        entries, megabytes = cache.usage() if cache else (0, 0.0)
        busy = worker is not None and worker.get_current_job_id() is not None
        return WorkerStatus(
            name=self._name,
            pid=os.getpid(),
            host=socket.gethostname(),
            state="loading" if pipeline is None else "busy" if busy else "idle",
            model_version=pipeline.model_version if pipeline else "",
            encoder=pipeline.encoder.description if pipeline else self._settings.encoder,
            proposals=self._settings.proposals,
            device=pipeline.device if pipeline else choose_device(self._settings.device),
            started_at=self._started_at,
            rss_mb=self._process.memory_info().rss / 1e6,
            jobs_done=jobs.count_done(),
            queues=self._settings.queues,
            cache_entries=entries,
            cache_mb=megabytes,
            cache_hits=cache.hits if cache else 0,
            cache_misses=cache.misses if cache else 0,
        )


def run_worker(settings: WorkerSettings, *, burst: bool = False) -> None:
    """Serve until told to stop (or, with ``burst``, until the queues are empty).

    Raises:
        QueueUnavailable: Redis cannot be reached at start.
        WeightsError, ConfigError: the models cannot be loaded.
    """
    try:
        connection = redis.Redis.from_url(
            settings.redis_url, socket_connect_timeout=5, health_check_interval=30
        )
        connection.ping()
    except (redis.RedisError, ValueError) as error:
        raise QueueUnavailable(
            f"The queue cannot be reached: {error}.",
            "Start Redis or Valkey, or set SAYMASK_REDIS_URL.",
        ) from error
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    heart = _Heart(connection, name, settings)
    heart.start()
    try:
        started = time.perf_counter()
        if settings.queues == "background":
            # Whoever waits for an answer gets the processor.
            os.nice(_BACKGROUND_NICENESS)
            courtesy.install(partial(jobs.give_way, connection))
        pipeline = build_pipeline(settings)
        if settings.proposals != "given":
            pipeline.warm_up()
        jobs.install_pipeline(pipeline)
        heart.pipeline = pipeline
        log.info("ready after %.1f s as %s", time.perf_counter() - started, pipeline.model_version)
        _serve(connection, name, heart, _QUEUES[settings.queues], burst=burst)
    finally:
        heart.stop()


def _serve(
    connection: redis.Redis, name: str, heart: _Heart, queues: tuple[str, ...], *, burst: bool
) -> None:
    """Work until told to stop; when Redis goes away, wait for it and go on."""
    while True:
        worker = _build_rq_worker(connection, name, queues)
        heart.worker = worker
        try:
            worker.work(burst=burst, with_scheduler=False, logging_level="WARNING")
            if burst or worker._stop_requested:
                return
            log.warning("the queue went away; trying again in %g s", _RECONNECT_S)
        except redis.RedisError as error:
            log.warning("the queue went away (%s); trying again in %g s", error, _RECONNECT_S)
        time.sleep(_RECONNECT_S)


def _build_rq_worker(connection: redis.Redis, name: str, queues: tuple[str, ...]) -> SimpleWorker:
    listened = [Queue(queue, connection=connection, serializer=JSONSerializer) for queue in queues]
    # SimpleWorker runs jobs in this process, where the models are.
    return SimpleWorker(listened, connection=connection, name=name, serializer=JSONSerializer)
