"""Background workers pause while a worker of the same machine answers an annotator.

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

from saymask.contract import ANSWERING_KEY, AWAITED_META

_POLL_S = 0.05
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
