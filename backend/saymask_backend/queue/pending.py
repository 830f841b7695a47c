"""HTTP calls that wait for an answer, and the pending requests of each editor and each job."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field

import redis

from saymask.errors import CallAbandoned, JobSuperseded

# How long Redis keeps a request after its deadline, in case its backend ended without removing it.
_KEPT_S = 60.0
_PENDING_KEY = "saymask:pending:{job}"


def new_call_id() -> str:
    """Return an id that no other call has."""
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True)
class Call:
    """An HTTP call that waits for an answer.

    Attributes:
        id: names it in logs, from Label Studio's request to the worker's stages.
        arrived: ``time.monotonic()`` when it arrived; deadlines count from here.
        disconnected: set when the caller has closed the connection.
    """

    id: str = field(default_factory=new_call_id)
    arrived: float = field(default_factory=time.monotonic)
    disconnected: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class PendingRequest:
    """A request that waits for a job.

    Attributes:
        requester: such as an editor entry; None if no newer request can replace this one.
        background: whether it waits behind all interactive requests.
        deadline: of ``time.monotonic()``.
        disconnected: set when the caller has closed the connection.
        superseded: set when a newer request of the same requester has come.
        replaces: the older request of the requester, until this one has its place in the queue.
        job_id: the job it waits for now, or empty.
        request_token: unique among the requests of all backends.
    """

    requester: str | None
    background: bool
    deadline: float
    disconnected: threading.Event
    superseded: threading.Event = field(default_factory=threading.Event)
    replaces: PendingRequest | None = field(default=None, repr=False)
    job_id: str = ""
    request_token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def check_wanted(self) -> None:
        """Check that the caller still waits and that no newer request has come.

        Raises:
            JobSuperseded, CallAbandoned.
        """
        if self.disconnected.is_set():
            raise CallAbandoned("The caller closed the connection before there was an answer.")
        if self.superseded.is_set():
            raise JobSuperseded("A newer expression for this task replaced this one.")


class PendingRequests:
    """The pending requests of this backend.

    Redis has the pending requests of each job, from all backends. Requesters are known to one
    backend only, since two backends on one queue number their projects and tasks alike.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._newest: dict[str, PendingRequest] = {}
        self._lock = threading.Lock()

    def enter(self, pending: PendingRequest) -> None:
        """Make a request the newest of its requester."""
        if pending.requester is None:
            return
        with self._lock:
            pending.replaces = self._newest.get(pending.requester)
            self._newest[pending.requester] = pending
        if pending.replaces is not None:
            pending.replaces.superseded.set()

    def leave(self, pending: PendingRequest) -> None:
        """Forget a request that has its answer or does not wait any more."""
        with self._lock:
            if pending.requester is not None and self._newest.get(pending.requester) is pending:
                del self._newest[pending.requester]

    def wait_for(self, pending: PendingRequest, job_id: str) -> None:
        """Note that a request waits for a job, until the last deadline of all its requests."""
        pending.job_id = job_id
        key = _PENDING_KEY.format(job=job_id)
        ttl_s = round(pending.deadline - time.monotonic() + _KEPT_S)
        with self._redis.pipeline() as together:
            together.sadd(key, pending.request_token)
            # A shorter deadline of another request must not replace a longer one.
            together.expire(key, ttl_s, nx=True)
            together.expire(key, ttl_s, gt=True)
            together.execute()

    def stop_waiting(self, pending: PendingRequest, job_id: str) -> bool:
        """Note that a request does not wait any more; returns whether no other one does."""
        key = _PENDING_KEY.format(job=job_id)
        self._redis.srem(key, pending.request_token)
        return not self._redis.scard(key)
