"""The jobs of the queues: each exists once, as urgent as its most urgent request."""

from __future__ import annotations

import logging
import time

import redis
from pydantic import ValidationError
from rq import Queue, Retry
from rq.exceptions import InvalidJobOperation
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from saymask.contract import (
    AWAITED_META,
    CALL_META,
    JOB_PREPARE,
    JOB_PROPOSE,
    QUEUE_BACKGROUND,
    QUEUE_INTERACTIVE,
    QUEUE_PREPARED,
    REPLACE_KEY,
    REPLACE_S,
    JobReply,
    PrepareRequest,
    ProposeRequest,
    RefineRequest,
    SegmentRequest,
)
from saymask.errors import (
    DeadlineExceeded,
    InternalError,
    QueueUnavailable,
    WorkerEnded,
    WorkerUnavailable,
    from_code,
)
from saymask.logs import call_id
from saymask_backend.queue.pending import PendingRequest, PendingRequests
from saymask_backend.queue.state import QueueState

log = logging.getLogger(__name__)

Request = SegmentRequest | RefineRequest | PrepareRequest | ProposeRequest

RESULT_TTL_S = 600
# How long an image counts as prepared; after that, a worker's cache is asked again.
PREPARED_TTL_S = 1800
_JOB_TIMEOUT_S = 300
# A preparation pauses whenever an annotator on its machine is answered, and the pauses count.
_PAUSING_JOB_TIMEOUT_S = 3600
_PAUSING_JOBS = (JOB_PREPARE, JOB_PROPOSE)
_POLL_S = 1.0
# How long no worker may be seen before an annotator's request gives up.
_NO_WORKER_GRACE_S = 12.0
# A restart of the queue takes less; a queue that hangs is reported after its own timeout.
_AWAY_GRACE_S = 10.0
_AWAY_POLL_S = 0.25
# A worker pops a job some milliseconds before it marks it as started, and a queue that was stopped
# needs that long to receive a heartbeat of every worker.
_LOST_GRACE_S = 2.0
_LOST_POLL_S = 0.05
_ATTEMPTS = 3

WORKER_CURE = "Start one: saymask-worker run. What you typed is stored; type it again then."


class QueueJobs(QueueState):
    """Enqueues jobs, waits for them, and enqueues again what was lost with a worker.

    Args:
        connection: of the queue's Redis.
        background_grace_s: how long no background worker may be seen before a request behind all
            others gives up.
    """

    def __init__(self, connection: redis.Redis, background_grace_s: float) -> None:
        super().__init__(connection)
        self.background_grace_s = background_grace_s
        self._pending = PendingRequests(connection)
        # The most urgent first, as workers take them.
        self._queues = tuple(
            Queue(name, connection=connection, serializer=JSONSerializer)
            for name in (QUEUE_PREPARED, QUEUE_INTERACTIVE, QUEUE_BACKGROUND)
        )

    def _ask(
        self, queue_name: str, name: str, job_id: str, request: Request, pending: PendingRequest
    ) -> JobReply:
        """Enqueue a job and wait for its reply; a job that was lost is enqueued again.

        Raises:
            WorkerUnavailable, WorkerEnded, DeadlineExceeded, JobSuperseded, CallAbandoned, and
            whatever the worker reported.
        """
        self._pending.wait_for(pending, job_id)
        older, pending.replaces = pending.replaces, None
        if older is not None and older.job_id:
            # Now and not before: where both ask the same, the job keeps its place.
            self._stop_waiting(older, older.job_id)
        reply, is_reachable = None, True
        try:
            for _ in range(_ATTEMPTS):
                self._ensure_job(queue_name, name, job_id, request)
                reply = self._wait(job_id, pending)
                if reply is not None:
                    return raise_failure(reply)
                log.warning("job %s was lost with its worker, enqueuing it again", job_id)
        except (redis.exceptions.RedisError, QueueUnavailable):
            is_reachable = False
            raise
        finally:
            if is_reachable:
                self._stop_waiting(pending, job_id, is_answered=reply is not None)
        raise WorkerEnded(
            f"{_ATTEMPTS} workers ended while they worked on this photo.",
            "See the workers' logs; save the photo again in another format or smaller.",
        )

    def _stop_waiting(
        self, pending: PendingRequest, job_id: str, *, is_answered: bool = False
    ) -> None:
        """Stop waiting for a job; one without other pending requests is withdrawn."""
        if self._pending.stop_waiting(pending, job_id) and not is_answered:
            self._withdraw(job_id)

    def _withdraw(self, job_id: str) -> None:
        """Cancel a job that has not started; a preparation moves behind all others."""
        job = self._fetch(job_id)
        if job is None or job.get_status(refresh=False) != JobStatus.QUEUED:
            return
        if job.func_name == JOB_PREPARE:
            self._move(job, QUEUE_BACKGROUND)
            return
        try:
            job.cancel()
        except InvalidJobOperation:
            log.info("job %s started before it could be withdrawn", job_id)

    def _ensure_job(self, queue_name: str, name: str, job_id: str, request: Request) -> None:
        """Ensure that there is a job with this id: one that waits, runs or ran, else a new one.

        A job that waits in a less urgent queue moves. RQ's unique jobs refuse a second job of an
        id, but do not replace a lost one atomically; hence the lock.
        """
        with self._lock(job_id):
            job = self._fetch(job_id)
            if job is not None and self._is_usable(job):
                self._hasten(job, queue_name)
                return
            if job is not None:
                self._delete(job)
            is_awaited = queue_name != QUEUE_BACKGROUND
            self._open(queue_name).enqueue_call(
                name,
                args=(request.model_dump(mode="json"),),
                job_id=job_id,
                timeout=_PAUSING_JOB_TIMEOUT_S if name in _PAUSING_JOBS else _JOB_TIMEOUT_S,
                result_ttl=PREPARED_TTL_S if name == JOB_PREPARE else RESULT_TTL_S,
                failure_ttl=RESULT_TTL_S,
                # What a worker reports is a reply; only what is the queue's own fault is retried.
                retry=Retry(max=_ATTEMPTS - 1),
                meta={CALL_META: call_id.get()} | ({AWAITED_META: True} if is_awaited else {}),
            )

    def _lock(self, job_id: str) -> redis.lock.Lock:
        """Only one backend at a time replaces a job; raises LockError where that takes too long."""
        key = REPLACE_KEY.format(job=job_id)
        return self._redis.lock(key, timeout=REPLACE_S, blocking_timeout=REPLACE_S)

    def _forget_finished(self, job_id: str) -> None:
        """Delete a finished job whose result is no longer valid."""
        with self._lock(job_id):
            job = self._fetch(job_id)
            if job is not None and is_finished(job):
                self._delete(job)

    def _hasten(self, job: Job, queue_name: str) -> None:
        """Raise a job to the priority of a request that waits for it now."""
        if queue_name == QUEUE_BACKGROUND or job.get_status(refresh=False) not in (
            JobStatus.QUEUED,
            JobStatus.STARTED,
        ):
            return
        if not job.meta.get(AWAITED_META):
            # A worker that has begun it stops pausing.
            job.meta[AWAITED_META] = True
            job.save_meta()
        names = [queue.name for queue in self._queues]
        if names.index(queue_name) < names.index(job.origin):
            self._move(job, queue_name)

    def _move(self, job: Job, queue_name: str) -> None:
        """Move a waiting job to the end of another queue, unless a worker has just taken it."""
        if job.origin != queue_name and self._redis.lrem(self._open(job.origin).key, 1, job.id):
            self._open(queue_name).enqueue_job(job)

    def _open(self, name: str) -> Queue:
        return next(queue for queue in self._queues if queue.name == name)

    def _delete(self, job: Job) -> None:
        """Delete a job with its executions.

        RQ's own way fails once the record of an execution has expired before its registry.
        """
        for execution_id in job.execution_registry.get_execution_ids():
            Execution(execution_id, job.id, self._redis).delete(job=job, pipeline=self._redis)
        job.delete()

    def _is_usable(self, job: Job) -> bool:
        if is_finished(job):
            return self._read_current(job) is not None
        status = job.get_status(refresh=False)
        return status in (JobStatus.QUEUED, JobStatus.STARTED) and self._is_pending(job.id)

    def _read_current(self, job: Job) -> JobReply | None:
        """The success of a finished job; a preparation by another model version is none."""
        reply = read_success(job)
        if reply is None or reply.prepare is None:
            return reply
        return reply if reply.prepare.model_version == self.get_model_version() else None

    def _wait(self, job_id: str, pending: PendingRequest) -> JobReply | None:
        """Return the reply, or None when the job was lost with its worker."""
        grace_s = self.background_grace_s if pending.background else _NO_WORKER_GRACE_S
        last_worker_at = last_contact_at = time.monotonic()
        while time.monotonic() < pending.deadline:
            pending.check_wanted()
            try:
                reply = self._await_result(job_id, pending)
                if reply is not None:
                    return reply
                if not self._is_pending(job_id):
                    return None
                has_worker = any(
                    worker.serves(background=pending.background) for worker in self._read_workers()
                )
            except redis.exceptions.ConnectionError:
                if time.monotonic() - last_contact_at > _AWAY_GRACE_S:
                    raise
                time.sleep(_AWAY_POLL_S)
                continue
            last_contact_at = time.monotonic()
            if has_worker:
                last_worker_at = time.monotonic()
            elif time.monotonic() - last_worker_at > grace_s:
                raise WorkerUnavailable("No worker is running.", WORKER_CURE)
        raise DeadlineExceeded(
            "No answer in time; the workers are busy, or the photo is still being worked on.",
            "Type the expression again in a while: what was begun is not lost.",
        )

    def _await_result(self, job_id: str, pending: PendingRequest) -> JobReply | None:
        """Wait a moment for a job's result; None while there is none."""
        job = Job(job_id, connection=self._redis, serializer=JSONSerializer)
        left_s = max(pending.deadline - time.monotonic(), 0.05)
        timeout_s = max(1, round(min(_POLL_S, left_s)))
        result = Result.fetch_latest(job, serializer=JSONSerializer, timeout=timeout_s)
        return None if result is None else read_reply(result)

    def _is_pending(self, job_id: str) -> bool:
        """Whether a live worker has the job or will take it, or has done it."""
        until = time.monotonic() + _LOST_GRACE_S
        while True:
            job = self._fetch(job_id)
            status = None if job is None else job.get_status(refresh=False)
            if job is not None and status == JobStatus.STARTED:
                is_held = any(w.name == job.worker_name for w in self._read_workers())
            elif job is not None and status == JobStatus.QUEUED:
                is_held = job.get_position() is not None
            else:
                return status in (JobStatus.FINISHED, JobStatus.FAILED)
            if is_held:
                return True
            if time.monotonic() > until:
                return False
            time.sleep(_LOST_POLL_S)


def is_finished(job: Job) -> bool:
    """Return whether a job had finished when it was fetched."""
    return job.get_status(refresh=False) == JobStatus.FINISHED


def read_success(job: Job) -> JobReply | None:
    """Return the reply of a finished job if it can be shared.

    A failure is worth another try: the image may have arrived, the bug been fixed.
    """
    result = job.latest_result()
    try:
        reply = read_reply(result) if result is not None else None
    except InternalError as error:
        log.info("the result of job %s cannot be used: %s", job.id, error)
        return None
    return reply if reply is not None and reply.failure is None else None


def raise_failure(reply: JobReply) -> JobReply:
    """Return a reply, or raise the failure that it carries."""
    if reply.failure is not None:
        raise from_code(reply.failure.code, reply.failure.cause, reply.failure.cure)
    return reply


def read_reply(result: Result) -> JobReply:
    """Read what a job returned.

    Raises:
        InternalError: the job ended in an exception, or its reply has an unknown shape.
    """
    if result.type == Result.Type.SUCCESSFUL:
        try:
            return JobReply.model_validate(result.return_value)
        except ValidationError as error:
            raise InternalError(
                "The worker's reply has an unknown shape.",
                "Backend and worker must be of the same saymask version.",
            ) from error
    trace = (result.exc_string or "no trace").strip()
    log.error("worker failed:\n%s", trace)
    raise InternalError(f"The worker failed: {trace.splitlines()[-1]}", "See the worker's log.")
