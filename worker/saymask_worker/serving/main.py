"""Running a worker: of annotators' jobs, with models loaded once, or of training jobs."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from functools import partial

import redis
from pydantic import ValidationError
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer

from saymask.contract import (
    QUEUE_BACKGROUND,
    QUEUE_INTERACTIVE,
    QUEUE_PREPARED,
    QUEUE_TRAINING,
    WORKER_KEY_PATTERN,
    WorkerStatus,
)
from saymask.errors import QueueUnavailable, WorkerUnavailable
from saymask.redaction import explain
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.serving.heartbeat import Heartbeat
from saymask_worker.serving.jobs import JobHandler
from saymask_worker.serving.loaded_pipeline import LoadedPipeline, ServedPipeline
from saymask_worker.serving.other_workers import wait_for_interactive
from saymask_worker.serving.rq_worker import (
    JobFunctions,
    RunningWorker,
    ServingWorker,
    build_job_class,
)
from saymask_worker.serving.sessions import ImageSessions, choose_max_bytes
from saymask_worker.serving.training_jobs import (
    Learn,
    LearnCris,
    TrainingHandler,
    TrainingInterrupted,
    TrainingStopped,
)

log = logging.getLogger(__name__)

_RECONNECT_S = 2.0
_BACKGROUND_NICENESS, _TRAINING_NICENESS = 10, 15
_QUEUES = {
    "all": (QUEUE_PREPARED, QUEUE_INTERACTIVE, QUEUE_BACKGROUND),
    "interactive": (QUEUE_PREPARED, QUEUE_INTERACTIVE),
    "background": (QUEUE_BACKGROUND,),
}


BuildPipeline = Callable[[WorkerSettings, Callable[[], None]], ServedPipeline]
"""Loads the models; the second argument is called between batches and may wait."""
BuildLearn = Callable[[Callable[[], None]], Learn]
"""Takes what is called between two steps, which may wait and may raise."""


def run_worker(
    settings: WorkerSettings, build_pipeline: BuildPipeline, *, burst: bool = False
) -> None:
    """Serve until a signal stops it (or, with ``burst``, until the queues are empty).

    Raises:
        QueueUnavailable: Redis cannot be reached at start.
        WeightsError, ConfigError: the models cannot be loaded.
    """
    connection = connect(settings)
    running = RunningWorker(name_worker())
    with Heartbeat(connection, settings, running) as heartbeat:
        started = time.perf_counter()
        build = partial(_build_warm, settings, build_pipeline, _choose_yield(settings, connection))
        sessions = ImageSessions(choose_max_bytes(settings.open_photos_max_mb))
        pipeline = LoadedPipeline(build, settings.idle_unload_s, sessions.clear)
        running.pipeline, running.is_ready = pipeline, True
        heartbeat.wake()
        version = pipeline.describe()["model_version"]
        log.info("ready after %.1f s as %s", time.perf_counter() - started, version)
        functions = JobHandler(pipeline, connection, running.name, sessions).functions
        serve(connection, running, functions, _QUEUES[settings.queues], burst=burst)


def run_training_worker(
    settings: WorkerSettings,
    *,
    burst: bool = False,
    build_learn: BuildLearn | None = None,
    niceness: int = _TRAINING_NICENESS,
) -> None:
    """Serve the training queue until a signal stops it (or, with ``burst``, until it is empty).

    Raises:
        QueueUnavailable: Redis cannot be reached at start.
    """
    connection = connect(settings)
    running = RunningWorker(name_worker(), is_ready=True)
    os.nice(niceness)
    learn = (build_learn or partial(LearnCris, settings))(partial(_pause, connection, running))
    functions = TrainingHandler(settings, learn).functions
    with Heartbeat(connection, settings, running):
        log.info("ready to train")
        serve(connection, running, functions, (QUEUE_TRAINING,), burst=burst)


def _pause(connection: redis.Redis, running: RunningWorker) -> None:
    """Between two steps: stop if asked to, and give annotators the processor.

    Raises:
        TrainingInterrupted: the worker has to end.
        TrainingStopped: the backend asked for the run to stop.
    """
    worker = running.rq_worker
    if worker is not None and worker.is_told_to_end:
        raise TrainingInterrupted
    if worker is not None and worker.is_job_stopped:
        raise TrainingStopped("It was stopped.")
    try:
        wait_for_interactive(connection)
    except redis.RedisError as error:
        log.warning("the queue is away; training continues: %s", error)


def _build_warm(
    settings: WorkerSettings, build_pipeline: BuildPipeline, between_batches: Callable[[], None]
) -> ServedPipeline:
    pipeline = build_pipeline(settings, between_batches)
    if settings.generator != "given":
        pipeline.warm_up()
    return pipeline


def name_worker() -> str:
    """Return a name that no other worker has."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def connect(settings: WorkerSettings) -> redis.Redis:
    """Connect to the queue's Redis.

    Raises:
        QueueUnavailable: it cannot be reached.
    """
    try:
        connection = redis.Redis.from_url(
            settings.redis_url,
            socket_connect_timeout=5,
            # A queue that is restarted is back within this.
            retry=Retry(ConstantBackoff(1), 10),
            health_check_interval=30,
        )
        connection.ping()
    except (redis.RedisError, ValueError) as error:
        raise QueueUnavailable(
            f"The queue cannot be reached: {explain(error)}.",
            "Start Redis or Valkey, or set SAYMASK_REDIS_URL.",
        ) from error
    return connection


def _choose_yield(settings: WorkerSettings, connection: redis.Redis) -> Callable[[], None]:
    """What to do between batches: a background worker gives annotators the processor."""
    if settings.queues != "background":
        return lambda: None
    os.nice(_BACKGROUND_NICENESS)
    return partial(wait_for_interactive, connection)


def serve(
    connection: redis.Redis,
    running: RunningWorker,
    functions: JobFunctions,
    queues: tuple[str, ...],
    *,
    burst: bool,
) -> None:
    """Work for queues, the most urgent first, until a signal; survive an absence of Redis."""
    job_class = build_job_class(functions)
    # RQ's maintenance of the registries builds jobs of this class too.
    opened = [
        Queue(queue, connection=connection, serializer=JSONSerializer, job_class=job_class)
        for queue in queues
    ]
    worker: ServingWorker | None = None
    while worker is None or not worker.is_told_to_end:
        try:
            try:
                worker = ServingWorker(opened, connection, running, job_class)
                worker.work(burst=burst, with_scheduler=False, logging_level="WARNING")
                if burst or worker.is_told_to_end:
                    return
                log.warning("the queue went away; trying again in %g s", _RECONNECT_S)
            except redis.RedisError as error:
                log.warning(
                    "the queue went away (%s); trying again in %g s", explain(error), _RECONNECT_S
                )
            time.sleep(_RECONNECT_S)
        except StopRequested:
            # How RQ reacts to a signal between two jobs.
            return


def check_own_worker(settings: WorkerSettings) -> WorkerStatus:
    """Return the status of a worker of this machine whose models are loaded.

    Raises:
        QueueUnavailable: Redis cannot be reached.
        WorkerUnavailable: none has a recent heartbeat, or all still load their models.
    """
    connection = connect(settings)
    host = socket.gethostname()
    values = [connection.get(key) for key in connection.scan_iter(WORKER_KEY_PATTERN)]
    for status in (_read_status(value) for value in values if value):
        if status is not None and status.host == host and status.state != "loading":
            return status
    raise WorkerUnavailable(f"No worker of {host} serves the queue.", "See the worker's log.")


def _read_status(value: bytes) -> WorkerStatus | None:
    """Parse a heartbeat; one of another version says nothing about this machine's worker."""
    try:
        return WorkerStatus.model_validate_json(value)
    except ValidationError:
        return None
