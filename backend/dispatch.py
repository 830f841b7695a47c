"""The door to the workers: RQ over Redis, JSON on the wire. The only file that imports rq."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis
from pydantic import ValidationError
from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from backend.contract import (
    JOB_PREPARE,
    JOB_REFINE,
    JOB_SEGMENT,
    PHOTO_KEY,
    PREPARED_KEY,
    QUEUE_BACKGROUND,
    QUEUE_INTERACTIVE,
    WORKER_KEY_PATTERN,
    JobReply,
    PrepareRequest,
    RefineRequest,
    SegmentRequest,
    SegmentResult,
    WorkerStatus,
    build_job_id,
)
from backend.errors import (
    ConfigError,
    DeadlineExceeded,
    InternalError,
    JobSuperseded,
    QueueUnavailable,
    WorkerUnavailable,
    from_code,
)

log = logging.getLogger(__name__)

PHOTO_TTL_S = 1800
RESULT_TTL_S = 600
_TICK_S = 1.0
_WORKER_GRACE_S = 12.0
_TAKING_S = 2.0
_ATTEMPTS = 3
_LAST_VERSION_KEY = "saymask:last-model-version"
_NEWEST_KEY = "saymask:newest:{task}"
_WAITERS_KEY = "saymask:waiters:{job}"
_ENQUEUE_KEY = "saymask:enqueue:{job}"

_REDIS_CURE = "Start Redis or Valkey, or correct SAYMASK_REDIS_URL."
_WORKER_CURE = "Start one: saymask-worker run. What you typed is stored; type it again then."


@dataclass(frozen=True)
class PrepareCounts:
    """Photos prepared ahead since the queue was made; ``last_failure`` says why one was not."""

    prepared: int = 0
    failed: int = 0
    last_failure: str = ""


class Dispatcher:
    """Sends jobs to the workers and waits for their replies.

    Args:
        redis_url: where the queue lives. Nothing is connected before the first call.
        deadline_s: longest wait for one reply.
        connections: upper limit; each waiting request needs one.
    """

    def __init__(self, redis_url: str, deadline_s: float, connections: int = 64) -> None:
        try:
            self._redis = redis.Redis.from_url(
                redis_url,
                socket_connect_timeout=2,
                socket_timeout=15,
                health_check_interval=30,
                max_connections=connections,
            )
        except ValueError as error:
            raise ConfigError(
                f"The address of the queue is wrong: {error}.", _REDIS_CURE
            ) from error
        self._deadline_s = deadline_s
        self._interactive = self._queue(QUEUE_INTERACTIVE)
        self._background = self._queue(QUEUE_BACKGROUND)

    def _queue(self, name: str) -> Queue:
        return Queue(name, connection=self._redis, serializer=JSONSerializer)

    def close(self) -> None:
        self._redis.close()

    def has_photo(self, sha256: str) -> bool:
        """Whether the workers can read the photo; keeps it for another while."""
        with _redis_errors():
            return bool(self._redis.expire(PHOTO_KEY.format(sha256=sha256), PHOTO_TTL_S))

    def put_photo(self, sha256: str, data: bytes) -> None:
        """Lay the encoded photo where the workers find it."""
        with _redis_errors():
            self._redis.set(PHOTO_KEY.format(sha256=sha256), data, ex=PHOTO_TTL_S)

    def workers(self) -> list[WorkerStatus]:
        """Workers that gave a sign of life within the last seconds."""
        with _redis_errors():
            keys = list(self._redis.scan_iter(WORKER_KEY_PATTERN, count=100))
            values = self._redis.mget(keys) if keys else []
        found = [status for value in values if value and (status := _read_status(value))]
        return sorted(found, key=lambda worker: worker.name)

    def model_version(self) -> str:
        """Of a living worker, else the last one known, else a placeholder."""
        for worker in self.workers():
            if worker.model_version:
                with _redis_errors():
                    self._redis.set(_LAST_VERSION_KEY, worker.model_version)
                return worker.model_version
        with _redis_errors():
            last = self._redis.get(_LAST_VERSION_KEY)
        return last.decode() if last else "saymask-worker-never-seen"

    def queue_depths(self) -> dict[str, int]:
        """Waiting jobs per queue."""
        with _redis_errors():
            return {queue.name: queue.count for queue in (self._interactive, self._background)}

    def prepare(self, request: PrepareRequest) -> str:
        """Ask for a photo to be prepared when no one is waiting for anything; returns the job's
        id."""
        job_id = build_job_id("prepare", self.model_version(), request)
        with _redis_errors():
            self._ensure_job(self._background, JOB_PREPARE, job_id, request)
        return job_id

    def read_prepared(self, job_id: str) -> JobReply | None:
        """What became of a job of ``prepare``; None while it waits or runs.

        Raises:
            WorkerUnavailable: it was lost.
        """
        with _redis_errors():
            job = self._fetch(job_id)
            result = job.latest_result() if job is not None else None
            if result is not None:
                return _read_reply(result)
            if job is None or not self._is_usable(job):
                raise WorkerUnavailable(
                    "A worker was lost while it prepared a photo.", _WORKER_CURE
                )
        return None

    def has_worker(self, *, background: bool) -> bool:
        """Whether a worker takes jobs of that queue."""
        return any(worker.serves(background=background) for worker in self.workers())

    def prepare_counts(self) -> PrepareCounts:
        """How many photos were prepared ahead, and how many could not be."""
        with _redis_errors():
            found: dict[bytes, bytes] = self._redis.hgetall(PREPARED_KEY)
        return PrepareCounts(
            prepared=int(found.get(b"prepared", 0)),
            failed=int(found.get(b"failed", 0)),
            last_failure=found.get(b"last_failure", b"").decode(),
        )

    def count_unprepared(self, cause: str) -> None:
        """A photo that could not even be sent to a worker."""
        with _redis_errors():
            self._redis.hincrby(PREPARED_KEY, "failed", 1)
            self._redis.hset(PREPARED_KEY, "last_failure", cause)

    def segment(
        self,
        request: SegmentRequest | RefineRequest,
        task: str,
        started: float | None = None,
        *,
        deadline_s: float | None = None,
        background: bool = False,
    ) -> SegmentResult:
        """Segment, waiting for the result.

        Args:
            task: names the place that asks; a newer request from there replaces this one.
            started: ``time.monotonic()`` from which the deadline counts; now when not given.
            deadline_s: another deadline than usual.
            background: nobody looks at the screen; whoever does goes first.

        Raises:
            QueueUnavailable, WorkerUnavailable, DeadlineExceeded, JobSuperseded, and whatever
            the worker reported.
        """
        if deadline_s is None:
            deadline_s = self._deadline_s
        deadline = (started or time.monotonic()) + deadline_s
        queue = self._background if background else self._interactive
        kind, name = ("refine", JOB_REFINE) if isinstance(request, RefineRequest) else (
            "segment", JOB_SEGMENT)  # fmt: skip
        with _redis_errors():
            job_id = build_job_id(kind, self.model_version(), request)
            ticket = uuid.uuid4().hex
            self._announce(task, ticket, job_id)
            try:
                for _ in range(_ATTEMPTS):
                    job = self._ensure_job(queue, name, job_id, request)
                    reply = self._wait(job, task, ticket, deadline, background=background)
                    if reply is not None:
                        return self._unwrap(reply)
                    log.warning("job %s was lost with its worker, queueing it again", job_id)
            finally:
                self._redis.srem(_WAITERS_KEY.format(job=job_id), ticket)
        raise WorkerUnavailable(
            f"The worker was lost {_ATTEMPTS} times while working on this.", _WORKER_CURE
        )

    def _announce(self, task: str, ticket: str, job_id: str) -> None:
        """Become the newest request of the task; withdraw an older one still waiting."""
        key = _NEWEST_KEY.format(task=task)
        previous = self._redis.set(key, f"{ticket} {job_id}", get=True, ex=600)
        waiters = _WAITERS_KEY.format(job=job_id)
        self._redis.sadd(waiters, ticket)
        self._redis.expire(waiters, 600)
        if previous:
            old_ticket, old_job_id = previous.decode().split(" ")
            old_waiters = _WAITERS_KEY.format(job=old_job_id)
            self._redis.srem(old_waiters, old_ticket)
            if old_job_id != job_id and not self._redis.scard(old_waiters):
                self._withdraw(old_job_id)

    def _withdraw(self, job_id: str) -> None:
        job = self._fetch(job_id)
        if job is not None and job.get_status() == JobStatus.QUEUED:
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
        self,
        queue: Queue,
        name: str,
        job_id: str,
        request: SegmentRequest | RefineRequest | PrepareRequest,
    ) -> Job:
        """The job of this id: the one that runs or ran, else a new one. Atomic per id."""
        lock = self._redis.lock(_ENQUEUE_KEY.format(job=job_id), timeout=10, blocking_timeout=10)
        with lock:
            job = self._fetch(job_id)
            if job is not None and self._is_usable(job):
                return job
            if job is not None:
                # RQ leaves the results of a deleted job; the next one would find them.
                Result.delete_all(job)
                job.delete()
            return queue.enqueue_call(
                name,
                args=(request.model_dump(mode="json"),),
                job_id=job_id,
                timeout=300,
                result_ttl=RESULT_TTL_S,
                failure_ttl=RESULT_TTL_S,
            )

    def _is_usable(self, job: Job) -> bool:
        status = job.get_status()
        if status == JobStatus.FINISHED:
            result = job.latest_result()
            # A failure is worth another try: the photo may have come, the bug been fixed.
            try:
                return result is not None and _read_reply(result).failure is None
            except InternalError as error:
                log.info("result of job %s is of no use: %s", job.id, error)
                return False
        if status == JobStatus.STARTED:
            return self._is_alive(job.worker_name)
        return status == JobStatus.QUEUED and self._is_queued_or_taken(job)

    @staticmethod
    def _is_queued_or_taken(job: Job) -> bool:
        """False for a job popped by a worker that died before it began.

        A worker pops a job some milliseconds before it says so: until then the job is queued by
        name, but in no queue.
        """
        until = time.monotonic() + _TAKING_S
        while job.get_status(refresh=True) == JobStatus.QUEUED and job.get_position() is None:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def _is_alive(self, worker_name: str | None) -> bool:
        return any(worker.name == worker_name for worker in self.workers())

    def _wait(
        self, job: Job, task: str, ticket: str, deadline: float, *, background: bool
    ) -> JobReply | None:
        """The reply, or None when the worker died with the job in its hands."""
        last_seen_worker = time.monotonic()
        while time.monotonic() < deadline:
            left = max(deadline - time.monotonic(), 0.05)
            result = Result.fetch_latest(
                job, serializer=JSONSerializer, timeout=max(1, round(min(_TICK_S, left)))
            )
            if result is not None:
                return _read_reply(result)
            newest = self._redis.get(_NEWEST_KEY.format(task=task))
            if newest and not newest.decode().startswith(ticket):
                raise JobSuperseded("A newer expression for this task replaced this one.")
            status = job.get_status(refresh=True)
            if status == JobStatus.STARTED:
                job.refresh()
                if not self._is_alive(job.worker_name):
                    return None
            if status in (JobStatus.CANCELED, JobStatus.STOPPED, None):
                return None
            if status == JobStatus.QUEUED and not self._is_queued_or_taken(job):
                return None
            if any(worker.serves(background=background) for worker in self.workers()):
                last_seen_worker = time.monotonic()
            elif time.monotonic() - last_seen_worker > _WORKER_GRACE_S:
                raise WorkerUnavailable("No worker is running.", _WORKER_CURE)
        raise DeadlineExceeded(
            "No answer in time; the photo is still being worked on.",
            "Type the expression again in a while: the work is not lost.",
        )

    @staticmethod
    def _unwrap(reply: JobReply) -> SegmentResult:
        if reply.failure is not None:
            raise from_code(reply.failure.code, reply.failure.cause, reply.failure.cure)
        if reply.segment is None:
            raise InternalError("The worker's reply holds no segmentation.")
        return reply.segment


def _read_status(value: bytes) -> WorkerStatus | None:
    """A worker of another version says things we do not know; it is not one of ours."""
    try:
        return WorkerStatus.model_validate_json(value)
    except ValidationError as error:
        log.warning("ignoring a worker of another version: %s", error)
        return None


def _read_reply(result: Result) -> JobReply:
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


@contextmanager
def _redis_errors() -> Iterator[None]:
    """Every trouble with Redis, in words."""
    try:
        yield
    except redis.exceptions.LockError as error:
        raise QueueUnavailable("The queue is too busy to take the job.", "Try again.") from error
    except redis.exceptions.RedisError as error:
        raise QueueUnavailable(f"The queue cannot be reached: {error}.", _REDIS_CURE) from error
