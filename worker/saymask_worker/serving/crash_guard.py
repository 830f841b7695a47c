"""Stop retrying an image that has crashed two workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from saymask.contract import ATTEMPTS_KEY, WORKER_KEY
from saymask.errors import WorkerEnded

MAX_CRASHES = 2
_TTL_S = 3600


class CrashGuard:
    """Records in Redis which workers process an image.

    A worker adds its name when it begins and removes it when it is done, with or without success.
    A name whose worker has no heartbeat any more is left over from a crash.
    """

    def __init__(self, connection: redis.Redis, worker_name: str) -> None:
        self._redis = connection
        self._name = worker_name

    @contextmanager
    def track(self, sha256: str) -> Iterator[None]:
        """Record that this worker processes the image.

        Raises:
            WorkerEnded: two workers crashed on it within the last hour.
        """
        key = ATTEMPTS_KEY.format(sha256=sha256)
        crashes = self._count_crashes(key)
        if crashes >= MAX_CRASHES:
            raise WorkerEnded(
                f"{crashes} workers ended while they worked on this photo; it is not tried again"
                " for an hour.",
                "Save the photo again in another format or smaller, or see the workers' logs.",
            )
        self._redis.hset(key, self._name, "")
        self._redis.expire(key, _TTL_S)
        try:
            yield
        finally:
            # Not reached when the process is killed, which is what is counted.
            self._redis.hdel(key, self._name)

    def _count_crashes(self, key: str) -> int:
        names = {name.decode() for name in self._redis.hkeys(key)} - {self._name}
        return sum(not self._redis.exists(WORKER_KEY.format(name=name)) for name in names)
