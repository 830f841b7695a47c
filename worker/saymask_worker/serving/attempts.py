"""Images whose jobs end the worker: remembered, so that one of them does not end all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from saymask.contract import ATTEMPTS_KEY, WORKER_KEY
from saymask.errors import WorkerEnded

log = logging.getLogger(__name__)

MAX_ENDED_WORKERS = 2
_TTL_S = 3600


class Attempts:
    """Which workers are at work on an image, in Redis.

    A worker writes its name before it begins and removes it when it is done, with or without
    success. A name that stays while its worker has no heartbeat is that of a worker which ended
    over this image.

    Args:
        connection: of the queue's Redis.
        worker_name: of this process.
    """

    def __init__(self, connection: redis.Redis, worker_name: str) -> None:
        self._redis = connection
        self._name = worker_name

    @contextmanager
    def count(self, sha256: str) -> Iterator[None]:
        """Mark the image as being worked on.

        Raises:
            WorkerEnded: two workers ended over it within the last hour.
        """
        key = ATTEMPTS_KEY.format(sha256=sha256)
        ended = self._count_ended(key)
        if ended >= MAX_ENDED_WORKERS:
            raise WorkerEnded(
                f"{ended} workers ended while they worked on this photo; it is given up for an"
                " hour.",
                "Save the photo again in another format or smaller, or see the workers' logs.",
            )
        self._redis.hset(key, self._name, "")
        self._redis.expire(key, _TTL_S)
        try:
            yield
        finally:
            # Not when the process is killed: that is what is counted.
            self._redis.hdel(key, self._name)

    def _count_ended(self, key: str) -> int:
        names = [name.decode() for name in self._redis.hkeys(key)]
        others = [name for name in names if name != self._name]
        return sum(not self._redis.exists(WORKER_KEY.format(name=name)) for name in others)
