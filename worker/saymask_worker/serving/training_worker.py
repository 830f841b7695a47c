"""A worker of the training queue: it holds no models while it waits, and has a low priority."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial

import redis

from saymask.contract import QUEUE_TRAINING
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.serving.heartbeat import Heartbeat
from saymask_worker.serving.main import connect, name_worker, serve
from saymask_worker.serving.priority import wait_for_interactive
from saymask_worker.serving.rq_worker import RunningWorker
from saymask_worker.serving.training_jobs import (
    Learn,
    LearnCris,
    TrainingHandler,
    TrainingInterrupted,
    TrainingStopped,
)

log = logging.getLogger(__name__)

_NICENESS = 15

BuildLearn = Callable[[Callable[[], None]], Learn]
"""Takes what is called between two steps, which may wait and may raise."""


def run_training_worker(
    settings: WorkerSettings,
    *,
    burst: bool = False,
    build_learn: BuildLearn | None = None,
    niceness: int = _NICENESS,
) -> None:
    """Serve the training queue until a signal stops it (or, with ``burst``, until it is empty).

    Raises:
        QueueUnavailable: Redis cannot be reached at start.
    """
    connection = connect(settings)
    running = RunningWorker(name_worker(), is_ready=True)
    os.nice(niceness)
    learn = (build_learn or partial(LearnCris, settings))(partial(pause, connection, running))
    functions = TrainingHandler(settings, learn).functions
    heartbeat = Heartbeat(connection, settings, running)
    heartbeat.start()
    try:
        log.info("ready to train")
        serve(connection, running, functions, (QUEUE_TRAINING,), burst=burst)
    finally:
        heartbeat.stop()


def pause(connection: redis.Redis, running: RunningWorker) -> None:
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
