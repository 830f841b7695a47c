"""A worker of the training queue: no models while it waits, the lowest priority while it works."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial

import redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from saymask.contract import (
    HEARTBEAT_TTL_S,
    QUEUE_TRAINING,
    TRAINING_KEY,
    TRAINING_STOP_KEY,
    WORKER_KEY,
    TrainingStatus,
)
from worker.retraining.job import (
    Learn,
    LearnCris,
    TrainingHandler,
    TrainingInterrupted,
    TrainingStopped,
)
from worker.serving.cooperative_yield import wait_while_answering
from worker.serving.heartbeat import Heartbeat, WorkerState
from worker.serving.main import connect, name_worker, serve
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_NICENESS = 15
_POLL_S = 0.5
_RESUME_LOCK = "saymask:training-resume"
_RESUME_LOCK_S = 60


BuildLearn = Callable[[Callable[[], None]], Learn]
"""Takes what is called between two steps, which may wait and may raise."""


def run_training_worker(
    settings: WorkerSettings,
    *,
    burst: bool = False,
    build_learn: BuildLearn | None = None,
    niceness: int = _NICENESS,
) -> None:
    """Serve the training queue until told to stop (or, with ``burst``, until it is empty).

    Args:
        settings: of the worker.
        burst: stop when the queue is empty.
        build_learn: builds what trains and compares; by default CRIS.
        niceness: added to that of the process, which cannot take it back.

    Raises:
        QueueUnavailable: Redis cannot be reached at start.
    """
    connection = connect(settings)
    name, state = name_worker(), WorkerState()
    os.nice(niceness)
    learn = (build_learn or partial(LearnCris, settings))(partial(pause, connection, state))
    heartbeat = Heartbeat(connection, name, settings, state)
    handler = state.handler = TrainingHandler(settings, connection, learn)
    heartbeat.start()
    try:
        resume_abandoned(connection)
        log.info("ready to train")
        serve(connection, name, state, handler, (QUEUE_TRAINING,), burst=burst)
    finally:
        heartbeat.stop()


def pause(connection: redis.Redis, state: WorkerState) -> None:
    """Between two steps: stop if told to, and let annotators have the processor.

    Raises:
        TrainingInterrupted: the worker was told to stop.
        TrainingStopped: somebody asked for the run to stop.
    """
    worker = state.rq_worker
    if worker is not None and worker._stop_requested:
        raise TrainingInterrupted
    try:
        requested, status = connection.mget(TRAINING_STOP_KEY, TRAINING_KEY)
        run = TrainingStatus.model_validate_json(status).run if requested and status else None
        if run is not None and requested.decode() == run:
            connection.delete(TRAINING_STOP_KEY)
            raise TrainingStopped("It was stopped.", f"Go on with it: saymask train --resume {run}")
        wait_while_answering(connection)
    except redis.RedisError as error:
        log.warning("the queue cannot be asked whether to go on: %s", error)


def resume_abandoned(connection: redis.Redis) -> list[str]:
    """Enqueue runs again whose worker was killed; returns their job ids.

    RQ itself would notice only after a job's longest time, which for training is days.
    """
    queue = Queue(QUEUE_TRAINING, connection=connection, serializer=JSONSerializer)
    registry = StartedJobRegistry(queue=queue)
    resumed = []
    # One worker at a time: the next one no longer finds what this one took up.
    with connection.lock(_RESUME_LOCK, timeout=_RESUME_LOCK_S, blocking_timeout=_RESUME_LOCK_S):
        for job_id in registry.get_job_ids():
            try:
                job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
            except NoSuchJobError:
                continue
            if not _is_gone(connection, job.worker_name):
                continue
            abandoned = job.get_executions()
            # In this order: killed between the two, it would be done twice rather than never.
            queue.enqueue_job(job)
            for execution in abandoned:
                registry.remove_execution(execution)
            log.warning("run of job %s goes on: its worker was killed", job_id)
            resumed.append(job_id)
    return resumed


def _is_gone(connection: redis.Redis, worker_name: str | None) -> bool:
    """Whether a worker sends no heartbeat any more; waits until its last one has run out."""
    if worker_name is None:
        return True
    until = time.monotonic() + HEARTBEAT_TTL_S + _POLL_S
    while time.monotonic() < until:
        if not connection.exists(WORKER_KEY.format(name=worker_name)):
            return True
        time.sleep(_POLL_S)
    return False
