"""The queue of photos and expressions."""

from __future__ import annotations

import logging
import time
import uuid
from datetime import UTC, datetime

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from backend.call import Call
from backend.queue_replies import raise_failure, read_reply, read_success
from backend.queue_state import QueueState, redis_errors
from backend.training_queue import TrainingQueue
from backend.waiters import Waiter, Waiters
from saymask.contract import (
    CALL_META,
    IMAGE_KEY,
    JOB_PREPARE,
    JOB_PROPOSE,
    JOB_REFINE,
    JOB_SEGMENT,
    QUEUE_BACKGROUND,
    QUEUE_INTERACTIVE,
    QUICK_KEY,
    JobReply,
    PrepareRequest,
    ProposeRequest,
    ProposeResult,
    RefineRequest,
    SegmentRequest,
    SegmentResult,
    build_job_id,
)
from saymask.errors import (
    ConfigError,
    DeadlineExceeded,
    InternalError,
    JobLost,
    WorkerEnded,
    WorkerUnavailable,
)
from saymask.logs import call_id

log = logging.getLogger(__name__)

Request = SegmentRequest | RefineRequest | PrepareRequest | ProposeRequest

IMAGE_TTL_S = 1800
RESULT_TTL_S = 600
_JOB_TIMEOUT_S = 300
_POLL_S = 1.0
_CONNECT_TIMEOUT_S = 2.0
_TIMEOUT_S = 8.0
# How long no worker may be seen before a waiting request gives up.
NO_WORKER_GRACE_S = 12.0
# The same behind others: a background worker may have to be started first.
BACKGROUND_GRACE_S = 60.0
# A worker pops a job some milliseconds before it marks it as started.
_POPPED_GRACE_S = 2.0
_ATTEMPTS = 3
_ENQUEUE_KEY = "saymask:enqueue:{job}"

_WORKER_CURE = "Start one: saymask-worker run. What you typed is stored; type it again then."


class JobQueue(QueueState):
    """Sends jobs to the workers and waits for their replies.

    Args:
        redis_url: nothing is connected before the first call.
        deadline_s: longest wait for one reply.
        connections: upper limit; each waiting request needs one.
        no_worker_grace_s: how long no worker may be seen before a waiting request gives up.
        background_grace_s: the same for requests behind all others.
        timeout_s: longest wait for Redis itself.

    Raises:
        ConfigError: the address is malformed.
    """

    def __init__(
        self,
        redis_url: str,
        deadline_s: float,
        connections: int = 64,
        no_worker_grace_s: float = NO_WORKER_GRACE_S,
        background_grace_s: float = BACKGROUND_GRACE_S,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        try:
            connection = redis.Redis.from_url(
                redis_url,
                socket_connect_timeout=min(_CONNECT_TIMEOUT_S, timeout_s),
                socket_timeout=timeout_s,
                retry=Retry(NoBackoff(), 1),
                health_check_interval=30,
                max_connections=connections,
            )
        except ValueError as error:
            raise ConfigError(
                "The address of the queue is wrong (it is not shown).",
                "Write redis://:PASSWORD@HOST:PORT/0 into SAYMASK_REDIS_URL.",
            ) from error
        super().__init__(connection)
        self._deadline_s = deadline_s
        self._no_worker_grace_s = no_worker_grace_s
        self.background_grace_s = background_grace_s
        self._waiters = Waiters(self._redis)
        self._interactive = self._open(QUEUE_INTERACTIVE)
        self._background = self._open(QUEUE_BACKGROUND)
        self.training = TrainingQueue(self._redis)

    def _open(self, name: str) -> Queue:
        return Queue(name, connection=self._redis, serializer=JSONSerializer)

    def close(self) -> None:
        """Close all connections."""
        self._redis.close()

    def has_image(self, sha256: str) -> bool:
        """Return whether the workers can read the image; extends its time to live."""
        with redis_errors():
            return bool(self._redis.expire(IMAGE_KEY.format(sha256=sha256), IMAGE_TTL_S))

    def put_image(self, sha256: str, data: bytes) -> None:
        """Store an encoded image where the workers read it."""
        with redis_errors():
            self._redis.set(IMAGE_KEY.format(sha256=sha256), data, ex=IMAGE_TTL_S)

    def get_depths(self) -> dict[str, int]:
        """Return the number of waiting jobs per queue."""
        with redis_errors():
            return {queue.name: queue.count for queue in (self._interactive, self._background)}

    def get_ages_s(self) -> dict[str, float]:
        """Return how long the oldest job of each queue has waited, seconds; 0 for none."""
        ages = {}
        with redis_errors():
            for queue in (self._interactive, self._background):
                ids = queue.get_job_ids(0, 1)
                job = self._fetch(ids[0]) if ids else None
                since = job.enqueued_at if job is not None else None
                ages[queue.name] = (
                    max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0.0
                )
        return ages

    def prepare(self, request: PrepareRequest) -> str:
        """Enqueue the preparation of an image, for which nobody waits; returns the job id."""
        job_id = build_job_id("prepare", self.get_model_version(), request)
        with redis_errors():
            self._ensure_job(self._background, JOB_PREPARE, job_id, request)
        return job_id

    def read_prepared(self, job_id: str) -> JobReply | None:
        """Return the reply to a job of ``prepare``; None while it waits or runs.

        Raises:
            JobLost: it was lost with its worker.
        """
        with redis_errors():
            job = self._fetch(job_id)
            result = job.latest_result() if job is not None else None
            if result is not None:
                return read_reply(result)
            if job is None or not self._is_usable(job):
                raise JobLost("A worker was lost while it prepared a photo.", _WORKER_CURE)
        return None

    def segment(
        self,
        request: SegmentRequest | RefineRequest,
        source: str,
        call: Call,
        *,
        deadline_s: float | None = None,
        background: bool = False,
    ) -> SegmentResult:
        """Enqueue a request and wait for its result.

        Args:
            request: for a worker.
            source: names who asks; a newer request from the same source replaces this one.
            call: that waits; the deadline counts from its arrival, and a job that nobody waits
                for any more is withdrawn.
            deadline_s: another deadline than usual.
            background: behind all interactive requests.

        Raises:
            QueueUnavailable, WorkerUnavailable, WorkerEnded, DeadlineExceeded, JobSuperseded,
            CallAbandoned, and whatever the worker reported.
        """
        wait_s = self._deadline_s if deadline_s is None else deadline_s
        deadline = call.arrived + wait_s
        waiter = Waiter(source, uuid.uuid4().hex, background, deadline, call.abandoned)
        queue = self._background if background else self._interactive
        kind, name = "segment", JOB_SEGMENT
        if isinstance(request, RefineRequest):
            kind, name = "refine", JOB_REFINE
        with redis_errors():
            version = self.get_model_version()
            job_id = build_job_id(kind, version, request)
            if isinstance(request, SegmentRequest) and self._had_first_look(request, job_id):
                request = request.model_copy(update={"accepts_first_look": False})
                job_id = build_job_id(kind, version, request)
            overtakes = not background and self._is_quick(request)
            reply = self._ask(queue, name, job_id, request, waiter, overtakes=overtakes)
        if reply.segment is None:
            raise InternalError("The worker's reply holds no segmentation.")
        return reply.segment

    def propose(self, request: ProposeRequest, call: Call, deadline_s: float) -> ProposeResult:
        """Have expressions proposed for an image, behind all requests of annotators; wait for them.

        Args:
            request: for a worker.
            call: that waits.
            deadline_s: when to give up, seconds after the call's arrival.

        Raises:
            As ``segment``.
        """
        # Of this call alone: two tasks may have the same photo.
        source = f"propose:{call.id}"
        deadline = call.arrived + deadline_s
        waiter = Waiter(source, uuid.uuid4().hex, True, deadline, call.abandoned)
        with redis_errors():
            job_id = build_job_id("propose", self.get_model_version(), request)
            reply = self._ask(self._background, JOB_PROPOSE, job_id, request, waiter)
        if reply.propose is None:
            raise InternalError("The worker's reply holds no proposals.")
        return reply.propose

    def _ask(
        self,
        queue: Queue,
        name: str,
        job_id: str,
        request: Request,
        waiter: Waiter,
        *,
        overtakes: bool = False,
    ) -> JobReply:
        """Enqueue a job and wait for its reply; a job that was lost is enqueued again."""
        self._withdraw(self._waiters.add(waiter, job_id))
        reply, is_reachable = None, True
        try:
            for _ in range(_ATTEMPTS):
                job = self._ensure_job(queue, name, job_id, request, overtakes=overtakes)
                reply = self._wait(job, waiter)
                if reply is not None:
                    return raise_failure(reply)
                log.warning("job %s was lost with its worker, enqueuing it again", job_id)
        except redis.exceptions.RedisError:
            is_reachable = False
            raise
        finally:
            if is_reachable and self._waiters.remove(waiter, job_id) and reply is None:
                self._withdraw(job_id)
        raise WorkerEnded(
            f"{_ATTEMPTS} workers ended while they worked on this photo.",
            "See the workers' logs; save the photo again in another format or smaller.",
        )

    def _is_quick(self, request: SegmentRequest | RefineRequest) -> bool:
        """Whether a request takes milliseconds: nobody waits longer when it overtakes others."""
        key = QUICK_KEY.format(sha256=request.image_sha256)
        return isinstance(request, SegmentRequest) and bool(self._redis.exists(key))

    def _had_first_look(self, request: SegmentRequest, job_id: str) -> bool:
        """Whether a request was answered with a first look, so that who asks again wants more."""
        job = self._fetch(job_id) if request.accepts_first_look else None
        reply = read_success(job) if job is not None else None
        return reply is not None and reply.segment is not None and reply.segment.is_first_look

    def _withdraw(self, job_id: str | None) -> None:
        """Cancel a job for which nobody waits any more, unless it has started."""
        job = self._fetch(job_id) if job_id else None
        if job is not None and _find_status(job) == JobStatus.QUEUED:
            try:
                job.cancel()
            except InvalidJobOperation:
                log.info("job %s started before it could be withdrawn", job_id)

    def _fetch(self, job_id: str) -> Job | None:
        try:
            return Job.fetch(job_id, connection=self._redis, serializer=JSONSerializer)
        except NoSuchJobError:
            return None

    def _ensure_job(
        self, queue: Queue, name: str, job_id: str, request: Request, *, overtakes: bool = False
    ) -> Job:
        """Return the job of this id: the one that runs or ran, else a new one.

        RQ's unique jobs refuse a second job of an id, but do not replace a lost one atomically;
        hence the lock.
        """
        lock = self._redis.lock(_ENQUEUE_KEY.format(job=job_id), timeout=10, blocking_timeout=10)
        with lock:
            job = self._fetch(job_id)
            if job is not None and self._is_usable(job):
                return job
            if job is not None:
                # RQ keeps the results of a deleted job; the next one would read them.
                Result.delete_all(job)
                job.delete()
            return queue.enqueue_call(
                name,
                args=(request.model_dump(mode="json"),),
                job_id=job_id,
                timeout=_JOB_TIMEOUT_S,
                result_ttl=RESULT_TTL_S,
                failure_ttl=RESULT_TTL_S,
                at_front=overtakes,
                meta={CALL_META: call_id.get()},
            )

    def _is_usable(self, job: Job) -> bool:
        status = _find_status(job)
        if status == JobStatus.FINISHED:
            return read_success(job) is not None
        return status in (JobStatus.QUEUED, JobStatus.STARTED) and self._is_pending(job)

    def _is_alive(self, worker_name: str | None) -> bool:
        return any(worker.name == worker_name for worker in self.list_workers())

    def _wait(self, job: Job, waiter: Waiter) -> JobReply | None:
        """Return the reply, or None when the job was lost with its worker."""
        grace_s = self.background_grace_s if waiter.background else self._no_worker_grace_s
        last_worker_at = time.monotonic()
        while time.monotonic() < waiter.deadline:
            left_s = max(waiter.deadline - time.monotonic(), 0.05)
            timeout_s = max(1, round(min(_POLL_S, left_s)))
            result = Result.fetch_latest(job, serializer=JSONSerializer, timeout=timeout_s)
            if result is not None:
                return read_reply(result)
            self._waiters.check_wanted(waiter)
            if not self._is_pending(job):
                return None
            if self.has_worker(background=waiter.background):
                last_worker_at = time.monotonic()
            elif time.monotonic() - last_worker_at > grace_s:
                raise WorkerUnavailable("No worker is running.", _WORKER_CURE)
        raise DeadlineExceeded(
            "No answer in time; the workers are busy, or the photo is still being worked on.",
            "Type the expression again in a while: what was begun is not lost.",
        )

    def _is_pending(self, job: Job) -> bool:
        """Whether a live worker has the job or will take it."""
        status = _find_status(job)
        if status == JobStatus.STARTED:
            # The job may have been read before a worker wrote its name into it.
            current = self._fetch(job.id)
            return current is not None and self._is_alive(current.worker_name)
        if status == JobStatus.QUEUED:
            return _is_queued_or_popped(job)
        return status not in (JobStatus.CANCELED, JobStatus.STOPPED, None)


def _find_status(job: Job) -> JobStatus | None:
    """The status in Redis; None when the job is gone from its memory."""
    try:
        return job.get_status(refresh=True)
    except InvalidJobOperation:
        return None


def _is_queued_or_popped(job: Job) -> bool:
    """Whether a queued job is in its queue, or was popped a moment ago by a live worker."""
    until = time.monotonic() + _POPPED_GRACE_S
    while _find_status(job) == JobStatus.QUEUED and job.get_position() is None:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
