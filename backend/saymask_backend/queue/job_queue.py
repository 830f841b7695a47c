"""The queue of photos and expressions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from saymask.contract import (
    IMAGE_KEY,
    JOB_PREPARE,
    JOB_PROPOSE,
    JOB_REFINE,
    JOB_SEGMENT,
    QUEUE_BACKGROUND,
    QUEUE_INTERACTIVE,
    QUEUE_PREPARED,
    JobReply,
    PrepareRequest,
    ProposeRequest,
    ProposeResult,
    RefineRequest,
    SegmentRequest,
    SegmentResult,
    build_job_id,
)
from saymask.errors import ConfigError, ImageNotPrepared, InternalError, JobLost, PreparedNotKept
from saymask_backend.config import DEFAULT_BACKGROUND_GRACE_S
from saymask_backend.queue.jobs import (
    WORKER_CURE,
    QueueJobs,
    is_finished,
    read_reply,
    read_success,
)
from saymask_backend.queue.pending import Call, PendingRequest
from saymask_backend.queue.state import redis_errors
from saymask_backend.queue.training import TrainingQueue

log = logging.getLogger(__name__)

IMAGE_TTL_S = 1800
_CONNECT_TIMEOUT_S = 2.0
_TIMEOUT_S = 8.0
# After a refused first look, a lost cache and one that workers do not share, the worker that is
# asked prepares the image itself.
_IMAGE_ATTEMPTS = 4


class JobQueue(QueueJobs):
    """Sends jobs to the workers and waits for their replies.

    Args:
        redis_url: nothing is connected before the first call.
        deadline_s: longest wait for one reply.
        connections: upper limit; each waiting request needs one.
        background_grace_s: see ``QueueJobs``; such a worker may have to be started first.
        timeout_s: longest wait for Redis itself.

    Raises:
        ConfigError: the address is malformed.
    """

    def __init__(
        self,
        redis_url: str,
        deadline_s: float,
        connections: int = 64,
        background_grace_s: float = DEFAULT_BACKGROUND_GRACE_S,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        try:
            connection = redis.Redis.from_url(
                redis_url,
                socket_connect_timeout=min(_CONNECT_TIMEOUT_S, timeout_s),
                socket_timeout=timeout_s,
                # A connection that was closed is opened again. What hangs is not asked twice.
                retry=Retry(NoBackoff(), 1, (redis.exceptions.ConnectionError,)),
                health_check_interval=30,
                max_connections=connections,
            )
        except ValueError as error:
            raise ConfigError(
                "The address of the queue is wrong (it is not shown).",
                "Write redis://:PASSWORD@HOST:PORT/0 into SAYMASK_REDIS_URL.",
            ) from error
        super().__init__(connection, background_grace_s)
        self._deadline_s = deadline_s
        self.training = TrainingQueue(self._redis)

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
            return {queue.name: queue.count for queue in self._queues}

    def get_ages_s(self) -> dict[str, float]:
        """Return how long the oldest job of each queue has waited, seconds; 0 for none."""
        ages = {}
        with redis_errors():
            for queue in self._queues:
                ids = queue.get_job_ids(0, 1)
                job = self._fetch(ids[0]) if ids else None
                since = job.enqueued_at if job is not None else None
                ages[queue.name] = (
                    max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0.0
                )
        return ages

    def prepare(self, request: PrepareRequest) -> str:
        """Enqueue the preparation of an image without waiting for it; returns the job id."""
        with redis_errors():
            job_id = _name_preparation(request)
            self._ensure_job(QUEUE_BACKGROUND, JOB_PREPARE, job_id, request)
        return job_id

    def hasten_preparation(self, sha256: str) -> bool:
        """Return whether an image is prepared; if not, prepare it as an annotator's request."""
        request = PrepareRequest(image_sha256=sha256)
        job_id = _name_preparation(request)
        with redis_errors():
            if self._is_prepared(job_id):
                return True
            self._ensure_job(QUEUE_INTERACTIVE, JOB_PREPARE, job_id, request)
        return False

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
            if not self._is_pending(job_id):
                raise JobLost("A worker was lost while it prepared a photo.", WORKER_CURE)
        return None

    def segment(
        self,
        request: SegmentRequest | RefineRequest,
        requester: str | None,
        call: Call,
        *,
        deadline_s: float | None = None,
        background: bool = False,
    ) -> SegmentResult:
        """Enqueue a request and wait for its result.

        Args:
            request: for a worker.
            requester: a newer request of the same requester to this backend replaces this one;
                None if nothing does.
            call: the deadline counts from its arrival; a job that no call waits for any more is
                withdrawn.
            deadline_s: another deadline than usual.
            background: behind all interactive requests.

        Raises:
            QueueUnavailable, WorkerUnavailable, WorkerEnded, DeadlineExceeded, JobSuperseded,
            CallAbandoned, and whatever the worker reported.
        """
        wait_s = self._deadline_s if deadline_s is None else deadline_s
        with self._waiting(requester, call, wait_s, background=background) as pending:
            version = self.get_model_version()
            if isinstance(request, SegmentRequest):
                reply = self._ask_about_image("segment", JOB_SEGMENT, request, version, pending)
            else:
                job_id = build_job_id("refine", version, request)
                reply = self._ask(_choose_slow(pending), JOB_REFINE, job_id, request, pending)
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
        with self._waiting(None, call, deadline_s, background=True) as pending:
            version = self.get_model_version()
            reply = self._ask_about_image("propose", JOB_PROPOSE, request, version, pending)
        if reply.propose is None:
            raise InternalError("The worker's reply holds no proposals.")
        return reply.propose

    @contextmanager
    def _waiting(
        self, requester: str | None, call: Call, wait_s: float, *, background: bool
    ) -> Iterator[PendingRequest]:
        """A pending request; it replaces the older one of its requester."""
        pending = PendingRequest(requester, background, call.arrived + wait_s, call.disconnected)
        self._pending.enter(pending)
        try:
            with redis_errors():
                yield pending
        finally:
            self._pending.leave(pending)

    def _ask_about_image(
        self,
        kind: str,
        name: str,
        request: SegmentRequest | ProposeRequest,
        version: str,
        pending: PendingRequest,
    ) -> JobReply:
        """Ask about a prepared image, or have it prepared first, at the request's priority.

        Where a first look is enough, the request does not wait for the preparation. A worker may
        not find an image that was prepared: its cache was lost, or another worker's cache has it.
        Then the image is prepared again, and in the end by the worker that is asked.
        """
        prepare = PrepareRequest(image_sha256=request.image_sha256)
        prepare_id = _name_preparation(prepare)
        takes_look = self._takes_look(request, version)
        for attempt in range(_IMAGE_ATTEMPTS):
            is_last = attempt == _IMAGE_ATTEMPTS - 1
            is_prepared = self._is_prepared(prepare_id)
            if not (is_prepared or takes_look or is_last):
                try:
                    self._ask(_choose_slow(pending), JOB_PREPARE, prepare_id, prepare, pending)
                    is_prepared = True
                except PreparedNotKept as error:
                    log.warning("%s The worker that is asked prepares it again.", error.cause)
                    is_last = True
            looks = takes_look and not is_prepared
            asked = _adapt(request, looks=looks, prepares=is_last)
            queue = QUEUE_PREPARED if is_prepared and not is_last else QUEUE_INTERACTIVE
            queue = QUEUE_BACKGROUND if pending.background else queue
            try:
                reply = self._ask(queue, name, build_job_id(kind, version, asked), asked, pending)
            except ImageNotPrepared as error:
                log.info("%s It is prepared again.", error.cause)
                self._forget_finished(prepare_id)
                takes_look = takes_look and not looks
                continue
            if looks:
                self._prepare_behind(prepare_id, prepare)
            return reply
        raise InternalError("A worker did not prepare the photo that it was asked about.")

    def _prepare_behind(self, job_id: str, request: PrepareRequest) -> None:
        """Have an image prepared after a first look at it; the answer does not depend on that."""
        try:
            self._ensure_job(QUEUE_BACKGROUND, JOB_PREPARE, job_id, request)
        except redis.exceptions.RedisError as error:
            # The next expression has it prepared.
            log.warning("image %s is not prepared: %s", request.image_sha256[:12], error)

    def _takes_look(self, request: SegmentRequest | ProposeRequest, version: str) -> bool:
        """Whether a first look is enough: it was not the answer to the same request before."""
        if not isinstance(request, SegmentRequest) or not request.accepts_first_look:
            return False
        job = self._fetch(build_job_id("segment", version, request))
        reply = read_success(job) if job is not None else None
        return not (reply is not None and reply.segment and reply.segment.is_first_look)

    def _is_prepared(self, job_id: str) -> bool:
        """Whether the job that prepares an image has done so, as far as RQ keeps its result."""
        job = self._fetch(job_id)
        return job is not None and is_finished(job) and self._read_current(job) is not None


def _name_preparation(request: PrepareRequest) -> str:
    """The id of the one job that prepares an image, whatever version of the models will do it."""
    return build_job_id("prepare", "", request)


def _choose_slow(pending: PendingRequest) -> str:
    """The queue of what takes seconds."""
    return QUEUE_BACKGROUND if pending.background else QUEUE_INTERACTIVE


def _adapt(
    request: SegmentRequest | ProposeRequest, *, looks: bool, prepares: bool
) -> SegmentRequest | ProposeRequest:
    changes = {"prepares": prepares}
    if isinstance(request, SegmentRequest):
        changes["accepts_first_look"] = looks
    return request.model_copy(update=changes)
