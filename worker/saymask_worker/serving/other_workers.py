"""What a worker knows of others: who answers an annotator, and which images ended some of them.

Two networks that compute at once on shared cores slow each other down many times over, and a low
process priority does not help: their threads wait for one another. So a worker that only prepares
images stops between two batches while another worker of its machine answers an annotator, unless
an annotator waits for the image that it prepares.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from rq import get_current_job

from saymask.contract import ANSWERING_KEY, ATTEMPTS_KEY, AWAITED_META, WORKER_KEY
from saymask.errors import WorkerEnded

_POLL_S = 0.05
_MAX_CRASHES = 2
_ATTEMPTS_TTL_S = 3600
# A worker that was killed while it answered blocks the others no longer than this.
_MAX_ANSWER_S = 120.0
_KEY = ANSWERING_KEY.format(host=socket.gethostname())


@contextmanager
def interactive_section(connection: redis.Redis, worker_name: str) -> Iterator[None]:
    """Have the background workers of this machine pause."""
    connection.zadd(_KEY, {worker_name: time.time() + _MAX_ANSWER_S})
    try:
        yield
    finally:
        connection.zrem(_KEY, worker_name)


def is_awaited() -> bool:
    """Return whether an annotator waits for the job that this thread does."""
    job = get_current_job()
    return job is not None and bool(job.get_meta(refresh=True).get(AWAITED_META))


def wait_for_interactive(connection: redis.Redis) -> None:
    """Return when no annotator is being answered on this machine, or one waits for this job."""
    while connection.zcount(_KEY, time.time(), "+inf") and not is_awaited():
        time.sleep(_POLL_S)


@contextmanager
def crash_guard(connection: redis.Redis, worker_name: str, sha256: str) -> Iterator[None]:
    """Record that this worker processes an image, until it is done, with or without success.

    A name whose worker has no heartbeat any more is left over from a crash.

    Raises:
        WorkerEnded: two workers crashed on the image within the last hour.
    """
    key = ATTEMPTS_KEY.format(sha256=sha256)
    others = {name.decode() for name in connection.hkeys(key)} - {worker_name}
    crashes = sum(not connection.exists(WORKER_KEY.format(name=name)) for name in others)
    if crashes >= _MAX_CRASHES:
        raise WorkerEnded(
            f"{crashes} workers ended while they worked on this photo; it is not tried again"
            " for an hour.",
            "Save the photo again in another format or smaller, or see the workers' logs.",
        )
    connection.hset(key, worker_name, "")
    connection.expire(key, _ATTEMPTS_TTL_S)
    try:
        yield
    finally:
        # Not reached when the process is killed, which is what is counted.
        connection.hdel(key, worker_name)
