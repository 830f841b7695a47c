"""RQ's worker and jobs, in the process that has the models; they survive a restart of the queue."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from rq import Queue, Retry, SimpleWorker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from saymask.contract import REPLACE_KEY, REPLACE_S, WORKER_KEY, JobFailure, JobReply
from saymask.errors import InvalidRequest, SaymaskError

if TYPE_CHECKING:
    from saymask_worker.serving.loaded_pipeline import LoadedPipeline

log = logging.getLogger(__name__)

# RQ waits for a job 15 s less than this, and for the queue itself 5 s less.
_WORKER_TTL_S = 20
_MAINTENANCE_S = 5
_RECONNECT_S = 1.0
# After this much work in a row for the most urgent queue, the next queue has a turn: an overload
# of quick jobs does not starve the others.
_LONGEST_ROW_S = 5.0

Message = dict[str, Any]
JobFunction = Callable[[Message], Message | Retry]
JobFunctions = Mapping[str, JobFunction]
"""Job name to the function that answers it."""


@dataclass
class RunningWorker:
    """What a worker process has so far.

    Attributes:
        name: no other worker has it.
        is_ready: whether it takes jobs; before, it loads its models.
        pipeline: its models; None in a training worker, which loads them for each job.
        jobs_done: number of jobs answered, failures included.
    """

    name: str
    is_ready: bool = False
    pipeline: LoadedPipeline[Any] | None = None
    rq_worker: ServingWorker | None = None
    jobs_done: int = 0


class ServingWorker(SimpleWorker):
    """Does one job after the other, and enqueues those again whose worker was lost."""

    max_connection_wait_time = _RECONNECT_S

    def __init__(
        self,
        queues: list[Queue],
        connection: redis.Redis,
        running: RunningWorker,
        job_class: type[Job],
    ) -> None:
        super().__init__(
            queues,
            connection=connection,
            name=running.name,
            job_class=job_class,
            serializer=JSONSerializer,
            worker_ttl=_WORKER_TTL_S,
            maintenance_interval=_MAINTENANCE_S,
        )
        self._running = running
        self._suspects: set[str] = set()
        self._row_s = 0.0
        running.rq_worker = self

    @property
    def is_told_to_end(self) -> bool:
        """Whether a signal has asked the process to end."""
        return self._shutdown_requested_date is not None

    @property
    def is_job_stopped(self) -> bool:
        """Whether the backend has asked the current job to stop."""
        return (
            self._stopped_job_id is not None and self._stopped_job_id == self.get_current_job_id()
        )

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Kill nothing: there is no other process, and a job can ask ``is_job_stopped``."""

    def register_birth(self) -> None:
        """Register; replace this worker's registration from before the queue went away."""
        self.connection.delete(self.key, self.executions_key)
        SimpleWorker.register_birth(self)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Do a job, and choose which queue is asked first for the next one."""
        started = time.monotonic()
        super().execute_job(job, queue)
        self._running.jobs_done += 1
        first, *rest = self.queues
        is_first = queue.name == first.name
        self._row_s = self._row_s + time.monotonic() - started if is_first else 0.0
        has_turn = rest and self._row_s >= _LONGEST_ROW_S
        self._ordered_queues = [rest[0], first, *rest[1:]] if has_turn else [first, *rest]

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """Keep the outcome of a job until the queue is there to take it."""
        while True:
            try:
                self.connection.ping()
                break
            except (redis.ConnectionError, redis.TimeoutError) as error:
                log.warning("job %s is done, but the queue is away: %s", job.id, error)
                time.sleep(_RECONNECT_S)
        super().handle_execution_ended(job, queue, heartbeat_ttl)

    def clean_registries(self) -> None:
        """Enqueue again what lost its worker, in addition to RQ's own maintenance.

        RQ itself notices only after a job's longest time, which for training is days.
        """
        SimpleWorker.clean_registries(self)
        seen: set[str] = set()
        for queue in self.queues:
            registry = queue.started_job_registry
            for job_id, execution_id in registry.get_job_and_execution_ids(cleanup=False):
                execution = Execution(execution_id, job_id, self.connection)
                if self._is_lost(execution):
                    seen.add(execution.composite_key)
                    # Twice in a row: a queue that was stopped has no heartbeats for a moment.
                    if execution.composite_key in self._suspects:
                        self._take_up(queue, execution)
        self._suspects = seen

    def _is_lost(self, execution: Execution) -> bool:
        try:
            execution.refresh()
        except ValueError:
            # Its record has expired.
            return True
        name = execution.worker_name
        return name == self.name or not self.connection.exists(WORKER_KEY.format(name=name))

    def _take_up(self, queue: Queue, execution: Execution) -> None:
        """Enqueue a job again whose execution was lost, unless another process does."""
        key = REPLACE_KEY.format(job=execution.job_id)
        lock = self.connection.lock(key, timeout=REPLACE_S, blocking=False)
        if not lock.acquire():
            return
        try:
            self._replace(queue, execution)
        finally:
            lock.release()

    def _replace(self, queue: Queue, execution: Execution) -> None:
        registry = queue.started_job_registry
        if self.connection.zscore(registry.key, execution.composite_key) is None:
            return
        try:
            job = self.job_class.fetch(execution.job_id, self.connection, self.serializer)
        except NoSuchJobError:
            registry.remove_execution(execution)
            return
        status = job.get_status()
        is_popped = status == JobStatus.QUEUED and job.get_position() is None
        if is_popped or status == JobStatus.STARTED:
            log.warning("job %s lost its worker and is enqueued again", job.id)
            # Before its execution is deleted: after a kill in between it is done twice, not never.
            queue.enqueue_job(job)
        execution.delete(job=job, pipeline=self.connection)


def build_job_class(functions: JobFunctions) -> type[Job]:
    """Return an RQ job class whose functions are looked up by name.

    Anybody with access to Redis can enqueue jobs. Nothing that a job names is ever imported: not
    its function, nor the callbacks that RQ would run after it.
    """

    class HandledJob(Job):
        """A job whose function is looked up by its name on the wire."""

        @property
        def func(self) -> JobFunction:
            """Return the function of this name; of an unknown name, a refusal."""
            return functions.get(str(self.func_name), _refuse)

        @property
        def success_callback(self) -> None:
            """There is none."""

        @property
        def failure_callback(self) -> None:
            """There is none."""

        @property
        def stopped_callback(self) -> None:
            """There is none."""

    return HandledJob


def _refuse(*_arguments: object, **_named: object) -> Message:
    log.error("a job with an unknown function was refused; check who has access to Redis")
    error = InvalidRequest(
        "A worker answers saymask's own jobs only.",
        "Protect Redis with a password, and let only backend and workers reach it.",
    )
    return JobReply(failure=to_failure(error)).model_dump(mode="json")


def to_failure(error: SaymaskError) -> JobFailure:
    """Return the part of a reply that carries an error to the backend."""
    return JobFailure(code=error.code, cause=error.cause, cure=error.cure)
