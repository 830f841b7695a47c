"""Getting images to the workers: fetched once, named by content, stored in Redis."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import CancelledError, Future

from cachetools import TTLCache

from saymask.errors import DeadlineExceeded, InternalError, SaymaskError
from saymask_backend.label_studio.images import ImageFetcher
from saymask_backend.label_studio.predict_request import PredictTask
from saymask_backend.queue.job_queue import JobQueue

_MAX_REFERENCES = 10_000
_REFERENCE_TTL_S = 600.0
_LONGEST_DOWNLOAD_S = 90.0


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
        self._downloads: dict[str, Future[str]] = {}

    def upload(self, task: PredictTask) -> str:
        """Upload the task's image unless the workers have it; returns its sha256.

        Raises:
            InvalidRequest: the task has a fault, for example no image.
            ImageError, LabelStudioError, ConfigError: the image cannot be fetched.
            QueueUnavailable: it cannot be stored.
        """
        if task.fault is not None:
            raise task.fault
        key = hashlib.sha256(task.image.encode()).hexdigest()
        sha256 = self._find_stored(key)
        if sha256 is not None:
            return sha256
        with self._lock:
            download = self._downloads.get(key)
            is_ours = download is None
            if download is None:
                download = self._downloads[key] = Future()
        if is_ours:
            self._download(task, key, download)
        try:
            return download.result(_LONGEST_DOWNLOAD_S)
        except TimeoutError as error:
            raise DeadlineExceeded("The photo is still being fetched.", "Try again.") from error
        except CancelledError as error:
            raise InternalError("The photo was not fetched.", "See the backend's log.") from error

    def _download(self, task: PredictTask, key: str, download: Future[str]) -> None:
        """Fetch and store the image; all waiting calls get the result or the same error."""
        try:
            data = self._fetcher.fetch(task.image, task.task_id)
            sha256 = hashlib.sha256(data).hexdigest()
            self._queue.put_image(sha256, data)
            with self._lock:
                self._hashes[key] = sha256
            download.set_result(sha256)
        except SaymaskError as error:
            # Raised again wherever the result is read.
            download.set_exception(error)
        finally:
            with self._lock:
                del self._downloads[key]
            # A bug is raised here; waiting calls get an error instead of waiting longer.
            download.cancel()

    def _find_stored(self, key: str) -> str | None:
        """The hash of an image that the workers have, or None."""
        with self._lock:
            sha256 = self._hashes.get(key)
        return sha256 if sha256 is not None and self._queue.has_image(sha256) else None
