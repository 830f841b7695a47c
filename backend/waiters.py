"""Which request waits for which job, and which request of a source is the newest."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import redis

from saymask.errors import CallAbandoned, JobSuperseded

_TTL_S = 600
_NEWEST_KEY = "saymask:newest:{source}"
_WAITERS_KEY = "saymask:waiters:{job}"


@dataclass(frozen=True)
class Waiter:
    """One waiting request.

    Attributes:
        source: names who asks.
        ticket: unique.
        background: whether it waits behind all interactive requests.
        deadline: of ``time.monotonic()``.
        abandoned: set when the caller has gone.
    """

    source: str
    ticket: str
    background: bool
    deadline: float
    abandoned: threading.Event


class Waiters:
    """The waiting requests of all backends, in Redis."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    def add(self, waiter: Waiter, job_id: str) -> str | None:
        """Make a waiter the newest of its source, and have it wait for a job.

        Returns:
            The job for which only an older request of the source waited, or None.
        """
        key = _NEWEST_KEY.format(source=waiter.source)
        previous = self._redis.set(key, f"{waiter.ticket} {job_id}", get=True, ex=_TTL_S)
        waiters = _WAITERS_KEY.format(job=job_id)
        self._redis.sadd(waiters, waiter.ticket)
        self._redis.expire(waiters, _TTL_S)
        if not previous:
            return None
        old_ticket, old_job_id = previous.decode().split(" ")
        old_waiters = _WAITERS_KEY.format(job=old_job_id)
        self._redis.srem(old_waiters, old_ticket)
        is_abandoned = old_job_id != job_id and not self._redis.scard(old_waiters)
        return str(old_job_id) if is_abandoned else None

    def remove(self, waiter: Waiter, job_id: str) -> bool:
        """Stop waiting for a job; returns whether nobody waits for it any more."""
        waiters = _WAITERS_KEY.format(job=job_id)
        self._redis.srem(waiters, waiter.ticket)
        return not self._redis.scard(waiters)

    def check_wanted(self, waiter: Waiter) -> None:
        """Check that the caller still waits and that no newer request of the source has come.

        Raises:
            JobSuperseded, CallAbandoned.
        """
        if waiter.abandoned.is_set():
            raise CallAbandoned("The caller closed the connection before there was an answer.")
        newest = self._redis.get(_NEWEST_KEY.format(source=waiter.source))
        if newest and not newest.decode().startswith(waiter.ticket):
            raise JobSuperseded("A newer expression for this task replaced this one.")
