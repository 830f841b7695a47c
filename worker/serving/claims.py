"""One preparation of an image per machine: who comes second waits for the first one's result."""

from __future__ import annotations

import logging
import socket
import time

import redis

from saymask.contract import PREPARING_KEY, WORKER_KEY

log = logging.getLogger(__name__)

_POLL_S = 0.05
# For a claim whose owner can no longer be asked; longer than any preparation takes.
_TTL_S = 600
# Each in one step, so that of several workers that see the same claim only one gets it.
_TAKE_OVER = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end
"""


class PreparationClaims:
    """Which worker of this machine prepares which image, in Redis.

    Args:
        connection: of the queue's Redis.
        worker_name: of this process.
    """

    def __init__(self, connection: redis.Redis, worker_name: str) -> None:
        self._redis = connection
        self._name = worker_name

    def take(self, sha256: str) -> bool:
        """Claim an image; False while another live worker of this machine prepares it."""
        key = _key(sha256)
        if self._redis.set(key, self._name, nx=True, ex=_TTL_S):
            return True
        owner = self._redis.get(key)
        if owner is not None and owner.decode() == self._name:
            # Left over from when Redis went away: one job at a time is at work here.
            return True
        if owner is None or self._is_alive(owner.decode()):
            return False
        log.warning("worker %s ended while it prepared %s", owner.decode(), sha256[:12])
        return bool(self._redis.eval(_TAKE_OVER, 1, key, owner, self._name, _TTL_S))

    def release(self, sha256: str) -> None:
        """Give a claim up: the image is prepared, or cannot be."""
        self._redis.eval(_RELEASE, 1, _key(sha256), self._name)

    def wait_for_other(self, sha256: str) -> None:
        """Return as soon as no live worker prepares the image."""
        while True:
            owner = self._redis.get(_key(sha256))
            if owner is None or not self._is_alive(owner.decode()):
                return
            time.sleep(_POLL_S)

    def _is_alive(self, name: str) -> bool:
        return bool(self._redis.exists(WORKER_KEY.format(name=name)))


def _key(sha256: str) -> str:
    return PREPARING_KEY.format(host=socket.gethostname(), sha256=sha256)
