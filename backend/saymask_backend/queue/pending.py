"""Which request waits for which job, and which request of a source is the newest."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field

import redis

from saymask.errors import CallAbandoned, JobSuperseded

_TTL_S = 600
_WAITERS_KEY = "saymask:waiters:{job}"


@dataclass(eq=False)
class Waiter:
    """One waiting request.

    Attributes:
        source: of the request, such as an editor entry; None if no newer request can replace it.
        background: whether it waits behind all interactive requests.
        deadline: of ``time.monotonic()``.
        disconnected: set when the caller has gone.
        superseded: set when a newer request of the source has come.
        replaces: the older request of the source, which waits until this one has its place.
        job_id: the job it waits for now, or empty.
        ticket: unique among the requests of all backends.
    """

    source: str | None
    background: bool
    deadline: float
    disconnected: threading.Event
    superseded: threading.Event = field(default_factory=threading.Event)
    replaces: Waiter | None = field(default=None, repr=False)
    job_id: str = ""
    ticket: str = field(default_factory=lambda: uuid.uuid4().hex)

    def check_wanted(self) -> None:
        """Check that the caller still waits and that no newer request of the source has come.

        Raises:
            JobSuperseded, CallAbandoned.
        """
        if self.disconnected.is_set():
            raise CallAbandoned("The caller closed the connection before there was an answer.")
        if self.superseded.is_set():
            raise JobSuperseded("A newer expression for this task replaced this one.")


class Waiters:
    """The waiting requests of this backend.

    Redis knows the waiters of each job, from all backends. Sources are known to one backend only,
    since two backends on one queue number their projects and tasks alike.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._newest: dict[str, Waiter] = {}
        self._lock = threading.Lock()

    def enter(self, waiter: Waiter) -> None:
        """Make a waiter the newest of its source."""
        if waiter.source is None:
            return
        with self._lock:
            waiter.replaces = self._newest.get(waiter.source)
            self._newest[waiter.source] = waiter
        if waiter.replaces is not None:
            waiter.replaces.superseded.set()

    def leave(self, waiter: Waiter) -> None:
        """Forget a waiter that has its answer or does not wait any more."""
        with self._lock:
            if waiter.source is not None and self._newest.get(waiter.source) is waiter:
                del self._newest[waiter.source]

    def wait_for(self, waiter: Waiter, job_id: str) -> None:
        """Note that a waiter waits for a job."""
        waiter.job_id = job_id
        key = _WAITERS_KEY.format(job=job_id)
        self._redis.sadd(key, waiter.ticket)
        self._redis.expire(key, _TTL_S)

    def stop_waiting(self, waiter: Waiter, job_id: str) -> bool:
        """Note that it does not any more; returns whether nobody waits for the job now."""
        key = _WAITERS_KEY.format(job=job_id)
        self._redis.srem(key, waiter.ticket)
        return not self._redis.scard(key)
