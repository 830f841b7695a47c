"""Getting images to the workers: fetched once, named by content, stored in Redis."""

from __future__ import annotations

import hashlib
import threading

from cachetools import TTLCache

from backend.label_studio.images import ImageFetcher
from backend.label_studio.predict_request import PredictTask
from backend.queue import JobQueue

_MAX_REFERENCES = 10_000
_REFERENCE_TTL_S = 600.0
_DOWNLOAD_LOCKS = 64


class ImageUploader:
    """Makes sure that the workers can read an image.

    A reference is remembered for ten minutes, so that a second expression on the same image
    costs no second download. Requests for one new image wait for one download.
    """

    def __init__(self, fetcher: ImageFetcher, queue: JobQueue) -> None:
        self._fetcher = fetcher
        self._queue = queue
        # Keyed by the reference's hash: it may be a whole image in a data: address.
        self._hashes: TTLCache[str, str] = TTLCache(_MAX_REFERENCES, _REFERENCE_TTL_S)
        self._lock = threading.Lock()
        # One lock per group of references; two images that share one only wait for each other.
        self._downloads = tuple(threading.Lock() for _ in range(_DOWNLOAD_LOCKS))

    def upload(self, task: PredictTask) -> str:
        """Upload the task's image unless the workers have it; returns its sha256.

        Raises:
            ImageError, LabelStudioError, ConfigError: the image cannot be fetched.
            QueueUnavailable: it cannot be stored.
        """
        key = hashlib.sha256(task.image.encode()).hexdigest()
        sha256 = self._find_stored(key)
        if sha256 is not None:
            return sha256
        with self._downloads[int(key[:8], 16) % _DOWNLOAD_LOCKS]:
            sha256 = self._find_stored(key)
            if sha256 is not None:
                return sha256
            data = self._fetcher.fetch(task.image, task.task_id)
            sha256 = hashlib.sha256(data).hexdigest()
            self._queue.put_image(sha256, data)
            with self._lock:
                self._hashes[key] = sha256
            return sha256

    def _find_stored(self, key: str) -> str | None:
        """The hash of an image that the workers have, or None."""
        with self._lock:
            sha256 = self._hashes.get(key)
        return sha256 if sha256 is not None and self._queue.has_image(sha256) else None
